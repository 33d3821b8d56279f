"""Annotations in memory, whatever format they came from: what every reader makes and every writer takes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data.formats.coco_json import CocoFile
from data.images import image_size
from utils.errors import printable

SHOWN_CLASSES = 8


class Finding(NamedTuple):
    """One thing that the reader of a conversion should know: what was dropped, clipped or noted, where and why."""

    action: str
    split: str
    file: str
    object: str
    reason: str
    values: str = ""


class LabelledObject(NamedTuple):
    """An object: class id, centre x, centre y, width, height in fractions of the photo; crowd, difficult or neither."""

    label: int
    x: float
    y: float
    width: float
    height: float
    kind: str = ""
    score: float | None = None


class LabelledPhoto(NamedTuple):
    """A photo and its objects; its name below the split's folder, its (height, width), and the objects that get no
    label but are neither found nor missed in an evaluation.
    """

    split: str
    photo: Path
    objects: list[LabelledObject]
    name: str
    size: tuple[int, int]
    ignored: Sequence[LabelledObject] = ()


@dataclass
class AnnotationSet:
    """A data set as a reader found it: source (absolute), class names by id, photos with labels, findings, choices.

    `annotations` are the original COCO files of splits, `truths` what replaces them where they had to be mended, `ids`
    the source's own ids of classes and photos.
    """

    source: Path
    names: tuple[str, ...]
    photos: list[LabelledPhoto]
    findings: list[Finding]
    facts: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, Path] = field(default_factory=dict)
    ids: dict[str, dict[str, int]] = field(default_factory=dict)
    truths: dict[str, CocoFile] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, Any]]:
        """Count photos and boxes per split, and boxes per class."""
        by_split: dict[str, list[LabelledPhoto]] = {}
        for photo in self.photos:
            by_split.setdefault(photo.split, []).append(photo)
        counts: dict[str, dict[str, Any]] = {}
        for split, photos in by_split.items():
            classes = Counter(self.names[each.label] for photo in photos for each in photo.objects)
            per_class = {name: classes[name] for name in self.names}
            counts[split] = {"images": len(photos), "boxes": classes.total(), "per_class": per_class}
        return counts

    def reasons(self) -> Counter[tuple[str, str]]:
        """Count how often each (action, reason) was found."""
        return Counter((finding.action, finding.reason) for finding in self.findings)


class BadAnnotation(Exception):
    """An annotation that cannot be used, why, and details; the conversion goes on without it."""

    def __init__(self, reason: str, details: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = printable(details)


def frame(
    photo: Path, declared: tuple[int, int], split: str, findings: list[Finding]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the (height, width) that the boxes refer to, checked against the photo, and the photo's own."""
    height, width = image_size(photo)
    if not all(declared):
        reason = "the annotation gives no size: the photo's is used"
        findings.append(Finding("noted", split, printable(photo.name), "", reason, f"{width}x{height}"))
        return (height, width), (height, width)
    if declared == (height, width):
        return declared, declared
    values = f"annotation {declared[1]}x{declared[0]}, photo {width}x{height}"
    if abs(declared[0] * width - declared[1] * height) > 0.01 * declared[1] * height:
        raise BadAnnotation("the annotation is of another photo or of a turned one", values)
    reason = "the annotation is of another size: boxes are scaled"
    findings.append(Finding("noted", split, printable(photo.name), "", reason, values))
    return declared, (height, width)


def clipped_box(corners: Sequence[float], size: tuple[int, int]) -> tuple[tuple[float, float, float, float], bool]:
    """Turn edges xyxy in a frame (height, width) into fractions of it (centre, sides); say whether it was clipped."""
    height, width = size
    left, top, right, bottom = corners
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return box, (x1, y1, x2, y2) != (left, top, right, bottom)


def one_label_each(photos: Iterable[LabelledPhoto], findings: list[Finding]) -> list[LabelledPhoto]:
    """Leave out photos whose label file would be that of another one, such as a.jpg and a.png, and say so."""
    taken: dict[tuple[str, PurePosixPath], LabelledPhoto] = {}
    for photo in photos:
        key = (photo.split, PurePosixPath(photo.name).with_suffix(""))
        if key in taken and taken[key].photo != photo.photo:
            reason = "another photo would have the same label file"
            findings.append(Finding("dropped photo", photo.split, printable(photo.name), "", reason, taken[key].name))
        else:
            taken.setdefault(key, photo)
    return list(taken.values())


def place_in_set(name: PurePosixPath) -> PurePosixPath:
    """Choose a photo's place below `images/<split>/`: its own, without folders that are called images.

    A label file is looked for where the last `images` of a photo's path is exchanged for `labels`.
    """
    return PurePosixPath(*(part for part in name.parent.parts if part != "images"), name.name)


def summary(found: AnnotationSet) -> Iterable[str]:
    """Tell a person in a few lines what came out."""
    for split, counts in found.counts().items():
        per_class = Counter(counts["per_class"]).most_common() if len(found.names) > SHOWN_CLASSES else None
        shown = per_class[:SHOWN_CLASSES] if per_class else counts["per_class"].items()
        classes = ", ".join(f"{name} {count:,}" for name, count in shown)
        classes += f" and {len(per_class) - SHOWN_CLASSES} classes more" if per_class else ""
        yield f"  {split:<10} {counts['images']:>7,} photos {counts['boxes']:>9,} boxes   {classes}"
    for name, value in found.facts.items():
        yield f"  {name.replace('_', ' ')}: {value}"
    for (action, reason), count in found.reasons().most_common():
        yield f"  {action} {count:,}: {reason}"
