"""Conversions between formats: a reader, a writer, and a target that is written whole or not at all."""

import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from data.data_yaml import DataSpec
from data.formats.annotation_set import AnnotationSet
from data.formats.detections import read_detections
from data.formats.registry import FORMATS, WRITERS
from data.formats.write.coco import write_coco_beside
from data.formats.write.folder import check_beside, check_kept, check_target
from data.formats.write.yolo import ALL_MODES
from data.formats.yolo import read_yolo
from data.photo_files import exists
from utils.errors import UserError, nearest, printable

Change = Callable[[AnnotationSet], AnnotationSet] | None


def convert(
    name: str,
    source: Path,
    target: Path | None,
    to: str = "yolo",
    images: str = "link",
    exist_ok: bool = False,
    change: Change = None,
    **choices: Any,
) -> AnnotationSet:
    """Convert a source of the named format to a new folder `target` (None: write nothing).

    `images` is how the photos come: link, copy, symlink or, to YOLO, list; `change` is done between reading and
    writing. UserError if nothing comes out.
    """
    _check(to, images)
    for folder in choices.get("photos", ()):
        if not exists(Path(folder), Path.is_dir):
            raise UserError(f"--photos: no such folder: {printable(folder)}")
    source = Path(os.path.normpath(Path(source).absolute()))
    if not source.exists():
        raise UserError(f"no such file or folder: {printable(source)}")
    if target is not None:
        check_target(Path(target), source, exist_ok)
        check_kept(Path(target), map(Path, choices.get("photos", ())))
    found = FORMATS[name].read(source, **choices)
    found = change(found) if change else found
    if target is not None:
        WRITERS[to](found, Path(target), images, exist_ok)
    return found


def convert_voc(
    source: Path,
    target: Path | None,
    names: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    keep_difficult: bool = False,
    images: str = "link",
    pixel_origin: str = "auto",
    exist_ok: bool = False,
    to: str = "yolo",
    change: Change = None,
) -> AnnotationSet:
    """Convert VOC folders; UserError if nothing comes out."""
    choices = {"names": names, "splits": splits, "keep_difficult": keep_difficult, "pixel_origin": pixel_origin}
    return convert("voc", source, target, to, images, exist_ok, change, **choices)


def convert_coco(
    source: Path,
    target: Path | None,
    photos: Sequence[Path] = (),
    splits: Sequence[str] = (),
    images: str = "link",
    exist_ok: bool = False,
    subset: bool = False,
    to: str = "yolo",
    change: Change = None,
) -> AnnotationSet:
    """Convert COCO or LVIS files; UserError if nothing comes out."""
    if images == "list":
        raise UserError(f"unknown way to bring images 'list'{nearest('list', ('link', 'copy'))}")
    return convert("coco", source, target, to, images, exist_ok, change, photos=photos, splits=splits, subset=subset)


def convert_yolo(spec: DataSpec, target: Path | None, exist_ok: bool = False, to: str = "coco") -> AnnotationSet:
    """Convert a YOLO set; to COCO, its photos stay where they are and a data YAML names both."""
    _check(to, "link")
    if target is not None:
        check_target(Path(target), spec.root, exist_ok, inside=to == "coco")
        check_kept(Path(target), (spec.yaml, *chain(*spec.splits.values()), *spec.annotations.values()))
        check_beside(Path(target), (each for sources in spec.splits.values() for each in sources if each.is_dir()))
    found = read_yolo(spec, stays=to == "coco")
    if target is not None and to == "coco":
        write_coco_beside(found, spec, Path(target), exist_ok)
    elif target is not None:
        WRITERS[to](found, Path(target), "link", exist_ok)
    return found


def convert_detections(
    source: Path,
    target: Path | None,
    names: Sequence[str] | None = None,
    photos: Sequence[Path] = (),
    conf: float = 0.25,
    images: str = "link",
    exist_ok: bool = False,
    to: str = "coco",
    change: Change = None,
) -> AnnotationSet:
    """Convert what detect.py --save-json found to a set that labelling tools import, scores kept where they fit."""
    _check(to, images)
    if target is not None:
        check_beside(Path(target), photos)
        check_kept(Path(target), (source, *photos))
    found = read_detections(source, names, photos, conf)
    found = change(found) if change else found
    if target is not None:
        WRITERS[to](found, Path(target), images, exist_ok)
    return found


def _check(to: str, images: str) -> None:
    if to not in WRITERS:
        raise UserError(f"unknown format {printable(to)!r}{nearest(to, WRITERS)}")
    ways = ALL_MODES if to == "yolo" else ("link", "copy", "symlink")
    if images not in ways:
        raise UserError(f"unknown way to bring images {printable(images)!r}{nearest(images, ways)}")
