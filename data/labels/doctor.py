"""What is wrong, or worth knowing, about a data set: every label line, every photo header; writes nothing.

The rows of the labels are judged in data/labels/index.py, once for training and for this; here splits are compared,
and the labels with the network's size and anchors. `python -m data.check` (data/check.py) prints what is found.
"""

import hashlib
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.data_yaml import DataSpec, is_there, label_paths, list_images
from data.images import FLOATS, ImageError, used_bits
from data.labels.index import LabelIndex, look_at_labels
from data.labels.read_files import cache_folder, in_threads, stamp
from data.labels.tool_faults import tool_faults
from data.photo_files import in_users_words
from data.pixel_limit import part_of_key
from utils.errors import UserError, printable
from utils.hardware import usable_cores
from utils.regular_file import read_regular

SCHEMA = 5
END = 4096  # bytes at the beginning and the end of a photo by which photos are compared first
ALL = 2**31  # as `decode`: all photos
# What each kind means, worst first: error (cannot be used), warning (probably not meant), note.
KINDS = {
    "malformed line": "error",
    "class id": "error",
    "key points or polygons": "error",
    "no label file": "error",
    "no usable label": "error",
    "annotations": "error",
    "out of range": "error",
    "unreadable photo": "error",
    "shared photo": "warning",
    "shared label": "warning",
    "no area": "warning",
    "duplicate": "warning",
    "slightly out of range": "warning",
    "missing label": "warning",
    "missing photo": "warning",
    "missing split": "warning",
    "class without labels": "warning",
    "class not in train": "warning",
    "anchors": "warning",
    "below 2 pixels": "note",
    "deep photo": "note",
    "rotated boxes": "note",
    "repeated photo": "note",
    "empty label file": "note",
    "tool": "note",
}


# Errors that cost a training or a measurement no more than the box or the photo: it stops at the others.
LEFT_OUT = ("out of range", "unreadable photo")
# What loads the truths of a split from its annotation file, or raises UserError (data/formats/coco_truths.py).
TruthsOf = Callable[[DataSpec, str, LabelIndex], object]


class Finding(NamedTuple):
    """One thing found: what kind, in which split, where, and details."""

    kind: str
    split: str
    where: str
    details: str = ""


@dataclass(frozen=True)
class Checkup:
    """All findings, and per split images, labels, class histogram and shares of side ratios."""

    findings: tuple[Finding, ...]
    splits: dict[str, dict[str, Any]]
    image_size: tuple[int, int]

    def counts(self) -> Counter[str]:
        """Count how often each kind was found."""
        return Counter(finding.kind for finding in self.findings)

    @property
    def errors(self) -> list[Finding]:
        """What training would refuse or leave out."""
        return [finding for finding in self.findings if KINDS[finding.kind] == "error"]


class Settings(NamedTuple):
    """What the data set is looked at for: (height, width) of the network input, anchors (K, 2), the largest ratio.

    There are no anchors where the model brings its own: then nothing is said about them. `bad_labels` is what is done
    about boxes beyond their photo: mend, clip or skip.
    """

    image_size: tuple[int, int]
    anchors: tuple[tuple[float, float], ...]
    anchor_t: float
    bad_labels: str = "mend"


class Split(NamedTuple):
    """A split's files, stamps (size, time) of its photos and labels, and label files that belong to no photo.

    A stamp is (-1, -1) where there is no file.
    """

    name: str
    images: list[Path]
    labels: list[Path]
    image_stamps: list[tuple[int, int]]
    label_stamps: list[tuple[int, int]]
    orphans: list[str]


def examine(
    spec: DataSpec,
    settings: Settings,
    cache_dir: Path | None = None,
    cached: bool = True,
    loaded: Mapping[str, LabelIndex] | None = None,
    decode: int = 0,
    truths_of: TruthsOf | None = None,
) -> Checkup:
    """Look at all splits; the result is kept until a file or a setting changes. UserError without any image.

    Splits that are `loaded` already are not read again; the others may hold anything. Up to `decode` photos of each
    split, spread over it, are decoded as training would. Annotation files are opened by `truths_of`, if it is given.
    """
    loaded = loaded or {}
    absent = [name for name in spec.splits if name == "test" and len(spec.splits) > 1 and not is_there(spec, name)]
    splits = [_open(spec, name) for name in spec.splits if name not in absent]
    policies = {name: index.report.policy for name, index in loaded.items()}
    opened = [(name, stamp(path)) for name, path in spec.annotations.items() if truths_of]
    key = _key(spec, settings, splits, policies, (decode, opened))
    folder = cache_folder(cache_dir)
    cache = folder / f"check-{hashlib.sha256(os.fsencode(spec.yaml)).hexdigest()[:24]}.json" if folder else None
    found = _load(cache, key) if cached else None
    if found is None:
        findings, facts = _examine_all(spec, settings, splits, loaded, truths_of)
        for split in splits if decode else ():
            facts[split.name]["decoded"] = _decode(split, decode, findings)
        for name in absent:
            details = "no such folder or list file; training needs none"
            findings.append(Finding("missing split", name, str(spec.splits[name][0]), details))
        findings = [each._replace(where=in_users_words(each.where)) for each in findings]
        findings = [each._replace(details=in_users_words(each.details)) for each in findings]
        named = str(spec.shown)
        findings += [Finding("tool", next(iter(spec.splits)), named, fault) for fault in tool_faults(spec.root)]
        order = {kind: place for place, kind in enumerate(KINDS)}
        findings.sort(key=lambda finding: order[finding.kind])
        found = Checkup(tuple(findings), facts, settings.image_size)
        _save(cache, key, found)
    return found


def _decode(split: Split, most: int, findings: list[Finding]) -> int:
    """Decode photos of a split, evenly spread; add those that cannot be decoded and deep ones, and count them all."""
    known = {finding.where for finding in findings if finding.kind == "unreadable photo"}
    rows = np.unique(np.linspace(0, len(split.images) - 1, min(most, len(split.images))).round().astype(int))
    chosen = [split.images[row] for row in rows.tolist() if str(split.images[row]) not in known]
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(_bits_or_reason, chosen))
    for image, bits in zip(chosen, found, strict=True):
        if isinstance(bits, str):
            findings.append(Finding("unreadable photo", split.name, str(image), bits))
        elif bits != 8:
            details = "floats" if bits == FLOATS else f"{bits} of its bits are used"
            findings.append(Finding("deep photo", split.name, str(image), f"{details}: scaled to 8"))
    return len(rows)


def _bits_or_reason(path: Path) -> int | str:
    try:
        return used_bits(path)
    except ImageError as error:
        return error.reason


def _open(spec: DataSpec, name: str) -> Split:
    images = list_images(spec, name)
    labels = label_paths(spec, images)
    return Split(name, images, labels, in_threads(stamp, images), in_threads(stamp, labels), _orphans(labels))


def _orphans(labels: list[Path]) -> list[str]:
    """List the label files beside a split's own that belong to no photo."""
    paths = list(map(os.fspath, labels))
    own, folders = set(paths), dict.fromkeys(map(os.path.dirname, paths))
    found = []
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                found += [entry.path for entry in entries if entry.name.endswith(".txt") and entry.path not in own]
        except OSError:
            continue
    return sorted(path for path in found if not path.endswith(os.sep + "classes.txt"))


def _examine_all(
    spec: DataSpec,
    settings: Settings,
    splits: Sequence[Split],
    loaded: Mapping[str, LabelIndex],
    truths_of: TruthsOf | None,
) -> tuple[list[Finding], dict[str, dict[str, Any]]]:
    findings: list[Finding] = []
    facts = {}
    claimed = {os.fspath(path) for split in splits for path in split.labels}
    for split in splits:
        findings += [Finding("missing photo", split.name, path) for path in split.orphans if path not in claimed]
        index = loaded.get(split.name)
        if index is None:
            index = look_at_labels(split.images, split.labels, spec.num_classes, spec.keypoints, settings.bad_labels)
        facts[split.name] = _examine_split(spec, settings, split, index, findings)
        if truths_of and split.name in spec.annotations and len(index):
            findings += _annotation_findings(spec, split.name, index, truths_of)
    findings += _shared(splits)
    findings += _class_findings(spec, facts)
    return findings, facts


def _examine_split(
    spec: DataSpec, settings: Settings, split: Split, index: LabelIndex, findings: list[Finding]
) -> dict[str, Any]:
    """Add what was found in a split's labels, and what the network's size and anchors tell; return its numbers."""
    for kind, where, details in index.report.findings:
        # A split that is measured against an annotation file needs no labels.
        if kind not in ("missing label", "no label file") or split.name not in spec.annotations:
            findings.append(Finding(kind, split.name, where, details))
    sides = _network_sides(index, settings)
    tiny = np.flatnonzero((sides < 2).any(axis=1)).tolist()
    label_of = dict(zip(map(os.path.abspath, split.images), split.labels, strict=True)) if tiny else {}
    photo = np.repeat(np.arange(len(index)), np.diff(index.starts))
    for row in tiny:
        where = f"{label_of[index.images[photo[row]]]}:{index.lines[row]}"
        details = f"{sides[row, 0]:.3g} x {sides[row, 1]:.3g} pixels of the network's input"
        findings.append(Finding("below 2 pixels", split.name, where, details))
    ratio = sides.max(1, initial=0) / np.maximum(sides.min(1, initial=np.inf), 1e-9)
    recall = _best_possible_recall(sides, settings)
    if recall is not None and recall < 0.98:
        details = f"only {recall:.1%} of the labels are within {settings.anchor_t:g} x of an anchor (--autoanchor)"
        findings.append(Finding("anchors", split.name, printable(spec.shown), details))
    per_class = np.bincount(index.labels, minlength=spec.num_classes).tolist()
    return {
        "images": len(split.images),
        "labels": len(index.labels),
        "per_class": dict(zip(spec.names, per_class, strict=True)),
        "side_ratio": {
            "below 2": int((ratio < 2).sum()),
            "2 to 4": int(((ratio >= 2) & (ratio < 4)).sum()),
            "from 4": int((ratio >= 4).sum()),
        },
        "best_possible_recall": None if recall is None else round(recall, 6),
    }


def _annotation_findings(spec: DataSpec, split: str, index: LabelIndex, truths_of: TruthsOf) -> list[Finding]:
    """Say why a split cannot be measured against its annotation file; nothing where it can."""
    path = spec.annotations[split]
    try:
        truths_of(spec, split, index)
    except UserError as error:
        return [Finding("annotations", split, str(path), str(error).removeprefix(f"{printable(path)}: "))]
    return []


def _network_sides(index: LabelIndex, settings: Settings) -> np.ndarray:
    """Compute width and height (M, 2) of the labels in pixels of the network input."""
    scale = (np.array(settings.image_size) / np.maximum(index.sizes, 1)).min(axis=1, initial=np.inf)
    boxes = index.boxes.astype(np.float64)
    return (boxes[:, 2:] - boxes[:, :2]) * np.repeat(scale, np.diff(index.starts))[:, None]


def _best_possible_recall(sides: np.ndarray, settings: Settings) -> float | None:
    """Return the share of labels (M, 2) whose sides are within the largest ratio of an anchor's.

    None without labels or anchors.
    """
    if not len(sides) or not settings.anchors:
        return None
    reached = np.zeros(len(sides), bool)
    for anchor in settings.anchors:
        with np.errstate(divide="ignore"):
            ratio = sides / np.array(anchor)
            reached |= np.maximum(ratio, 1 / ratio).max(axis=1, initial=0) < settings.anchor_t
    return float(reached.mean())


def _shared(splits: Sequence[Split]) -> list[Finding]:
    """Return photos of the same content: in two splits, which makes a validation worthless, or twice in one."""
    by_size = defaultdict(list)
    for number, split in enumerate(splits):
        for row, (size, _) in enumerate(split.image_stamps):
            if size > 0:
                by_size[size].append((number, row))
    groups = [group for group in by_size.values() if len(group) > 1]
    for digest in (_digest_of_ends, _digest_of_all):
        places = [place for group in groups for place in group]
        digests = dict(zip(places, in_threads(digest, [splits[n].images[row] for n, row in places]), strict=True))
        finer = defaultdict(list)
        for number, group in enumerate(groups):
            for place in group:
                if digests[place]:
                    finer[number, digests[place]].append(place)
        groups = [group for group in finer.values() if len(group) > 1]
    findings = []
    for group in groups:
        (first_split, first_row), *others = dict.fromkeys(group)
        first = splits[first_split].images[first_row]
        for number, row in others:
            kind = "repeated photo" if number == first_split else "shared photo"
            where = f"{splits[first_split].name}: {first}" if kind == "shared photo" else str(first)
            if kind == "repeated photo" and splits[number].images[row] == first:
                continue
            details = f"the same content as {where}"
            findings.append(Finding(kind, splits[number].name, str(splits[number].images[row]), details))
    return findings


def _digest_of_ends(path: Path) -> bytes:
    """Return a digest of the first and last bytes; empty for a file that cannot be read."""
    try:
        return hashlib.blake2b(read_regular(path, END), digest_size=16).digest()
    except OSError:
        return b""


def _digest_of_all(path: Path) -> bytes:
    try:
        return hashlib.blake2b(read_regular(path), digest_size=16).digest()
    except OSError:
        return b""


def _class_findings(spec: DataSpec, facts: dict[str, dict[str, Any]]) -> Iterable[Finding]:
    """Return classes without labels to learn from, and classes that are measured but never learnt."""
    for split, numbers in facts.items():
        for name, count in numbers["per_class"].items():
            learnt = facts.get("train", numbers)["per_class"][name]
            if split == "train" and not count:
                yield Finding("class without labels", split, name)
            elif split != "train" and count and not learnt:
                yield Finding("class not in train", split, name, f"{count} labels here")


def _key(
    spec: DataSpec,
    settings: Settings,
    splits: Sequence[Split],
    policies: dict[str, str],
    also: object,
) -> str:
    """Make a digest of all that the findings depend on, by the files' names, sizes and times."""
    # Boxes left out by another policy than the doctor's own count otherwise.
    other = sorted((name, policy) for name, policy in policies.items() if policy != "mend")
    orphans = {split.name: split.orphans for split in splits}
    choices = (part_of_key(), SCHEMA, spec.names, spec.annotations, spec.keypoints, settings, orphans, other, also)
    digest = hashlib.sha256(repr(choices).encode("utf-8", "replace"))
    for split in splits:
        digest.update(
            os.fsencode("\0".join([split.name, *map(os.fspath, split.images), *map(os.fspath, split.labels)]))
        )
        digest.update(np.array([*split.image_stamps, *split.label_stamps], np.int64).tobytes())
    return digest.hexdigest()


def _load(path: Path | None, key: str) -> Checkup | None:
    """Return the stored result if nothing has changed since."""
    try:
        stored = json.loads(path.read_bytes()) if path else None
        if not stored or stored["key"] != key:
            return None
        findings = tuple(Finding(*each) for each in stored["findings"])
        return Checkup(findings, stored["splits"], tuple(stored["image_size"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _save(path: Path | None, key: str, checkup: Checkup) -> None:
    """Store the result whole or not at all."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            temporary.write_text(json.dumps({"key": key, **asdict(checkup)}), "utf-8", "replace")
            temporary.replace(path)
    except OSError:
        return
