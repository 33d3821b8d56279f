"""The labels of a split: YOLO text files, checked once for training and doctor alike, as flat arrays, with a cache."""

import hashlib
import json
import os
import struct
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.labels.read_files import cache_folder, in_threads, read_text, size_or_reason, stamp
from data.labels.report import LabelReport, count
from data.labels.yolo_text import (
    CORNERS,
    NO_KEYPOINTS,
    Rows,
    check_classes,
    check_kinds,
    one_based,
    parse_labels,
    unclear_kinds,
    wrong_classes,
)
from data.pixel_limit import part_of_key
from utils.errors import UserError, printable

SCHEMA = 3
OVERSHOOT = 0.01
# Corners of fractions written with four digits reach this far beyond the edge: not worth a word.
ROUNDING = 1e-4

GOOD, CLIPPED, UNREADABLE, SKIPPED, NO_AREA, DUPLICATE = range(6)
# All that numpy and zipfile were seen to raise for files with changed or missing bytes.
DAMAGES: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    MemoryError,
)
DAMAGES += (NotImplementedError, OverflowError, SyntaxError, struct.error, zlib.error, zipfile.BadZipFile)
ARRAYS = ("sizes", "starts", "boxes", "labels", "lines")
REASONS = ("", "", "", "beyond the image", "no area", "duplicate")


@dataclass(frozen=True, eq=False)
class LabelIndex:
    """A split as flat arrays: sizes (N, 2) int32 (h, w) of the upright photos, starts (N + 1,) int64 of their boxes,
    boxes (M, 4) float32 xyxy pixels of the photos, labels (M,) int64; a photo that cannot be read is not in it.

    `lines` (M,) int32 is the line of its label file on which each box stands.
    """

    images: tuple[str, ...]
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    report: LabelReport
    lines: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.images)

    def of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Take the boxes (T, 4) and labels (T,) of image i."""
        span = slice(self.starts[i], self.starts[i + 1])
        return self.boxes[span], self.labels[span]


def load_labels(
    images: Sequence[Path],
    label_paths: Sequence[Path],
    num_classes: int,
    cache_dir: Path | None = None,
    required: bool = True,
    bad_labels: str = "mend",
    keypoints: int = NO_KEYPOINTS,
) -> LabelIndex:
    """Read and check one label file per image (none = background); UserError names the file and line that is wrong.

    Without any label file at all that is an error too, unless they are not `required`. Boxes beyond the photo
    are clipped up to 1 % and else left out (mend), all clipped, all left out (skip), or an error. `keypoints` is how
    many numbers of key points may follow a box (data/labels/yolo_text.py). The result is kept in cache_dir (default:
    alignyolo in the user's cache folder) for as long as no file changes.
    """
    if not images:
        raise UserError("no images to load labels for")
    # Label files are small: reading them all is the one sure way to see that one has changed.
    texts = in_threads(read_text, label_paths)
    if required and all(text is None for text in texts):
        raise UserError(_no_labels(images, label_paths))
    stamps = in_threads(stamp, images)
    choices = f"{SCHEMA} {num_classes} {bad_labels} {keypoints}{part_of_key()}"
    key = _content_key(images, stamps, label_paths, texts, choices)
    cache = _cache_file(images, label_paths, num_classes, cache_dir)
    index = _load_cache(cache, key, images)
    if index is None:
        index = _strict_index(images, label_paths, texts, num_classes, bad_labels, keypoints)
        _save_cache(cache, key, images, index)
    return index


def look_at_labels(
    images: Sequence[Path],
    label_paths: Sequence[Path],
    num_classes: int,
    keypoints: int = NO_KEYPOINTS,
    bad_labels: str = "mend",
) -> LabelIndex:
    """Read all labels as `load_labels` does, but never refuse: what training would stop at is among the findings.

    Boxes beyond the photo are mended, clipped or skipped; `error` is no choice here.
    """
    wrong: list[tuple[int, int, str]] = []
    texts = in_threads(_text_or_none, label_paths)
    rows = parse_labels(texts, label_paths, wrong, keypoints)
    findings = [("malformed line", f"{label_paths[i]}:{line}", why) for i, line, why in wrong]
    if unclear := unclear_kinds(rows, keypoints):
        findings.append(("key points or polygons", rows.where(label_paths, unclear[0]), unclear[1]))
    bad = wrong_classes(rows, num_classes)
    for row in np.flatnonzero(bad).tolist():
        details = f"{_values(rows, row)}, valid are 0 to {num_classes - 1}{one_based(rows, num_classes)}"
        findings.append(("class id", rows.where(label_paths, row), details))
    sizes, unreadable = _read_sizes(images)
    index = _index(images, label_paths, texts, rows.only(~bad), sizes, unreadable, bad_labels, findings)
    if index.report.dropped and not index.report.boxes:
        findings.append(("no usable label", index.report.dropped[0][0], _no_usable_box(index.report)))
    if all(text is None for text in texts):
        # One error in place of a warning for each photo.
        findings = [finding for finding in findings if finding[0] != "missing label"]
        findings.append(("no label file", str(label_paths[0].parent), _no_labels(images, label_paths)))
    return replace(index, report=replace(index.report, findings=tuple(findings)))


def _strict_index(
    images: Sequence[Path],
    label_paths: Sequence[Path],
    texts: Sequence[bytes | None],
    num_classes: int,
    policy: str,
    keypoints: int,
) -> LabelIndex:
    """Make the index; UserError for whatever training must not start with."""
    rows = parse_labels(texts, label_paths, None, keypoints)
    check_kinds(rows, label_paths, keypoints)
    check_classes(rows, label_paths, num_classes)
    sizes, unreadable = _read_sizes(images)
    if len(unreadable) == len(images):
        first = printable(f"{images[0]}: {unreadable[0]}")
        raise UserError(f"none of the {count(len(images), 'image')} can be read; the first: {first}")
    index = _index(images, label_paths, texts, rows, sizes, unreadable, policy, [])
    if index.report.dropped and not index.report.boxes:
        raise UserError(_no_usable_box(index.report))
    return index


def _index(
    images: Sequence[Path],
    label_paths: Sequence[Path],
    texts: Sequence[bytes | None],
    rows: Rows,
    sizes: np.ndarray,
    unreadable: dict[int, str],
    policy: str,
    findings: list[tuple[str, str, str]],
) -> LabelIndex:
    """Judge every row and put together those that can be used, and the report."""
    readable = np.ones(len(images), bool)
    readable[list(unreadable)] = False
    verdict = _check_boxes(rows, sizes, policy)
    fate = verdict.fate
    fate[~readable[rows.image]] = UNREADABLE
    beyond = np.flatnonzero((fate == CLIPPED) | (fate == SKIPPED))
    if policy == "error" and len(beyond):
        raise UserError(
            f"{printable(rows.where(label_paths, int(beyond[0])))}: box beyond the image, and {len(beyond) - 1} more "
            "(--bad-labels error)"
        )
    keep = fate <= CLIPPED
    dropped = [(rows.where(label_paths, int(row)), REASONS[fate[row]]) for row in np.flatnonzero(fate > UNREADABLE)]
    fates = np.bincount(fate, minlength=len(REASONS)).tolist()
    read = [text for text, fine in zip(texts, readable, strict=True) if fine]
    findings += _file_findings(images, label_paths, texts, unreadable)
    findings += _row_findings(rows, label_paths, verdict)
    report = LabelReport(
        images=len(read),
        boxes=int(keep.sum()),
        missing=sum(text is None for text in read),
        empty=sum(text is not None and not text.strip() for text in read),
        clipped=fates[CLIPPED],
        skipped=fates[SKIPPED],
        no_area=fates[NO_AREA],
        duplicates=fates[DUPLICATE],
        largest=float(rows.values[:, 1:].max(initial=0)),
        dropped=tuple(dropped),
        unreadable=tuple((str(images[row]), reason) for row, reason in unreadable.items()),
        findings=tuple(findings),
        policy=policy,
        turned=int((rows.kind[keep] & CORNERS > 0).sum()),
    )
    counts = np.bincount(rows.image[keep], minlength=len(images))[readable]
    return LabelIndex(
        images=tuple(str(path.absolute()) for path, fine in zip(images, readable, strict=True) if fine),
        sizes=sizes[readable],
        starts=np.concatenate([[0], counts.cumsum()]),
        boxes=verdict.boxes[keep],
        labels=rows.values[keep, 0].astype(np.int64),
        report=report,
        lines=rows.line[keep].astype(np.int32),
    )


def _file_findings(
    images: Sequence[Path], label_paths: Sequence[Path], texts: Sequence[bytes | None], unreadable: dict[int, str]
) -> list[tuple[str, str, str]]:
    """Name photos that cannot be read, photos without labels, empty label files, and photos that share one."""
    found = [("unreadable photo", str(images[row]), reason) for row, reason in unreadable.items()]
    for row, text in enumerate(texts):
        if text is None and row not in unreadable:
            found.append(("missing label", str(images[row]), f"expected {label_paths[row]}"))
        elif text is not None and not text.strip() and row not in unreadable:
            found.append(("empty label file", str(label_paths[row]), ""))
    owner: dict[str, int] = {}
    names = list(map(os.fspath, label_paths))
    for row, path in enumerate(names if len(set(names)) < len(names) else ()):
        first = owner.setdefault(path, row)
        if first != row and texts[row] is not None:
            found.append(("shared label", str(images[row]), f"{path} is the label file of {images[first]} too"))
    return found


def _row_findings(rows: Rows, paths: Sequence[Path], verdict: "Verdict") -> list[tuple[str, str, str]]:
    """Name the single rows that are mended or left out, whatever is done about them, and count turned boxes."""
    largest = rows.values[:, 1:].max(initial=0)
    pixels = f" (values up to {largest:g}: pixels?)" if largest > 2 else ""
    found = []
    for kind, mask in (
        ("no area", verdict.no_area & ~verdict.far),
        ("out of range", verdict.far),
        ("slightly out of range", (verdict.beyond > ROUNDING) & ~verdict.far & ~verdict.no_area),
        ("duplicate", verdict.again & ~verdict.no_area & ~verdict.far),
    ):
        for row in np.flatnonzero(mask).tolist():
            details = _values(rows, row) + (pixels if kind == "out of range" else "")
            found.append((kind, rows.where(paths, row), details))
    turned = np.flatnonzero(rows.kind & CORNERS)
    if len(turned):
        details = f"{len(turned)} rows of four corners: the upright box around them is used"
        found.append(("rotated boxes", rows.where(paths, int(turned[0])), details))
    return found


def _values(rows: Rows, row: int) -> str:
    return " ".join(f"{value:g}" for value in rows.values[row])


def _text_or_none(path: Path) -> bytes | None:
    try:
        return read_text(path)
    except UserError:
        return None


def _read_sizes(images: Sequence[Path]) -> tuple[np.ndarray, dict[int, str]]:
    """Read the sizes (N, 2) int32 (h, w), and say why the images in these rows have none."""
    headers = in_threads(size_or_reason, images)
    unreadable = {row: found for row, found in enumerate(headers) if isinstance(found, str)}
    sizes = [(0, 0) if row in unreadable else size for row, size in enumerate(headers)]
    return np.array(sizes, np.int32).reshape(-1, 2), unreadable


class Verdict(NamedTuple):
    """What is thought of each row: its box (M, 4) float32 xyxy pixels clipped to the image, its fate (M,) under a
    policy, and whatever the policy: how far (M,) it reaches beyond the image, whether too far, without area, repeated.
    """

    boxes: np.ndarray
    fate: np.ndarray
    beyond: np.ndarray
    far: np.ndarray
    no_area: np.ndarray
    again: np.ndarray


def _check_boxes(rows: Rows, sizes: np.ndarray, policy: str = "mend") -> Verdict:
    """Judge the boxes of all rows on images of these sizes (N, 2)."""
    centre, side = rows.values[:, 1:3], rows.values[:, 3:5]
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
        beyond = np.maximum(-corners, corners - 1).max(axis=1, initial=0)
        boxes = (corners.clip(0, 1) * sizes[rows.image][:, [1, 0, 1, 0]]).astype(np.float32)
    x1, y1, x2, y2 = boxes.T
    again = np.zeros(len(boxes), bool)
    again[repeats(rows, boxes)] = True
    flat = (side <= 0).any(axis=1)
    no_area = flat | (x2 <= x1) | (y2 <= y1)

    fate = np.full(len(boxes), GOOD)
    fate[beyond > ROUNDING] = CLIPPED
    fate[again] = DUPLICATE
    fate[no_area] = NO_AREA
    # Numbers near the largest float can make `beyond` NaN, which is beyond too.
    limit = {"clip": np.inf, "skip": ROUNDING}.get(policy, OVERSHOOT)
    fate[~(beyond <= limit)] = SKIPPED
    # A row on an image that cannot be read has no pixels; its sides alone tell whether it has an area.
    known = (sizes[rows.image] > 0).all(axis=1) if len(boxes) else np.zeros(0, bool)
    far = ~(beyond <= OVERSHOOT)
    return Verdict(boxes, fate, beyond, far, np.where(known, no_area, flat), again & known)


def repeats(rows: Rows, boxes: np.ndarray) -> np.ndarray:
    """Find the rows (R,) whose image, class and box all equal those of an earlier row."""
    columns = (*boxes.T, rows.values[:, 0], rows.image)
    order = np.lexsort(columns)
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        ordered = column[order]
        same &= ordered[1:] == ordered[:-1]
    return order[1:][same]


def _no_labels(images: Sequence[Path], label_paths: Sequence[Path]) -> str:
    tried = "; ".join(
        f"{printable(image)} -> {printable(label)}" for image, label in zip(images[:3], label_paths[:3], strict=True)
    )
    way_on = "an empty label file says that a photo is background"
    return f"no label file found for any of {count(len(images), 'image')} ({way_on}); tried: {tried}"


def _no_usable_box(report: LabelReport) -> str:
    where, reason = report.dropped[0]
    return (
        f"none of the {count(len(report.dropped), 'box', 'boxes')} in the label files can be used: {printable(where)} "
        f"({reason}); expected fractions of the image from 0 to 1{report.pixels_hint()}"
    )


def _content_key(
    images: Sequence[Path],
    stamps: Iterable[tuple[int, int]],
    label_paths: Sequence[Path],
    texts: Iterable[bytes | None],
    choices: str,
) -> str:
    """Make a digest of all that the index depends on."""
    digest = hashlib.sha256(choices.encode())
    for image, (size, mtime), label, text in zip(images, stamps, label_paths, texts, strict=True):
        length = -1 if text is None else len(text)
        digest.update(os.fsencode(f"\0{image}\0{size} {mtime}\0{label}\0{length}\0") + (text or b""))
    return digest.hexdigest()


def _cache_file(
    images: Sequence[Path], label_paths: Sequence[Path], num_classes: int, cache_dir: Path | None
) -> Path | None:
    """Return where a split is cached: one file per list of paths, so that a changed label replaces its cache."""
    names = os.fsencode("\0".join(map(str, chain(images, label_paths))) + f"\0{num_classes}")
    folder = cache_folder(cache_dir)
    return folder and folder / f"labels-{hashlib.sha256(names).hexdigest()[:24]}.npz"


def _load_cache(path: Path | None, key: str, images: Sequence[Path]) -> LabelIndex | None:
    """Return the cached index if it was made from the same content; None if it is absent, stale or damaged."""
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            arrays = {name: stored[name] for name in ARRAYS}
            kept = stored["kept"]
            report = json.loads(stored["report"].tobytes())
        for name in ("dropped", "unreadable", "findings"):
            report[name] = tuple(map(tuple, report[name]))
        paths = tuple(str(images[row].absolute()) for row in kept)
        return LabelIndex(paths, report=LabelReport(**report), **arrays)
    except FileNotFoundError:
        return None
    except DAMAGES as error:
        print(f"labels: {printable(path)} is damaged ({printable(error, 80)}): made anew", file=sys.stderr)
        return None


def _save_cache(path: Path | None, key: str, images: Sequence[Path], index: LabelIndex) -> None:
    """Write the cache whole or not at all; a folder that cannot be written to costs a scan next time, no more."""
    if path is None:
        return
    left_out = {image for image, _ in index.report.unreadable}
    kept = np.array([row for row, image in enumerate(images) if str(image) not in left_out], np.int64)
    report = np.frombuffer(json.dumps(asdict(index.report)).encode(), np.uint8)
    arrays = {name: getattr(index, name) for name in ARRAYS}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            np.savez(temporary, key=np.array(key), kept=kept, report=report, **arrays)
            temporary.replace(path)
    except OSError:
        return
