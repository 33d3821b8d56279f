"""What labelling tools draw, brought together: shapes on photos become an annotation set."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.formats.annotation_set import FOLDER_SPLITS, AnnotationSet, Finding, LabelledObject, LabelledPhoto, base_split
from data.formats.photo_finder import PhotoFinder, PhotosBelow, folders_of_subset, foreign_to, own_first
from data.formats.reading import TWICE, BadAnnotation, clipped_box, frame, note_shared, one_label_each, place_in_set
from data.formats.turned import TURNED, Corners
from data.images import ImageError
from utils.errors import UserError, printable

JOINED = "the photo is annotated several times: joined"
SEVERAL_LABELS = "several labels on one shape: the first is used"


class Shape(NamedTuple):
    """A shape: its class, the upright box around it as xyxy pixels (None: it has none), its kind, whether turned.

    `others` are the labels that it has beside its class.
    """

    name: str
    corners: Corners | None
    kind: str
    turned: bool = False
    others: Sequence[str] = ()


class DrawnPhoto(NamedTuple):
    """A photo as a tool names it, its split, its (height, width) or zeros, its shapes, and the tool's subset."""

    name: str
    split: str
    size: tuple[int, int]
    shapes: Sequence[Shape]
    subset: str = ""


def split_of(subset: str) -> str:
    """Choose the split of a tool's subset, whose name may end in a year; any other name is train."""
    return FOLDER_SPLITS.get(base_split(subset.lower()), "train")


def subset_finders(
    drawn: Sequence[DrawnPhoto],
    root: Path,
    photos: Sequence[Path],
    before: Sequence[Path] = (),
    after: Iterable[Path] = (),
) -> dict[str, PhotoFinder]:
    """Make a finder for each subset, by its name: one that never looks in a folder of another subset.

    Tools give photos of several subsets the same name. It looks in `before`, the subset's own folders, those of the
    set, `after`; or in `photos`, which the user names, and all of them are used.
    """
    names, below, after = [each.name for each in drawn], PhotosBelow(photos or [root]), list(after)
    subsets = sorted({each.subset for each in drawn})
    finders: dict[str, PhotoFinder] = {}
    for subset in subsets:
        foreign = foreign_to(subset, subsets)
        own = [base / each for each in folders_of_subset(subset) for base in (root / "images", root)]
        shared = [root / "images", root, *(folder for folder in after if not foreign(folder.name))]
        folders = own_first(photos, foreign) if photos else [*before, *own, *shared]
        finders[subset] = PhotoFinder(names, folders, below, foreign)
    return finders


def _joined(photos: Iterable[DrawnPhoto], findings: list[Finding]) -> list[DrawnPhoto]:
    """Join the annotations of a photo that stands in its subset several times by one name and size, and say so."""
    joined: list[DrawnPhoto] = []
    places: dict[tuple[str, str, str], int] = {}
    for drawn in photos:
        place = places.setdefault((drawn.split, drawn.subset, drawn.name), len(joined))
        if place == len(joined):
            joined.append(drawn)
            continue
        first = joined[place]
        if all(drawn.size) and all(first.size) and drawn.size != first.size:
            joined.append(drawn)  # of another photo, it seems: left out where its photo turns out to be taken
            continue
        findings.append(Finding("noted", drawn.split, printable(drawn.name), "", JOINED))
        joined[place] = first._replace(size=max(first.size, drawn.size), shapes=[*first.shapes, *drawn.shapes])
    return joined


def annotation_set(
    source: Path, names: Sequence[str], photos: Iterable[DrawnPhoto], finders: Mapping[str, PhotoFinder]
) -> AnnotationSet:
    """Find the photos, each by its subset's finder, and make labels of their shapes; UserError if no box comes out."""
    found = AnnotationSet(source, tuple(names), [], [])
    for drawn in _joined(photos, found.findings):
        try:
            photo, place = finders[drawn.subset].find(drawn.name)
            declared, size = frame(photo, drawn.size, drawn.split, found.findings)
        except (ImageError, BadAnnotation) as error:
            reason = printable(error.reason)
            found.findings.append(Finding("dropped photo", drawn.split, printable(drawn.name), "", reason))
            continue
        objects = _objects(drawn, declared, found)
        found.photos.append(LabelledPhoto(drawn.split, photo, objects, str(place_in_set(place)), size))
    note_shared(found.photos, found.findings)
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
    skipped: Counter[tuple[str, str]] = Counter()
    where = (drawn.split, printable(drawn.name))
    for number, shape in enumerate(drawn.shapes, 1):
        label = labels.get(shape.name)
        if shape.corners is None or label is None:
            without = "no box can be made of it" if shape.corners is None else "drawn without a label"
            skipped[shape.kind, without] += 1
            continue
        left, top, right, bottom = shape.corners
        height, width = size
        kind = f"{number} {printable(shape.kind)}"
        if right <= max(left, 0) or bottom <= max(top, 0) or left >= width or top >= height:
            found.findings.append(Finding("dropped", *where, kind, "box without area in the photo"))
            continue
        if shape.others:
            listed = printable(", ".join((shape.name, *shape.others)))
            found.findings.append(Finding("dropped", *where, kind, SEVERAL_LABELS, listed))
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
    for (kind, why), count in skipped.items():
        reason = f"{printable(kind)}: {why}"
        found.findings.append(Finding("dropped", *where, printable(kind), reason, str(count)))
    return objects


def used_names(photos: Iterable[DrawnPhoto]) -> tuple[str, ...]:
    """Name the classes of all shapes, sorted: for tools that do not say which there are."""
    return tuple(sorted({shape.name for photo in photos for shape in photo.shapes if shape.name}))


def absolute(source: Path) -> Path:
    """Write a source as an absolute path without `..`."""
    return Path(os.path.normpath(Path(source).absolute()))
