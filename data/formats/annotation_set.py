"""Annotations in memory, whatever format they came from: what every reader makes and every writer takes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.formats.coco_json import CocoFile

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


# What folders and subsets of a split are called, and which split it is.
FOLDER_SPLITS = {"train": "train", "valid": "val", "val": "val", "validation": "val", "test": "test"}


def base_split(split: str) -> str:
    """Name a split without its year: `train` for `train2017`."""
    return split.rstrip("0123456789")


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

    def by_base(self) -> dict[str, list[str]]:
        """Group the splits by their names without a year: most formats have one train and one val."""
        groups: dict[str, list[str]] = {}
        for split in dict.fromkeys(photo.split for photo in self.photos):
            groups.setdefault(base_split(split), []).append(split)
        return groups

    def reasons(self) -> Counter[tuple[str, str]]:
        """Count how often each (action, reason) was found."""
        return Counter((finding.action, finding.reason) for finding in self.findings)


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
