"""What labelling tools draw, brought together: shapes on photos become an annotation set."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto, base_split
from data.formats.photo_finder import PhotoFinder
from data.formats.reading import TWICE, BadAnnotation, clipped_box, frame, one_label_each, place_in_set
from data.formats.turned import TURNED, Corners
from data.images import ImageError
from utils.errors import UserError, printable

SUBSETS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Shape(NamedTuple):
    """A shape: its class, the upright box around it as xyxy pixels (None: it has none), its kind, whether turned."""

    name: str
    corners: Corners | None
    kind: str
    turned: bool = False


class DrawnPhoto(NamedTuple):
    """A photo as a tool names it, its split, its (height, width) or zeros, and its shapes."""

    name: str
    split: str
    size: tuple[int, int]
    shapes: Sequence[Shape]


def split_of(subset: str) -> str:
    """Choose the split of a tool's subset, whose name may end in a year; any other name is train."""
    return SUBSETS.get(base_split(subset.lower()), "train")


def annotation_set(
    source: Path, names: Sequence[str], photos: Iterable[DrawnPhoto], finder: PhotoFinder
) -> AnnotationSet:
    """Find the photos and make labels of their shapes; UserError if no box comes out."""
    found = AnnotationSet(source, tuple(names), [], [])
    for drawn in photos:
        try:
            photo, place = finder.find(drawn.name)
            declared, size = frame(photo, drawn.size, drawn.split, found.findings)
        except (ImageError, BadAnnotation) as error:
            reason = printable(error.reason)
            found.findings.append(Finding("dropped photo", drawn.split, printable(drawn.name), "", reason))
            continue
        objects = _objects(drawn, declared, found)
        found.photos.append(LabelledPhoto(drawn.split, photo, objects, str(place_in_set(place)), size))
    found.photos = one_label_each(found.photos, found.findings)
    if not any(photo.objects for photo in found.photos):
        reasons = found.reasons().most_common(1)
        why = f"; most often ({reasons[0][1]} times): {reasons[0][0][1]}" if reasons else ""
        raise UserError(f"no box in {printable(source)} can be converted{why}")
    return found


def _objects(drawn: DrawnPhoto, size: tuple[int, int], found: AnnotationSet) -> list[LabelledObject]:
    """Make labels of the shapes of a photo; count those that have no box."""
    labels = {each: number for number, each in enumerate(found.names)}
    objects: list[LabelledObject] = []
    skipped: Counter[str] = Counter()
    where = (drawn.split, printable(drawn.name))
    for number, shape in enumerate(drawn.shapes, 1):
        label = labels.get(shape.name)
        if shape.corners is None or label is None:
            skipped[shape.kind] += 1
            continue
        left, top, right, bottom = shape.corners
        height, width = size
        kind = f"{number} {printable(shape.kind)}"
        if right <= max(left, 0) or bottom <= max(top, 0) or left >= width or top >= height:
            found.findings.append(Finding("dropped", *where, kind, "box without area in the photo"))
            continue
        if shape.turned:
            found.findings.append(Finding("noted", *where, kind, TURNED))
        box, clipped = clipped_box(shape.corners, size)
        if clipped:
            values = " ".join(f"{side:g}" for side in shape.corners)
            found.findings.append(Finding("clipped", *where, str(number), "box reaches beyond the photo", values))
        if LabelledObject(label, *box) in objects:
            found.findings.append(Finding("dropped", *where, kind, TWICE))
            continue
        objects.append(LabelledObject(label, *box))
    for kind, count in skipped.items():
        reason = f"{printable(kind)}: no box can be made of it"
        found.findings.append(Finding("dropped", *where, printable(kind), reason, str(count)))
    return objects


def used_names(photos: Iterable[DrawnPhoto]) -> tuple[str, ...]:
    """Name the classes of all shapes, sorted: for tools that do not say which there are."""
    return tuple(sorted({shape.name for photo in photos for shape in photo.shapes if shape.name}))


def absolute(source: Path) -> Path:
    """Write a source as an absolute path without `..`."""
    return Path(os.path.normpath(Path(source).absolute()))
