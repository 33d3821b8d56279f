"""Detections as files that other programs read: COCO results and YOLO text."""

import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from data.labels.index import LabelIndex
from engine.own_files import OwnFiles
from engine.run_files import CURVES, PICTURES
from utils.config.knobs import ValConfig
from utils.errors import UserError, printable
from utils.metrics.coco_eval import Boxes
from utils.metrics.coco_metrics import CocoMetrics
from utils.metrics.truths import to_xywh
from utils.run_folder import json_text, write_atomically

# What a validation writes into its folder, besides labels/. metrics.json is the first to go and the last to come.
NUMBERS, ROWS, TRUTHS, REPORT = ("metrics.json", "metrics.csv"), "detections.json", "ground_truth.json", "report.html"
DRAWN = (*CURVES, *(f"val_batch{number}{part}.jpg" for number in range(PICTURES) for part in ("", "_truth")))
WRITTEN = (*NUMBERS, REPORT, ROWS, TRUTHS, *DRAWN)


def planned_files(settings: ValConfig, by_labels: bool) -> list[str]:
    """List what a validation is going to write into its folder besides labels/, measured against labels or a file."""
    asked = {REPORT: settings.report, ROWS: settings.save_json, TRUTHS: settings.save_json and by_labels}
    return [*NUMBERS, *(name for name, wanted in asked.items() if wanted), *(DRAWN if settings.plots else ())]


def room_for_results(folder: Path, planned: Sequence[str], writes_texts: bool, truths: Collection[Path]) -> OwnFiles:
    """Remove what an earlier validation has written into a folder: beside another's numbers it would mislead.

    UserError, and all stays, where somebody else's file has a name of ours, unless it is one of `truths` that is only
    read, and where texts are to be written among others' labels.
    """
    own = OwnFiles(folder, "val.py")
    foreign = [text for text in sorted((folder / "labels").rglob("*.txt")) if not own.is_own(text)]
    if foreign and writes_texts:
        raise UserError(
            f"--save-txt: {printable(folder / 'labels')} holds labels that are not from val.py, "
            f"{printable(foreign[0].name)} for one: choose another --name"
        )
    read = {path.resolve() for path in truths}
    own.require(*(folder / name for name in WRITTEN if name in planned or (folder / name).resolve() not in read))
    for path in own.present():
        path.unlink()
    for name in planned:
        own.begin(folder / name)
    return own


def write_coco_files(folder: Path, collected: CocoMetrics, index: LabelIndex) -> None:
    """Write detections.json (COCO results) and, where truths are labels, ground_truth.json with their ids.

    Boxes are in pixels of that file, or of the original one that the truths are from.
    """
    truths, found = collected.details, _finite(collected.detections())
    boxes = found.boxes if truths.factors is None else found.boxes / np.tile(truths.factors[found.image], 2)
    images, categories = truths.image_ids[found.image].tolist(), np.array(truths.category_ids)[found.labels].tolist()
    columns = (images, categories, to_xywh(boxes).tolist(), found.scores.tolist())
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": score}
        for image, category, box, score in zip(*columns, strict=True)
    ]
    write_atomically(folder / ROWS, json_text(results))
    if truths.source == "labels":
        write_atomically(folder / TRUTHS, json_text(_ground_truth(collected, index)))


def _ground_truth(collected: CocoMetrics, index: LabelIndex) -> dict:
    """Return the truths as a COCO file."""
    truths = collected.details
    ids, names = truths.image_ids.tolist(), _relative(index.images)
    images = [
        {"id": number, "file_name": name.as_posix(), "height": height, "width": width}
        for number, name, (height, width) in zip(ids, names, index.sizes.tolist(), strict=True)
    ]
    columns = (truths.image_ids[truths.image], truths.labels, truths.xywh, truths.area)
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": truths.category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": 0,
        }
        for number, (image, label, box, area) in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1)
    ]
    categories = [
        {"id": number, "name": name} for number, name in zip(truths.category_ids, collected.names, strict=True)
    ]
    return {"images": images, "categories": categories, "annotations": annotations}


def write_texts(files: OwnFiles, collected: CocoMetrics, index: LabelIndex) -> None:
    """Write a text file per image: class, centre x, centre y, width, height as fractions of the image, score."""
    found = _finite(collected.detections())
    order = np.argsort(found.image, kind="stable")
    found = found.take(order)
    bounds = np.searchsorted(found.image, np.arange(len(index) + 1))
    height, width = index.sizes[found.image].T
    x1, y1, x2, y2 = found.boxes.T
    rows = np.column_stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height])
    for row, name in enumerate(text_names(_relative(index.images))):
        path = files.folder / "labels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        own = slice(bounds[row], bounds[row + 1])
        lines = [
            f"{label} {x:.7f} {y:.7f} {w:.7f} {h:.7f} {score:.6f}\n"
            for label, (x, y, w, h), score in zip(found.labels[own], rows[own], found.scores[own], strict=True)
        ]
        write_atomically(files.begin(path), "".join(lines), synced=False)
        files.end(path)


def text_names(photos: Sequence[Path]) -> list[Path]:
    """Name the text file of each photo, with the photo's suffix where another one has the same stem or that name."""
    count = Counter(photo.with_suffix("") for photo in photos)
    names: dict[Path, Path] = {}
    taken: set[Path] = set()
    # A name with a suffix is the stem of longer ones alone (x.jpg of x.jpg.png): shorter ones choose first.
    for photo in sorted(photos, key=lambda photo: len(photo.name)):
        name = photo.with_suffix(".txt")
        if count[photo.with_suffix("")] > 1 or name in taken:
            name = photo.with_name(f"{photo.name}.txt")
        taken.add(name)
        names[photo] = name
    return [names[photo] for photo in photos]


def _finite(found: Boxes) -> Boxes:
    return found.take(np.isfinite(found.boxes).all(1) & np.isfinite(found.scores))


def _relative(images: tuple[str, ...]) -> list[Path]:
    """Return the images relative to the folder that holds all of them."""
    common = os.path.commonpath([str(Path(image).parent) for image in images]) if images else ""
    return [Path(image).relative_to(common) for image in images]
