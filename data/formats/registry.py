"""The formats that are read and written: an entry each, of what it is known by, its reader and the choices it takes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.formats.annotation_set import AnnotationSet
from data.formats.coco import looks_like_coco, read_coco_set
from data.formats.tools.cvat_xml import looks_like_cvat, read_cvat_set
from data.formats.tools.datumaro_json import looks_like_datumaro, read_datumaro_set
from data.formats.tools.label_studio import looks_like_label_studio, read_label_studio_set
from data.formats.tools.labelme import looks_like_labelme, read_labelme_set
from data.formats.voc.layout import holds_voc
from data.formats.voc.reader import read_voc_set
from data.formats.write.coco import write_coco_set
from data.formats.write.darknet import write_darknet_set
from data.formats.write.voc import write_voc_set
from data.formats.write.yolo import write_yolo_set


@dataclass(frozen=True)
class Format:
    """A format of annotations: its title, what it is known by, in words and as a test of a path, and its reader.

    `read(source, **choices)` takes the choices that are named here, and no others.
    """

    name: str
    title: str
    known_by: str
    recognises: Callable[[Path], bool]
    read: Callable[..., AnnotationSet]
    choices: tuple[str, ...]


VOC = Format(
    "voc",
    "Pascal VOC folders",
    "a folder with XML files that begin with <annotation>, in Annotations/, in any one folder, or beside their photos",
    lambda path: path.is_dir() and holds_voc(path),
    read_voc_set,
    ("names", "splits", "keep_difficult", "pixel_origin"),
)
COCO = Format(
    "coco",
    "COCO or LVIS annotation files",
    "a JSON file with images, annotations and categories, or a folder with annotations/*.json, "
    "*/_annotations.coco.json or *.json",
    looks_like_coco,
    read_coco_set,
    ("photos", "splits", "subset"),
)
CVAT = Format(
    "cvat",
    "CVAT's XML",
    "CVAT's annotations.xml, which begins with <annotations>",
    looks_like_cvat,
    read_cvat_set,
    ("photos",),
)
LABEL_STUDIO = Format(
    "label_studio",
    "Label Studio's JSON",
    "a JSON file that is a list of Label Studio's tasks",
    looks_like_label_studio,
    read_label_studio_set,
    ("photos",),
)
DATUMARO = Format(
    "datumaro",
    "datumaro's JSON",
    "annotations/*.json with datumaro's categories and items",
    looks_like_datumaro,
    read_datumaro_set,
    ("photos",),
)
LABELME = Format(
    "labelme",
    "labelme's JSON files",
    "JSON files with labelme's shapes and imagePath, one a photo",
    looks_like_labelme,
    read_labelme_set,
    ("photos",),
)
# The order in which a source is tried.
FORMATS = {each.name: each for each in (DATUMARO, LABELME, COCO, LABEL_STUDIO, CVAT, VOC)}

WRITERS: dict[str, Callable[[AnnotationSet, Path, str, bool], None]] = {
    "yolo": write_yolo_set,
    "coco": write_coco_set,
    "voc": write_voc_set,
    "darknet": write_darknet_set,
}


def recognise(path: Path) -> Format | None:
    """Find the format of a file or folder by what it holds; None if it is none of those known."""
    return next((each for each in FORMATS.values() if each.recognises(path)), None)


def read_as(name: str, source: Path, **choices: Any) -> AnnotationSet:
    """Read a source in a format, with those of the choices that are set."""
    return FORMATS[name].read(source, **choices)
