"""What is wrong, or worth knowing, about a data set: looks at every label line and photo header, writes nothing."""

import hashlib
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.data_yaml import DataSpec, label_paths, list_images
from data.labels.index import OVERSHOOT, ROUNDING, cache_folder, in_threads, read_text, repeats, size_or_reason
from data.labels.yolo_text import Rows, parse_labels
from utils.errors import UserError, printable

SCHEMA = 1
END = 4096  # bytes at the beginning and the end of a photo by which photos are compared first
RATIO_LIMITS = (2, 4)
# What each kind means, worst first: error (cannot be used), warning (probably not meant), note.
KINDS = {
    "malformed line": "error",
    "class id": "error",
    "out of range": "error",
    "unreadable photo": "error",
    "shared photo": "warning",
    "no area": "warning",
    "duplicate": "warning",
    "slightly out of range": "warning",
    "missing label": "warning",
    "missing photo": "warning",
    "class without labels": "warning",
    "class not in train": "warning",
    "anchors": "warning",
    "below 2 pixels": "note",
    "repeated photo": "note",
    "empty label file": "note",
}


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
        """How often each kind was found."""
        return Counter(finding.kind for finding in self.findings)

    @property
    def errors(self) -> list[Finding]:
        """What training would refuse or leave out."""
        return [finding for finding in self.findings if KINDS[finding.kind] == "error"]


class Settings(NamedTuple):
    """What the data set is looked at for: (height, width) of the network input, anchors (K, 2), the largest ratio."""

    image_size: tuple[int, int]
    anchors: tuple[tuple[float, float], ...]
    anchor_t: float


class Split(NamedTuple):
    """A split's files, and stamps (size, time) of its photos and labels; (-1, -1) where there is none."""

    name: str
    images: list[Path]
    labels: list[Path]
    image_stamps: list[tuple[int, int]]
    label_stamps: list[tuple[int, int]]


def examine(spec: DataSpec, settings: Settings, cache_dir: Path | None = None, cached: bool = True) -> Checkup:
    """Looks at all splits; the result is kept until a file or a setting changes. UserError without any image."""
    splits = [_open(spec, name) for name in spec.splits]
    orphans = {split.name: _orphans(split) for split in splits}
    key = _key(spec, settings, splits, orphans)
    folder = cache_folder(cache_dir)
    cache = folder / f"check-{hashlib.sha256(os.fsencode(spec.yaml)).hexdigest()[:24]}.json" if folder else None
    found = _load(cache, key) if cached else None
    if found is None:
        findings, facts = _examine_all(spec, settings, splits, orphans)
        order = {kind: place for place, kind in enumerate(KINDS)}
        findings.sort(key=lambda finding: order[finding.kind])
        found = Checkup(tuple(findings), facts, settings.image_size)
        _save(cache, key, found)
    return found


def _open(spec: DataSpec, name: str) -> Split:
    images = list_images(spec, name)
    labels = label_paths(spec, images)
    return Split(name, images, labels, in_threads(_stamp, images), in_threads(_stamp, labels))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def _orphans(split: Split) -> list[str]:
    """Label files beside the split's own that belong to no photo."""
    paths = list(map(os.fspath, split.labels))
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
    spec: DataSpec, settings: Settings, splits: Sequence[Split], orphans: dict[str, list[str]]
) -> tuple[list[Finding], dict[str, dict[str, Any]]]:
    findings: list[Finding] = []
    facts = {}
    claimed = {os.fspath(path) for split in splits for path in split.labels}
    for split in splits:
        findings += [Finding("missing photo", split.name, path) for path in orphans[split.name] if path not in claimed]
        facts[split.name] = _examine_split(spec, settings, split, findings)
    findings += _shared(splits)
    findings += _class_findings(spec, facts)
    return findings, facts


def _examine_split(spec: DataSpec, settings: Settings, split: Split, findings: list[Finding]) -> dict[str, Any]:
    """Adds what is wrong with a split's files and returns its numbers."""
    texts = in_threads(_text_or_none, split.labels)
    sizes = in_threads(size_or_reason, split.images)
    for image, label, size, text in zip(split.images, split.labels, sizes, texts, strict=True):
        if isinstance(size, str):
            findings.append(Finding("unreadable photo", split.name, str(image), size))
        elif text is None and split.name not in spec.annotations:
            findings.append(Finding("missing label", split.name, str(image), f"expected {label}"))
        elif text is not None and not text.strip():
            findings.append(Finding("empty label file", split.name, str(label)))
    wrong: list[tuple[int, int, str]] = []
    rows = parse_labels(texts, split.labels, wrong)
    findings += [Finding("malformed line", split.name, f"{split.labels[i]}:{line}", why) for i, line, why in wrong]
    heights_widths = np.array([(0, 0) if isinstance(size, str) else size for size in sizes], np.float64).reshape(-1, 2)
    usable = _examine_rows(spec, settings, split, rows, heights_widths, findings)
    labels, sides = rows.values[usable, 0].astype(int), _network_sides(rows, heights_widths, settings)[usable]
    ratio = sides.max(1, initial=0) / np.maximum(sides.min(1, initial=np.inf), 1e-9)
    recall = _best_possible_recall(sides, settings)
    if len(sides) and recall < 0.98:
        details = f"only {recall:.1%} of the labels are within {settings.anchor_t:g} x of an anchor (--autoanchor)"
        findings.append(Finding("anchors", split.name, printable(spec.yaml), details))
    return {
        "images": len(split.images),
        "labels": len(labels),
        "per_class": dict(zip(spec.names, np.bincount(labels, minlength=spec.num_classes).tolist(), strict=True)),
        "side_ratio": {
            "below 2": int((ratio < 2).sum()),
            "2 to 4": int(((ratio >= 2) & (ratio < 4)).sum()),
            "from 4": int((ratio >= 4).sum()),
        },
        "best_possible_recall": round(recall, 6) if len(sides) else None,
    }


def _examine_rows(
    spec: DataSpec, settings: Settings, split: Split, rows: Rows, sizes: np.ndarray, findings: list[Finding]
) -> np.ndarray:
    """Adds what is wrong with single labels and returns which (M,) of them can be used."""
    ids, centre, side = rows.values[:, 0], rows.values[:, 1:3], rows.values[:, 3:5]
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
        beyond = np.maximum(-corners, corners - 1).max(axis=1, initial=0)
    bad_class = (ids != np.floor(ids)) | (ids < 0) | (ids >= spec.num_classes)
    no_area = (side <= 0).any(axis=1)
    far = ~(beyond <= OVERSHOOT) & ~no_area
    near = (beyond > ROUNDING) & ~far & ~no_area
    again = np.zeros(len(ids), bool)
    again[repeats(rows, corners)] = True
    known = (sizes[rows.image] > 0).all(axis=1) if len(ids) else np.zeros(0, bool)
    usable = ~(bad_class | no_area | far | again)
    tiny = usable & known & (_network_sides(rows, sizes, settings) < 2).any(axis=1)
    largest = rows.values[:, 1:].max(initial=0)
    pixels = f" (values up to {largest:g}: pixels?)" if largest > 2 else ""
    for kind, mask in (
        ("class id", bad_class),
        ("no area", no_area),
        ("out of range", far),
        ("slightly out of range", near),
        ("duplicate", again & ~no_area),
        ("below 2 pixels", tiny),
    ):
        for row in np.flatnonzero(mask).tolist():
            values = " ".join(f"{value:g}" for value in rows.values[row])
            hint = f", valid are 0 to {spec.num_classes - 1}" if kind == "class id" else ""
            details = values + hint + (pixels if kind == "out of range" else "")
            findings.append(Finding(kind, split.name, rows.where(split.labels, row), details))
    return usable & known


def _network_sides(rows: Rows, sizes: np.ndarray, settings: Settings) -> np.ndarray:
    """Width and height (M, 2) of the labels in pixels of the network input."""
    with np.errstate(divide="ignore", over="ignore"):
        scale = (np.array(settings.image_size) / sizes).min(axis=1, initial=np.inf)
    scale = np.where(np.isfinite(scale), scale, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        return rows.values[:, 3:5] * sizes[rows.image][:, ::-1] * scale[rows.image, None]


def _best_possible_recall(sides: np.ndarray, settings: Settings) -> float:
    """The share of labels (M, 2) whose sides are within the largest ratio of an anchor's."""
    reached = np.zeros(len(sides), bool)
    for anchor in settings.anchors:
        with np.errstate(divide="ignore"):
            ratio = sides / np.array(anchor)
            reached |= np.maximum(ratio, 1 / ratio).max(axis=1, initial=0) < settings.anchor_t
    return float(reached.mean()) if len(sides) else 1.0


def _shared(splits: Sequence[Split]) -> list[Finding]:
    """Photos of the same content: in two splits, which makes a validation worthless, or twice in one."""
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
    """A digest of the first and last bytes; empty for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(END)
            file.seek(-min(END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            return hashlib.blake2b(start + file.read(), digest_size=16).digest()
    except OSError:
        return b""


def _digest_of_all(path: Path) -> bytes:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:
        return b""


def _class_findings(spec: DataSpec, facts: dict[str, dict[str, Any]]) -> Iterable[Finding]:
    """Classes without labels to learn from, and classes that are measured but never learnt."""
    for split, numbers in facts.items():
        for name, count in numbers["per_class"].items():
            learnt = facts.get("train", numbers)["per_class"][name]
            if split == "train" and not count:
                yield Finding("class without labels", split, name)
            elif split != "train" and count and not learnt:
                yield Finding("class not in train", split, name, f"{count} labels here")


def _text_or_none(path: Path) -> bytes | None:
    try:
        return read_text(path)
    except UserError:
        return None


def _key(spec: DataSpec, settings: Settings, splits: Sequence[Split], orphans: dict[str, list[str]]) -> str:
    """A digest of all that the findings depend on, by the files' names, sizes and times."""
    digest = hashlib.sha256(repr((SCHEMA, spec.names, spec.annotations, settings, orphans)).encode("utf-8", "replace"))
    for split in splits:
        digest.update(
            os.fsencode("\0".join([split.name, *map(os.fspath, split.images), *map(os.fspath, split.labels)]))
        )
        digest.update(np.array([*split.image_stamps, *split.label_stamps], np.int64).tobytes())
    return digest.hexdigest()


def _load(path: Path | None, key: str) -> Checkup | None:
    """The stored result if nothing has changed since."""
    try:
        stored = json.loads(path.read_bytes()) if path else None
        if not stored or stored["key"] != key:
            return None
        findings = tuple(Finding(*each) for each in stored["findings"])
        return Checkup(findings, stored["splits"], tuple(stored["image_size"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _save(path: Path | None, key: str, checkup: Checkup) -> None:
    """Stores the result whole or not at all."""
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
