"""The one writer of YOLO sets: photos, labels, data.yaml, and truth files where labels cannot hold what is known."""

from pathlib import Path
from typing import Any

import yaml

from data.data_yaml import exchange_images
from data.formats.annotation_set import AnnotationSet, LabelledObject, base_split
from data.formats.coco_json import document_of, joined_document
from data.formats.write.coco import coco_document, truth_document, write_ids
from data.formats.write.folder import REPORT, bring, check_target, write_folder, write_overlays, write_report
from utils.errors import UserError, nearest, printable
from utils.run_folder import encoded, json_text

IMAGE_MODES = ("link", "copy", "list")
ALL_MODES = (*IMAGE_MODES, "symlink")


def write_yolo_set(found: AnnotationSet, target: Path, images: str = "link", exist_ok: bool = False) -> None:
    """Write photos, labels, data.yaml, names.txt and report to `target`, all or nothing; UserError if that fails."""
    if images not in ALL_MODES:
        raise UserError(f"unknown way to bring images {printable(images)!r}{nearest(images, ALL_MODES)}")
    target = Path(target).absolute()

    def fill(draft: Path) -> None:
        _write_photos(found, draft, images)
        annotations = _write_truths(found, draft, target, images)
        _write_yaml(found, draft / "data.yaml", target, images, annotations)
        names = "".join(f"{printable(name)}\n" for name in found.names)
        (draft / "names.txt").write_text(names, "utf-8")
        write_ids(found, draft)
        write_report(found, draft)
        write_overlays(found, draft / "overlays")

    write_folder(target, fill, lambda: check_target(target, found.source, exist_ok))


def _write_photos(found: AnnotationSet, draft: Path, images: str) -> None:
    """Write labels, and photos as links or copies, or as lines of a list file per split."""
    lines: dict[str, list[str]] = {}
    for split, photo, objects, name, *_ in found.photos:
        if images == "list":
            below = exchange_images(photo.relative_to(found.source).parent.parts, ())
            label = draft.joinpath("labels", *below, f"{photo.stem}.txt")
            lines.setdefault(split, []).append(f"{photo}\n")
        else:
            label = (draft / "labels" / split / name).with_suffix(".txt")
            bring(photo, draft / "images" / split / name, images)
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(label_text(objects), "utf-8")
    for split, photos in lines.items():
        (draft / f"{split}.txt").write_bytes(encoded("".join(photos)))


def label_text(objects: list[LabelledObject]) -> str:
    """Write objects as lines `class cx cy w h`, with so many digits that whole pixels are whole when they are read."""
    return "".join(f"{item.label} {' '.join(map(_fraction, item[1:5]))}\n" for item in objects)


def _fraction(value: float) -> str:
    return f"{value:.10f}".rstrip("0").removesuffix(".")


def _write_truths(found: AnnotationSet, draft: Path, target: Path, images: str) -> dict[str, Path]:
    """Name a COCO file for each of train, val, test that needs one: an evaluation must know what labels cannot hold.

    That is the original file, or a mended one where the labels are not what the original says. Splits that differ in
    their year alone are one split to train.py and val.py: they get one file for all, beside their own.
    """
    files, named = dict(found.annotations), dict[str, Path]()
    for split in found.counts():
        document = document_of(found.truths[split]) if split in found.truths else None
        ignored = any(photo.ignored for photo in found.photos if photo.split == split)
        if document is None and split not in files and ignored:
            document = coco_document(found, split)
        if document is not None:
            (draft / "annotations").mkdir(exist_ok=True)
            path = draft / "annotations" / f"{split}.json"
            path.write_text(json_text(document), "utf-8")
            files[split] = target / "annotations" / f"{split}.json"
    groups = found.by_base()
    for base, splits in groups.items():
        # Of the photos to train on a validation split may be held out (`--val`), where there is none.
        measured = base != "train" or "val" not in groups
        own = [split for split in splits if split in files]
        if own and measured and len(splits) > 1:
            (draft / "annotations").mkdir(exist_ok=True)
            document = joined_document([_placed(found, split, images == "list") for split in splits])
            (draft / "annotations" / f"{base}.json").write_text(json_text(document), "utf-8")
            named[base] = target / "annotations" / f"{base}.json"
        elif own and measured:
            named[base] = files[own[0]]
    return named


def _placed(found: AnnotationSet, split: str, as_found: bool) -> dict[str, Any]:
    """Make a split's COCO file in which photos have their folder before their name: other splits have the same names.

    With `as_found` that is where they lie in the source.
    """
    photos = {photo.name: photo.photo for photo in found.photos if photo.split == split}
    document = truth_document(found, split)
    for image in document["images"]:
        name = image["file_name"]
        image["file_name"] = photos[name].relative_to(found.source).as_posix() if as_found else f"{split}/{name}"
    return document


def _write_yaml(found: AnnotationSet, path: Path, target: Path, images: str, annotations: dict[str, Path]) -> None:
    """Write the data YAML; with `list` its paths are absolute, because the photos stay where they are.

    Without `path:` the splits are relative to the file, for ultralytics too, which takes `path: .` for its own folder.
    """
    values: dict[str, Any] = {}
    if images == "list":
        values = {"path": str(found.source), "labels_dir": str(target / "labels")}
    for split in found.counts():
        entry = str(target / f"{split}.txt") if images == "list" else f"images/{split}"
        values.setdefault(base_split(split), []).append(entry)
    for key, entries in values.items():
        if isinstance(entries, list) and len(entries) == 1:
            values[key] = entries[0]
    for key, file in annotations.items():
        inside = file.is_relative_to(target) and images != "list"
        values.setdefault("annotations", {})[key] = str(file.relative_to(target) if inside else file)
    values["names"] = dict(enumerate(found.names))
    note = f"# Made by convert.py from {printable(found.source)}; see {REPORT} for what was dropped.\n"
    path.write_text(note + yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
