"""Writes a converted data set: photos, YOLO labels, data.yaml and a report of what was dropped, clipped or noted."""

import csv
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from data.images import ImageError, read_image
from utils.drawing.draw import draw_boxes, write_image
from utils.errors import UserError, printable
from utils.run_folder import encoded, json_text

IMAGE_MODES = ("link", "copy", "list")
REPORT = "report.json"
MADE_BY = "AlignYOLO convert.py"
IDS = "ids.json"
OVERLAYS = 16
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
class Conversion:
    """What a conversion found: source (absolute), class names by id, photos with labels, findings, choices made.

    `annotations` are original COCO files of splits; `ids` the source's own ids of classes and photos.
    """

    source: Path
    names: tuple[str, ...]
    photos: list[LabelledPhoto]
    findings: list[Finding]
    facts: dict[str, Any] = field(default_factory=dict)
    annotations: dict[str, Path] = field(default_factory=dict)
    ids: dict[str, dict[str, int]] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, Any]]:
        """Photos and boxes per split, and boxes per class."""
        counts: dict[str, dict[str, Any]] = {}
        for split in dict.fromkeys(photo.split for photo in self.photos):
            photos = [photo for photo in self.photos if photo.split == split]
            classes = Counter(self.names[each.label] for photo in photos for each in photo.objects)
            per_class = {name: classes[name] for name in self.names}
            counts[split] = {"images": len(photos), "boxes": classes.total(), "per_class": per_class}
        return counts

    def reasons(self) -> Counter[tuple[str, str]]:
        """How often each (action, reason) was found."""
        return Counter((finding.action, finding.reason) for finding in self.findings)


def check_target(target: Path, source: Path, exist_ok: bool, inside: bool = False) -> None:
    """UserError if the converted set may not go to `target`: it is in the source, or something else is there."""
    target, source = target.resolve(), source.resolve()
    if target == source or (target.is_relative_to(source) and not inside):
        raise UserError(f"{printable(target)} lies in the source folder, which stays as it is; choose another place")
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not exist_ok:
        raise UserError(f"{printable(target)} exists already (--exist-ok replaces an earlier conversion)")
    if not _is_conversion(target):
        raise UserError(f"{printable(target)} is no earlier conversion (it has no {REPORT} of one); it is not replaced")


def write_yolo_set(conversion: Conversion, target: Path, images: str, exist_ok: bool = False) -> None:
    """Writes photos, labels, data.yaml, names.txt and report to `target`, all or nothing; UserError if that fails."""
    target = Path(target).absolute()
    check_target(target, conversion.source, exist_ok)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            draft = Path(temporary) / "set"
            draft.mkdir()
            _write_photos(conversion, draft, target, images)
            annotations = _write_annotations(conversion, draft, target)
            _write_yaml(conversion, draft / "data.yaml", target, images, annotations)
            names = "".join(f"{printable(name)}\n" for name in conversion.names)
            (draft / "names.txt").write_text(names, "utf-8")
            _write_ids(conversion, draft)
            write_report(conversion, draft)
            write_overlays(conversion, draft / "overlays")
            publish(draft, target, Path(temporary) / "replaced")
    except OSError as error:
        raise UserError(f"the conversion cannot be written to {printable(target)}: {printable(error)}") from error


def publish(draft: Path, target: Path, replaced: Path) -> None:
    """Renames the finished set to its place; what was there is moved away, or back if that fails."""
    if target.exists():
        target.rename(replaced)
    try:
        draft.rename(target)
    except OSError:
        if replaced.exists():
            replaced.rename(target)
        raise


def _is_conversion(target: Path) -> bool:
    try:
        return json.loads((target / REPORT).read_text("utf-8"))["made_by"] == MADE_BY
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_photos(conversion: Conversion, draft: Path, target: Path, images: str) -> None:
    """Labels, and photos as links or copies, or as lines of a list file per split."""
    lines: dict[str, list[str]] = {}
    for split, photo, objects, name, *_ in conversion.photos:
        if images == "list":
            below = photo.relative_to(conversion.source).parent
            label = draft / "labels" / below / f"{photo.stem}.txt"
            lines.setdefault(split, []).append(f"{photo}\n")
        else:
            label = (draft / "labels" / split / name).with_suffix(".txt")
            place = draft / "images" / split / name
            place.parent.mkdir(parents=True, exist_ok=True)
            _bring(photo, place, images)
        label.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(f"{label} {x:.7f} {y:.7f} {w:.7f} {h:.7f}\n" for label, x, y, w, h, _ in objects)
        label.write_text(text, "utf-8")
    for split, photos in lines.items():
        (draft / f"{split}.txt").write_bytes(encoded("".join(photos)))


def _bring(photo: Path, place: Path, images: str) -> None:
    """A hard link, or a copy where that is asked for or where links cannot be made, as across devices."""
    photo = photo.resolve()
    if images == "link":
        try:
            os.link(photo, place)
            return
        except OSError:
            place.unlink(missing_ok=True)
    shutil.copyfile(photo, place)


def _write_annotations(conversion: Conversion, draft: Path, target: Path) -> dict[str, Path]:
    """COCO files for splits with objects that labels cannot hold, so that an evaluation knows them too."""
    files = dict(conversion.annotations)
    for split in conversion.counts():
        photos = [photo for photo in conversion.photos if photo.split == split]
        if split not in files and any(photo.ignored for photo in photos):
            (draft / "annotations").mkdir(exist_ok=True)
            path = draft / "annotations" / f"{split}.json"
            path.write_text(json_text(coco_document(conversion, split)), "utf-8")
            files[split] = target / "annotations" / f"{split}.json"
    return files


def coco_document(conversion: Conversion, split: str) -> dict[str, Any]:
    """A split as a COCO file, with the source's own ids where it has them; others are numbered from 1."""
    class_ids, photo_ids = (conversion.ids.get(key, {}) for key in ("categories", "images"))
    categories = [{"id": class_ids.get(name, number), "name": name} for number, name in enumerate(conversion.names, 1)]
    images: list[dict] = []
    annotations: list[dict] = []
    for number, photo in enumerate((each for each in conversion.photos if each.split == split), 1):
        height, width = photo.size
        image = photo_ids.get(f"{split}/{photo.name}", number)
        images.append({"id": image, "file_name": photo.name, "height": height, "width": width})
        for item in (*photo.objects, *photo.ignored):
            w, h = item.width * width, item.height * height
            box = [item.x * width - w / 2, item.y * height - h / 2, w, h]
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": categories[item.label]["id"]}
            entry |= {"bbox": box, "area": w * h, "iscrowd": int(item.kind == "crowd")}
            annotations.append(entry | ({"ignore": 1} if item.kind == "difficult" else {}))
    return {"images": images, "annotations": annotations, "categories": categories}


def _write_ids(conversion: Conversion, draft: Path) -> None:
    """ids.json: the source's own ids, from which the way back restores them."""
    if conversion.ids:
        (draft / IDS).write_text(json_text(conversion.ids, indent=1) + "\n", "utf-8")


def write_overlays(conversion: Conversion, folder: Path) -> None:
    """Up to 16 photos, spread over the set, with the boxes that were written: the quickest check that they fit."""
    candidates = [photo for photo in conversion.photos if photo.objects]
    folder.mkdir(exist_ok=True)
    for number in range(min(OVERLAYS, len(candidates))):
        photo = candidates[number * len(candidates) // min(OVERLAYS, len(candidates))]
        try:
            image = read_image(photo.photo)
        except ImageError:
            continue
        height, width = image.shape[:2]
        x, y, w, h = np.array([item[1:5] for item in photo.objects]).T
        boxes = np.column_stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * [width, height, width, height]
        drawn = draw_boxes(image, boxes, [item.label for item in photo.objects], conversion.names)
        write_image(folder / f"{number:02d}_{photo.split}_{photo.photo.stem[:60]}.jpg", drawn)


def _write_yaml(conversion: Conversion, path: Path, target: Path, images: str, annotations: dict[str, Path]) -> None:
    """The data YAML; with `list` its paths are absolute, because the photos stay where they are.

    Without `path:` the splits are relative to the file, for ultralytics too, which takes `path: .` for its own folder.
    """
    values: dict[str, Any] = {}
    if images == "list":
        values = {"path": str(conversion.source), "labels_dir": str(target / "labels")}
    for split in conversion.counts():
        entry = str(target / f"{split}.txt") if images == "list" else f"images/{split}"
        values.setdefault(split.rstrip("0123456789"), []).append(entry)
    for key, entries in values.items():
        if isinstance(entries, list) and len(entries) == 1:
            values[key] = entries[0]
    for split, file in annotations.items():
        key = split.rstrip("0123456789")
        if len(values.get(key, "")) and isinstance(values[key], str) and key != "train":
            inside = file.is_relative_to(target) and images != "list"
            values.setdefault("annotations", {})[key] = str(file.relative_to(target) if inside else file)
    values["names"] = dict(enumerate(conversion.names))
    note = f"# Made by convert.py from {printable(conversion.source)}; see {REPORT} for what was dropped.\n"
    path.write_text(note + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")


def write_report(conversion: Conversion, draft: Path) -> None:
    """report.json and, one finding per line, report.csv."""
    report = {
        "made_by": MADE_BY,
        "source": str(conversion.source),
        "names": list(conversion.names),
        **conversion.facts,
        "splits": conversion.counts(),
        "found": [
            {"action": action, "reason": reason, "count": count}
            for (action, reason), count in conversion.reasons().most_common()
        ],
        "findings": [finding._asdict() for finding in conversion.findings],
    }
    (draft / REPORT).write_text(json_text(report, indent=1) + "\n", "utf-8")
    with (draft / "report.csv").open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Finding._fields)
        writer.writerows(conversion.findings)


def summary(conversion: Conversion) -> Iterable[str]:
    """Lines that tell a person what came out."""
    for split, counts in conversion.counts().items():
        per_class = Counter(counts["per_class"]).most_common() if len(conversion.names) > SHOWN_CLASSES else None
        shown = per_class[:SHOWN_CLASSES] if per_class else counts["per_class"].items()
        classes = ", ".join(f"{name} {count:,}" for name, count in shown)
        classes += f" and {len(per_class) - SHOWN_CLASSES} classes more" if per_class else ""
        yield f"  {split:<10} {counts['images']:>7,} photos {counts['boxes']:>9,} boxes   {classes}"
    for name, value in conversion.facts.items():
        yield f"  {name.replace('_', ' ')}: {value}"
    for (action, reason), count in conversion.reasons().most_common():
        yield f"  {action} {count:,}: {reason}"
