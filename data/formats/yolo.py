"""YOLO labels, read as an annotation set: a data YAML's splits, checked as training checks them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from data.data_yaml import DataSpec, is_there, label_path
from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto
from data.formats.coco_json import whole
from data.formats.coco_truths import split_truths
from data.formats.kept_truths import kept_truths
from data.formats.reading import SAME_LABEL_FILE, clipped_box, place_in_set
from data.formats.write.coco import IDS
from data.labels.index import LabelIndex
from data.split import load_split
from utils.errors import UserError, printable
from utils.metrics.truths import Truths


def read_yolo(spec: DataSpec, stays: bool = False) -> AnnotationSet:
    """Read all splits of a YOLO set; classes and photos keep the ids of ids.json beside the data YAML.

    An earlier conversion leaves that file. Photos are named by their place in a new set, or where the set `stays` where
    it is, by their path in it.
    """
    found = AnnotationSet(spec.root, spec.names, [], [], ids=read_ids(spec.yaml.parent / IDS))
    known = found.ids.pop("images", {})
    for split in spec.splits:
        if split == "test" and not is_there(spec, split) and len(spec.splits) > 1:
            place = printable(spec.splits[split][0])
            found.findings.append(Finding("noted", split, place, "", "the split is not there"))
            continue
        index = load_split(spec, split)
        paths = _photo_names(spec, split, index)
        names = paths if stays else _places(spec, split, index, paths, found.findings)
        for image, path, name in zip(index.images, paths, names, strict=True):
            # A conversion wrote images/<split>/<name>; so the end of the path is the key.
            key = f"{Path(image.removesuffix(path)).name}/{path}"
            if name and key in known:
                found.ids.setdefault("images", {})[f"{split}/{name}"] = known[key]
        truths = split_truths(spec, split, index) if split in spec.annotations else None
        _add_split(found, split, index, names, _ignored(truths, index))
        if truths:
            found.truths[split], said = kept_truths(truths, index, names, spec.names, split)
            found.findings += said
    return found


def _ignored(truths: Truths | None, index: LabelIndex) -> list[list[LabelledObject]]:
    """List, by photo, the crowds and difficult objects that have no label but stand in the split's annotation file."""
    if truths is None:
        return [[] for _ in index.images]
    found: list[list[LabelledObject]] = []
    for row in range(len(index)):
        height, width = index.sizes[row].tolist()
        own: list[LabelledObject] = []
        for number in range(truths.starts[row], truths.starts[row + 1]):
            if truths.crowd[number] or truths.difficult[number]:
                box, _ = clipped_box(truths.boxes[number].tolist(), (height, width))
                kind = "crowd" if truths.crowd[number] else "difficult"
                own += [LabelledObject(int(truths.labels[number]), *box, kind)] if min(box[2:]) > 0 else []
        found.append(own)
    return found


def read_ids(path: Path) -> dict[str, dict[str, int]]:
    """Read the ids that a conversion to YOLO left; nothing where there is no such file."""
    if not path.is_file():
        return {}
    try:
        ids = json.loads(path.read_text("utf-8"))
        found = {
            key: {str(name): whole(number) for name, number in ids[key].items()} for key in ("categories", "images")
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{printable(path)}: not the ids of a conversion: {printable(error)}") from None
    for key, numbers in found.items():
        # Of photos, whose names begin with their split, each split has ids of its own: it was a file of its own.
        own = {(name.partition("/")[0] if key == "images" else "", number) for name, number in numbers.items()}
        if None in numbers.values() or len(own) < len(numbers):
            raise UserError(f"{printable(path)}: {key}: expected a whole number of its own for each name")
    return {key: {name: number for name, number in own.items() if number is not None} for key, own in found.items()}


def _photo_names(spec: DataSpec, split: str, index: LabelIndex) -> list[str]:
    """Name each photo below the one folder that its split names, or where some lie elsewhere, below that of all."""
    folders = [folder for folder in spec.splits[split] if folder.is_dir()]
    common = Path(os.path.commonpath([str(Path(image).parent) for image in index.images]))
    inside = len(folders) == 1 and common.is_relative_to(folders[0])
    return [Path(image).relative_to(folders[0] if inside else common).as_posix() for image in index.images]


def _places(
    spec: DataSpec, split: str, index: LabelIndex, paths: list[str], findings: list[Finding]
) -> list[str | None]:
    """Place each photo below its split's folder; None, and a finding, where its label file would be another photo's.

    Photos that share a label file already (a.jpg and a.png) go on doing so.
    """
    first: dict[PurePosixPath, tuple[Path, str]] = {}
    places: list[str | None] = []
    used: set[PurePosixPath] = set()
    for image, path in zip(map(Path, index.images), paths, strict=True):
        place, label = place_in_set(PurePosixPath(path)), label_path(spec, image)
        taken, other = first.setdefault(place.with_suffix(""), (label, path))
        if taken != label or place in used:
            findings.append(Finding("dropped photo", split, printable(path), "", SAME_LABEL_FILE, printable(other)))
            places.append(None)
        else:
            used.add(place)
            places.append(str(place))
    return places


def _add_split(
    found: AnnotationSet,
    split: str,
    index: LabelIndex,
    names: Sequence[str | None],
    ignored: list[list[LabelledObject]],
) -> None:
    """Add the photos of a split that have a name, with what its labels' check left out."""
    for row, name in enumerate(names):
        if name is None:
            continue
        boxes, labels = index.of(row)
        height, width = index.sizes[row].tolist()
        scaled = boxes.astype(np.float64) / [width, height, width, height]
        centre, side = (scaled[:, :2] + scaled[:, 2:]) / 2, scaled[:, 2:] - scaled[:, :2]
        objects = [
            LabelledObject(label, *xy, *wh)
            for label, xy, wh in zip(labels.tolist(), centre.tolist(), side.tolist(), strict=True)
        ]
        found.photos.append(LabelledPhoto(split, Path(index.images[row]), objects, name, (height, width), ignored[row]))
    report = index.report
    for where, reason in report.dropped:
        found.findings.append(Finding("dropped", split, printable(where), "", reason))
    for path, reason in report.unreadable:
        found.findings.append(Finding("dropped photo", split, printable(path), "", printable(reason)))
    for action, count, reason in (
        ("clipped", report.clipped, "boxes up to 1 % beyond the photo"),
        ("noted", report.missing, "photos without a label file: background"),
        ("noted", report.turned, "rotated boxes: their upright box"),
    ):
        if count:
            found.findings.append(Finding(action, split, "", "", reason, str(count)))
