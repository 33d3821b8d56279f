"""A YOLO data set to COCO annotation files; the photos stay where they are."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data.data_yaml import DataSpec
from data.formats.coco_json import whole
from data.formats.yolo_set import (
    IDS,
    REPORT,
    Conversion,
    Finding,
    LabelledObject,
    LabelledPhoto,
    check_target,
    publish,
    write_overlays,
    write_report,
)
from data.labels.index import LabelIndex
from data.split import load_split
from utils.errors import UserError, printable
from utils.metrics.truths import to_xywh
from utils.run_folder import json_text


def convert_yolo(spec: DataSpec, target: Path | None, exist_ok: bool = False) -> Conversion:
    """Writes a COCO file per split of a YOLO data set to `target` (None: writes nothing), and a report.

    Boxes keep every digit that the labels give, and classes and photos the ids of ids.json beside the data YAML, where
    an earlier conversion left one.
    """
    if target is not None:
        check_target(Path(target), spec.root, exist_ok, inside=True)
    conversion = Conversion(spec.root, spec.names, [], [], ids=_read_ids(spec.yaml.parent / IDS))
    documents = {}
    for split in spec.splits:
        index = load_split(spec, split)
        names = _photo_names(spec, split, index)
        documents[split] = _document(conversion, split, index, names)
        _record(conversion, split, index, names)
    if target is not None:
        _write(conversion, spec, documents, Path(target).absolute(), exist_ok)
    return conversion


def _read_ids(path: Path) -> dict[str, dict[str, int]]:
    """The ids that a conversion to YOLO left; nothing where there is no such file."""
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
        if None in numbers.values() or len(set(numbers.values())) < len(numbers):
            raise UserError(f"{printable(path)}: {key}: expected a whole number of its own for each name")
    return found


def _photo_names(spec: DataSpec, split: str, index: LabelIndex) -> list[str]:
    """The name of each photo below the folder that its split names, or below the folder of all of them."""
    folders = [folder for folder in spec.splits[split] if folder.is_dir()]
    common = Path(os.path.commonpath([str(Path(image).parent) for image in index.images]))
    names = []
    for image in map(Path, index.images):
        own = next((folder for folder in folders if image.is_relative_to(folder)), common)
        names.append(image.relative_to(own if len(folders) == 1 else common).as_posix())
    return names


def _document(conversion: Conversion, split: str, index: LabelIndex, names: list[str]) -> dict[str, Any]:
    """A split as a COCO file."""
    class_ids, photo_ids = (conversion.ids.get(key, {}) for key in ("categories", "images"))
    # A conversion wrote images/<split>/<name>; so the end of the path is the key.
    keys = [f"{Path(image.removesuffix(name)).name}/{name}" for image, name in zip(index.images, names, strict=True)]
    known = all(key in photo_ids for key in keys)
    ids = [photo_ids[key] if known else number for number, key in enumerate(keys, 1)]
    known = all(name in class_ids for name in conversion.names)
    categories = [class_ids[name] if known else number for number, name in enumerate(conversion.names, 1)]
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, name, (height, width) in zip(ids, names, index.sizes.tolist(), strict=True)
    ]
    xywh = to_xywh(index.boxes.astype(np.float64))
    area = xywh[:, 2] * xywh[:, 3]
    image = np.repeat(np.arange(len(index)), np.diff(index.starts))
    columns = (image.tolist(), index.labels.tolist(), xywh.tolist(), area.tolist())
    annotations = [
        {"id": number, "image_id": ids[row], "category_id": categories[label], "bbox": box, "area": size, "iscrowd": 0}
        for number, (row, label, box, size) in enumerate(zip(*columns, strict=True), 1)
    ]
    kinds = [{"id": number, "name": name} for number, name in zip(categories, conversion.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": kinds}


def _record(conversion: Conversion, split: str, index: LabelIndex, names: list[str]) -> None:
    """Adds the split to the conversion, with what its labels' check left out."""
    for row, name in enumerate(names):
        boxes, labels = index.of(row)
        height, width = index.sizes[row].tolist()
        scaled = boxes.astype(np.float64) / [width, height, width, height]
        centre, side = (scaled[:, :2] + scaled[:, 2:]) / 2, scaled[:, 2:] - scaled[:, :2]
        objects = [
            LabelledObject(label, *xy, *wh)
            for label, xy, wh in zip(labels.tolist(), centre.tolist(), side.tolist(), strict=True)
        ]
        conversion.photos.append(LabelledPhoto(split, Path(index.images[row]), objects, name, (height, width)))
    report = index.report
    for where, reason in report.dropped:
        conversion.findings.append(Finding("dropped", split, printable(where), "", reason))
    for path, reason in report.unreadable:
        conversion.findings.append(Finding("dropped photo", split, printable(path), "", printable(reason)))
    for action, count, reason in (
        ("clipped", report.clipped, "boxes up to 1 % beyond the photo"),
        ("noted", report.missing, "photos without a label file: background"),
    ):
        if count:
            conversion.findings.append(Finding(action, split, "", "", reason, str(count)))


def _write(conversion: Conversion, spec: DataSpec, documents: dict[str, Any], target: Path, exist_ok: bool) -> None:
    """annotations/<split>.json, a data YAML that names them beside the photos, report and overlays; all or nothing."""
    values: dict[str, Any] = {"path": str(spec.root)}
    for split, sources in spec.splits.items():
        values[split] = str(sources[0]) if len(sources) == 1 else list(map(str, sources))
    if spec.labels_dir is not None:
        values["labels_dir"] = spec.labels_dir
    measured = [split for split in documents if split != "train"]
    if measured:
        values["annotations"] = {split: str(target / "annotations" / f"{split}.json") for split in measured}
    values["names"] = dict(enumerate(spec.names))
    note = f"# Made by convert.py from {printable(spec.yaml)}; see {REPORT} for what was dropped.\n"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            draft = Path(temporary) / "set"
            (draft / "annotations").mkdir(parents=True)
            for split, document in documents.items():
                text = json_text(document)
                (draft / "annotations" / f"{split}.json").write_text(text, "utf-8")
            (draft / "data.yaml").write_text(
                note + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8"
            )
            write_report(conversion, draft)
            write_overlays(conversion, draft / "overlays")
            check_target(target, spec.root, exist_ok, inside=True)
            publish(draft, target, Path(temporary) / "replaced")
    except OSError as error:
        raise UserError(f"the conversion cannot be written to {printable(target)}: {printable(error)}") from error
