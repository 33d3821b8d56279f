"""What detect.py found (its detections.json), read as an annotation set: a first draft for a labelling tool."""

import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto
from data.formats.reading import BadAnnotation, clipped_box, frame, one_label_each, place_in_set
from data.images import ImageError
from data.photo_files import photos_below
from utils.errors import UserError, printable
from utils.regular_file import require_regular

SIDES = ("x1", "y1", "x2", "y2")


def read_detections(
    source: Path, names: Sequence[str] | None = None, photos: Sequence[Path] = (), conf: float = 0.25
) -> AnnotationSet:
    """Read detections of photos as objects of split train, those below `conf` left out; UserError if there are none.

    `names` are all class names by id (default: those that were found); `photos` are folders whose other photos are
    background. Frames of videos are no files, and named.
    """
    source = Path(os.path.normpath(Path(source).absolute()))
    rows = _rows(source)
    found = AnnotationSet(source, _names(rows, names, source), [], [])
    by_photo: dict[Path, list[dict[str, Any]]] = defaultdict(list)
    for number, row in enumerate(rows):
        if row["score"] < conf:
            continue
        if row.get("frame") is not None:
            reason = "a frame of a video: save the frames as photos, then detect"
            found.findings.append(Finding("dropped", "train", printable(row["image"]), f"[{number}]", reason))
            continue
        by_photo[Path(os.path.normpath(Path(row["image"]).absolute()))].append(row)
    for photo in _photos_below(photos):
        by_photo.setdefault(photo, [])
    root = Path(os.path.commonpath([str(photo.parent) for photo in by_photo])) if by_photo else source.parent
    for photo, own in sorted(by_photo.items()):
        _add_photo(found, photo, root, own)
    found.photos = one_label_each(found.photos, found.findings)
    if not any(photo.objects for photo in found.photos):
        raise UserError(f"{printable(source)}: no detection of a photo has a score of {conf:g} or more (--conf)")
    return found


def _add_photo(found: AnnotationSet, photo: Path, root: Path, rows: Sequence[dict[str, Any]]) -> None:
    name = str(place_in_set(PurePosixPath(photo.relative_to(root).as_posix())))
    try:
        _, size = frame(photo, (0, 0), "train", [])
    except (ImageError, BadAnnotation) as error:
        found.findings.append(Finding("dropped photo", "train", printable(photo), "", printable(error)))
        return
    objects = []
    for row in rows:
        left, top, right, bottom = (float(row[side]) for side in SIDES)
        box, _ = clipped_box((left, top, right, bottom), size)
        if box[2] > 0 and box[3] > 0:
            objects.append(LabelledObject(row["class"], *box, score=float(row["score"])))
    found.photos.append(LabelledPhoto("train", photo, objects, name, size))


def _rows(source: Path) -> list[dict[str, Any]]:
    """Read and check the rows of a detections.json; UserError names the first that is wrong."""
    try:
        rows = json.loads(require_regular(source).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{printable(source)}: cannot be read as JSON: {printable(error, 100)}") from None
    if not isinstance(rows, list):
        raise UserError(f"{printable(source)}: expected the list that detect.py --save-json writes")
    for number, row in enumerate(rows):
        right = isinstance(row, dict) and isinstance(row.get("image"), str) and "\0" not in row["image"]
        right = right and type(row.get("class")) is int and row["class"] >= 0 and isinstance(row.get("name"), str)
        numbers = [row.get(key) for key in (*SIDES, "score")] if right else []
        if not right or not all(type(each) in (int, float) and abs(each) < 1e9 for each in numbers):
            raise UserError(
                f"{printable(source)}: row {number}: expected image, class, name, score, x1, y1, x2, y2 as detect.py "
                "--save-json writes them"
            )
    return rows


def _names(rows: Sequence[dict[str, Any]], wanted: Sequence[str] | None, source: Path) -> tuple[str, ...]:
    """Name the classes by id: as wanted, or as found, where each has been found."""
    found = {row["class"]: printable(row["name"]) for row in rows}
    if wanted is not None:
        if not all(wanted) or len(set(wanted)) < len(wanted):
            raise UserError("--names: the class names must be different from each other and not empty")
        wrong = [label for label, name in found.items() if label >= len(wanted) or wanted[label] != name]
        if wrong:
            raise UserError(f"--names: class {wrong[0]} is called {found[wrong[0]]!r} in {printable(source)}")
        return tuple(wanted)
    missing = sorted(set(range(max(found, default=-1) + 1)) - set(found))
    if missing:
        raise UserError(
            f"{printable(source)}: class {missing[0]} was never found, so its name is not known: give all with --names"
        )
    return tuple(found[label] for label in sorted(found))


def _photos_below(folders: Sequence[Path]) -> list[Path]:
    photos: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--photos: no such folder: {printable(folder)}")
        photos += photos_below(Path(os.path.normpath(folder.absolute())))
    return photos
