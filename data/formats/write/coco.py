"""COCO annotation files of an annotation set, alone, or with the photos as a COCO folder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from data.data_yaml import DataSpec
from data.formats.annotation_set import AnnotationSet, Finding
from data.formats.coco_json import CocoFile, document_of, masked, part_of, read_coco
from data.formats.write.folder import REPORT, bring, check_target, write_folder, write_overlays, write_report
from utils.errors import printable
from utils.run_folder import json_text

IDS = "ids.json"
DECIMALS = 6
OUTLINE = "objects with a mask: its area is written, its outline is not"


def coco_document(found: AnnotationSet, split: str) -> dict[str, Any]:
    """Make a COCO file of a split, with the source's own ids where it has all of them, else numbered from 1."""
    photos = [photo for photo in found.photos if photo.split == split]
    class_ids, photo_ids = (found.ids.get(key, {}) for key in ("categories", "images"))
    known = all(name in class_ids for name in found.names)
    numbers = [class_ids[name] if known else number for number, name in enumerate(found.names, 1)]
    known = all(f"{split}/{photo.name}" in photo_ids for photo in photos)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, 1):
        height, width = photo.size
        image = photo_ids[f"{split}/{photo.name}"] if known else number
        images.append({"id": image, "file_name": photo.name, "height": height, "width": width})
        for item in (*photo.objects, *photo.ignored):
            w, h = item.width * width, item.height * height
            # Whole pixels come back whole: fractions of the photo are off by some 1e-14 of it.
            box = [round(side, DECIMALS) for side in (item.x * width - w / 2, item.y * height - h / 2, w, h)]
            entry: dict[str, Any] = {"id": len(annotations) + 1, "image_id": image, "category_id": numbers[item.label]}
            entry |= {"bbox": box, "area": round(w * h, DECIMALS), "iscrowd": int(item.kind == "crowd")}
            entry |= {"ignore": 1} if item.kind == "difficult" else {}
            annotations.append(entry | ({} if item.score is None else {"score": item.score}))
    categories = [{"id": number, "name": name} for number, name in zip(numbers, found.names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}


def truth_document(found: AnnotationSet, split: str) -> dict[str, Any]:
    """Make the COCO file of a split with all that its source's file says: areas, classes that LVIS knows are absent.

    That is the mended file, the original one without photos that the set lacks, or one of the labels.
    """
    file = _truth_file(found, split)
    return coco_document(found, split) if file is None else document_of(file)


def _noted_document(found: AnnotationSet, split: str) -> dict[str, Any]:
    """Make the COCO file of a split as `truth_document` does, and note what of its source is not in it."""
    file = _truth_file(found, split)
    if file is None:
        return coco_document(found, split)
    if count := masked(file.objects):
        found.findings.append(Finding("noted", split, printable(file.path.name), "", OUTLINE, str(count)))
    return document_of(file)


def _truth_file(found: AnnotationSet, split: str) -> CocoFile | None:
    """Return what the source's file says of a split's photos; None where the source has no such file."""
    if split in found.truths:
        return found.truths[split]
    if split not in found.annotations:
        return None
    sizes = {photo.name: photo.size for photo in found.photos if photo.split == split}
    own = part_of(read_coco(found.annotations[split]), sizes)
    return replace(own, images=tuple(each._replace(size=sizes[each.file_name]) for each in own.images))


def write_ids(found: AnnotationSet, draft: Path) -> None:
    """Write ids.json: the source's own ids, from which the way back restores them."""
    if found.ids:
        (draft / IDS).write_text(json_text(found.ids, indent=1) + "\n", "utf-8")


def write_coco_set(found: AnnotationSet, target: Path, images: str = "link", exist_ok: bool = False) -> None:
    """Write annotations/instances_<split>.json and images/<split>/ to `target`, all or nothing."""
    target = Path(target).absolute()

    def fill(draft: Path) -> None:
        (draft / "annotations").mkdir()
        for split in found.counts():
            path = draft / "annotations" / f"instances_{split}.json"
            path.write_text(json_text(_noted_document(found, split)), "utf-8")
        for photo in found.photos:
            bring(photo.photo, draft / "images" / photo.split / photo.name, images)
        write_report(found, draft)
        write_overlays(found, draft / "overlays")

    write_folder(target, fill, lambda: check_target(target, found.source, exist_ok))


def write_coco_beside(found: AnnotationSet, spec: DataSpec, target: Path, exist_ok: bool = False) -> None:
    """Write annotations/<split>.json for a YOLO set that stays where it is, and a data YAML that names both."""
    target = Path(target).absolute()
    values: dict[str, Any] = {"path": str(spec.root)}
    for split, sources in spec.splits.items():
        values[split] = str(sources[0]) if len(sources) == 1 else list(map(str, sources))
    if spec.labels_dir is not None:
        values["labels_dir"] = spec.labels_dir
    measured = [split for split in found.counts() if split != "train"]
    if measured:
        values["annotations"] = {split: str(target / "annotations" / f"{split}.json") for split in measured}
    values |= {**spec.rows, "names": dict(enumerate(spec.names))}
    note = f"# Made by convert.py from {printable(spec.yaml)}; see {REPORT} for what was dropped.\n"

    def fill(draft: Path) -> None:
        (draft / "annotations").mkdir()
        for split in found.counts():
            text = json_text(_noted_document(found, split))
            (draft / "annotations" / f"{split}.json").write_text(text, "utf-8")
        (draft / "data.yaml").write_text(note + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
        write_report(found, draft)
        write_overlays(found, draft / "overlays")

    write_folder(target, fill, lambda: check_target(target, spec.root, exist_ok, inside=True))
