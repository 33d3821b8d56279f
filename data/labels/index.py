"""The labels of a split: YOLO text files, checked, as flat arrays, with a cache."""

import hashlib
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np

from data.images import ImageError, image_size
from data.labels.yolo_text import Rows, check_classes, parse_labels
from utils.errors import UserError, printable

SCHEMA = 1
OVERSHOOT = 0.01
# Corners of fractions written with four digits reach this far beyond the edge: not worth a word.
ROUNDING = 1e-4
CHUNK = 512

GOOD, CLIPPED, UNREADABLE, SKIPPED, NO_AREA, DUPLICATE = range(6)
REASONS = ("", "", "", "beyond the image", "no area", "duplicate")

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LabelReport:
    """What a split's labels hold and what was left out: `dropped` (file:line, why), `unreadable` (image, why)."""

    images: int
    boxes: int
    missing: int
    empty: int
    clipped: int
    skipped: int
    no_area: int
    duplicates: int
    largest: float
    dropped: tuple[tuple[str, str], ...]
    unreadable: tuple[tuple[str, str], ...]

    def summary(self) -> str:
        """All that a person should know about the labels in one paragraph; empty when there is nothing."""
        parts = []
        if self.unreadable:
            path, reason = self.unreadable[0]
            example = printable(f"{path}: {reason}")
            parts.append(f"{_count(len(self.unreadable), 'image')} cannot be read and left out, the first: {example}")
        if self.missing:
            parts.append(f"{self.missing} of {_count(self.images, 'image')} without a label file (used as background)")
        if self.clipped:
            parts.append(f"{_count(self.clipped, 'box', 'boxes')} clipped, up to 1 % beyond the image")
        if self.skipped:
            parts.append(f"{_count(self.skipped, 'box', 'boxes')} skipped, beyond the image{self.pixels_hint()}")
        if self.no_area:
            parts.append(f"{_count(self.no_area, 'box', 'boxes')} without area dropped")
        if self.duplicates:
            parts.append(f"{_count(self.duplicates, 'duplicate box', 'duplicate boxes')} dropped")
        if self.dropped:
            where, reason = self.dropped[0]
            parts.append(f"the first box left out: {printable(where)} ({reason})")
        return "labels: " + "; ".join(parts) if parts else ""

    def pixels_hint(self) -> str:
        """A guess at the cause when most boxes lie far beyond their images, else nothing."""
        return f" (values up to {self.largest:g}: pixels?)" if self.skipped > self.boxes and self.largest > 2 else ""


@dataclass(frozen=True, eq=False)
class LabelIndex:
    """A split as flat arrays: sizes (N, 2) int32 (h, w) of the upright photos, starts (N + 1,) int64 of their boxes,
    boxes (M, 4) float32 xyxy pixels of the photos, labels (M,) int64; a photo that cannot be read is not in it.
    """

    images: tuple[str, ...]
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    report: LabelReport

    def __len__(self) -> int:
        return len(self.images)

    def of(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (T, 4) and labels (T,) of image i."""
        span = slice(self.starts[i], self.starts[i + 1])
        return self.boxes[span], self.labels[span]


def load_labels(
    images: Sequence[Path],
    label_paths: Sequence[Path],
    num_classes: int,
    cache_dir: Path | None = None,
    required: bool = True,
    bad_labels: str = "mend",
) -> LabelIndex:
    """Reads and checks one label file per image (none = background); UserError names the file and line that is wrong.

    Without any label file at all that is an error too, unless they are not `required`. Boxes beyond the photo
    are clipped up to 1 % and else left out (mend), all clipped, all left out (skip), or an error. The result is kept
    in cache_dir (default: alignyolo in the user's cache folder) for as long as no file changes.
    """
    if not images:
        raise UserError("no images to load labels for")
    # Label files are small: reading them all is the one sure way to see that one has changed.
    texts = in_threads(read_text, label_paths)
    if required and all(text is None for text in texts):
        raise UserError(_no_labels(images, label_paths))
    stamps = in_threads(_stamp, images)
    key = _content_key(images, stamps, label_paths, texts, num_classes, bad_labels)
    cache = _cache_file(images, label_paths, num_classes, cache_dir)
    index = _load_cache(cache, key, images)
    if index is None:
        index = _scan(images, label_paths, texts, num_classes, bad_labels)
        _save_cache(cache, key, images, index)
    return index


def _scan(
    images: Sequence[Path], label_paths: Sequence[Path], texts: Sequence[bytes | None], num_classes: int, policy: str
) -> LabelIndex:
    rows = parse_labels(texts, label_paths)
    check_classes(rows, label_paths, num_classes)
    sizes, unreadable = _read_sizes(images)
    readable = np.ones(len(images), bool)
    readable[list(unreadable)] = False
    boxes, fate = _check_boxes(rows, sizes, policy)
    fate[~readable[rows.image]] = UNREADABLE

    beyond = np.flatnonzero((fate == CLIPPED) | (fate == SKIPPED))
    if policy == "error" and len(beyond):
        raise UserError(
            f"{printable(rows.where(label_paths, beyond[0]))}: box beyond the image, and {len(beyond) - 1} more "
            "(--bad-labels error)"
        )
    keep = fate <= CLIPPED
    dropped = [(rows.where(label_paths, row), REASONS[fate[row]]) for row in np.flatnonzero(fate > UNREADABLE)]
    fates = np.bincount(fate, minlength=len(REASONS)).tolist()
    read = [text for text, fine in zip(texts, readable, strict=True) if fine]
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
    )
    if dropped and not report.boxes:
        raise UserError(_no_usable_box(report))
    counts = np.bincount(rows.image[keep], minlength=len(images))[readable]
    return LabelIndex(
        images=tuple(str(path.absolute()) for path, fine in zip(images, readable, strict=True) if fine),
        sizes=sizes[readable],
        starts=np.concatenate([[0], counts.cumsum()]),
        boxes=boxes[keep],
        labels=rows.values[keep, 0].astype(np.int64),
        report=report,
    )


def _read_sizes(images: Sequence[Path]) -> tuple[np.ndarray, dict[int, str]]:
    """Sizes (N, 2) int32 (h, w), and why the images in these rows have none; UserError if no image can be read."""
    headers = in_threads(size_or_reason, images)
    unreadable = {row: found for row, found in enumerate(headers) if isinstance(found, str)}
    if len(unreadable) == len(images):
        first = printable(f"{images[0]}: {unreadable[0]}")
        raise UserError(f"none of the {_count(len(images), 'image')} can be read; the first: {first}")
    return np.array([(0, 0) if row in unreadable else size for row, size in enumerate(headers)], np.int32), unreadable


def _check_boxes(rows: Rows, sizes: np.ndarray, policy: str = "mend") -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 4) float32 xyxy pixels, clipped to their image, and the fate (M,) of each."""
    centre, side = rows.values[:, 1:3], rows.values[:, 3:5]
    with np.errstate(over="ignore", invalid="ignore"):
        corners = np.concatenate([centre - side / 2, centre + side / 2], axis=1)
        beyond = np.maximum(-corners, corners - 1).max(axis=1, initial=0)
        boxes = (corners.clip(0, 1) * sizes[rows.image][:, [1, 0, 1, 0]]).astype(np.float32)
    x1, y1, x2, y2 = boxes.T

    fate = np.full(len(boxes), GOOD)
    fate[beyond > ROUNDING] = CLIPPED
    fate[repeats(rows, boxes)] = DUPLICATE
    fate[(side <= 0).any(axis=1) | (x2 <= x1) | (y2 <= y1)] = NO_AREA
    # Numbers near the largest float can make `beyond` NaN, which is beyond too.
    limit = {"clip": np.inf, "skip": ROUNDING}.get(policy, OVERSHOOT)
    fate[~(beyond <= limit)] = SKIPPED
    return boxes, fate


def repeats(rows: Rows, boxes: np.ndarray) -> np.ndarray:
    """Rows (R,) whose image, class and box all equal those of an earlier row."""
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
    return f"no label file found for any of {_count(len(images), 'image')}; tried: {tried}"


def _no_usable_box(report: LabelReport) -> str:
    where, reason = report.dropped[0]
    return (
        f"none of the {_count(len(report.dropped), 'box', 'boxes')} in the label files can be used: {printable(where)} "
        f"({reason}); expected fractions of the image from 0 to 1{report.pixels_hint()}"
    )


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def read_text(path: Path) -> bytes | None:
    """A label file's bytes, None if there is no such file."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{printable(path)}: the label file cannot be read: {error.strerror}") from error


def _stamp(path: Path) -> tuple[int, int]:
    """A file's size and modification time in ns, (-1, -1) if it cannot be asked."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def size_or_reason(path: Path) -> tuple[int, int] | str:
    try:
        return image_size(path)
    except ImageError as error:
        return error.reason


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The function's results in order; from where it waits for the disk more than it computes, by a few threads.

    What it computes holds Python's lock: stat of files that are in memory takes a third of the time in one thread.
    """
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    results: list[Result] = []
    for number, chunk in enumerate(chunks, 1):
        start, computed = time.perf_counter(), time.thread_time()
        results += [function(item) for item in chunk]
        if time.thread_time() - computed < (time.perf_counter() - start) / 2:
            with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool:
                rest = pool.map(lambda chunk: [function(item) for item in chunk], chunks[number:])
                results += chain.from_iterable(rest)
            break
    return results


def _content_key(
    images: Sequence[Path],
    stamps: Iterable[tuple[int, int]],
    label_paths: Sequence[Path],
    texts: Iterable[bytes | None],
    num_classes: int,
    policy: str,
) -> str:
    """A digest of all that the index depends on."""
    digest = hashlib.sha256(f"{SCHEMA} {num_classes} {policy}".encode())
    for image, (size, mtime), label, text in zip(images, stamps, label_paths, texts, strict=True):
        length = -1 if text is None else len(text)
        digest.update(os.fsencode(f"\0{image}\0{size} {mtime}\0{label}\0{length}\0") + (text or b""))
    return digest.hexdigest()


def _cache_file(
    images: Sequence[Path], label_paths: Sequence[Path], num_classes: int, cache_dir: Path | None
) -> Path | None:
    """Where a split is cached: one file per list of paths, so that a changed label replaces its old cache."""
    names = os.fsencode("\0".join(map(str, chain(images, label_paths))) + f"\0{num_classes}")
    folder = cache_folder(cache_dir)
    return folder and folder / f"labels-{hashlib.sha256(names).hexdigest()[:24]}.npz"


def cache_folder(chosen: Path | None) -> Path | None:
    """The folder chosen for caches, or alignyolo in the user's cache folder; None where there is none."""
    if chosen is not None:
        return chosen
    root = os.environ.get("XDG_CACHE_HOME", "")
    if Path(root).is_absolute():
        return Path(root) / "alignyolo"
    try:
        return Path.home() / ".cache" / "alignyolo"
    except RuntimeError:
        return None


def _load_cache(path: Path | None, key: str, images: Sequence[Path]) -> LabelIndex | None:
    """The cached index if it was made from the same content; None if it is absent, stale or damaged."""
    if path is None:
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            arrays = [stored[name] for name in ("sizes", "starts", "boxes", "labels")]
            kept = stored["kept"]
            report = json.loads(stored["report"].tobytes())
        for name in ("dropped", "unreadable"):
            report[name] = tuple(map(tuple, report[name]))
        paths = tuple(str(images[row].absolute()) for row in kept)
        return LabelIndex(paths, *arrays, LabelReport(**report))
    except (OSError, EOFError, KeyError, IndexError, TypeError, ValueError, zipfile.BadZipFile):
        return None


def _save_cache(path: Path | None, key: str, images: Sequence[Path], index: LabelIndex) -> None:
    """Writes the cache whole or not at all; a folder that cannot be written to costs a scan next time, no more."""
    if path is None:
        return
    left_out = {image for image, _ in index.report.unreadable}
    kept = np.array([row for row, image in enumerate(images) if str(image) not in left_out], np.int64)
    report = np.frombuffer(json.dumps(asdict(index.report)).encode(), np.uint8)
    arrays = {name: getattr(index, name) for name in ("sizes", "starts", "boxes", "labels")}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            np.savez(temporary, key=np.array(key), kept=kept, report=report, **arrays)
            temporary.replace(path)
    except OSError:
        return
