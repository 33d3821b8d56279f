"""CVAT's own XML ("CVAT for images 1.1": one annotations.xml for all photos), read as an annotation set."""

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path

from data.formats.annotation_set import AnnotationSet
from data.formats.tools.shapes import DrawnPhoto, Shape, absolute, annotation_set, split_of, subset_finders
from data.formats.turned import Corners, around, is_turned, turned_box, turned_ellipse
from utils.errors import UserError, printable
from utils.regular_file import require_regular

LARGEST_XML = 2**30
SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid", "skeleton", "tag")


def looks_like_cvat(path: Path) -> bool:
    """Tell whether a file, or annotations.xml in a folder, begins as CVAT's XML."""
    file = path / "annotations.xml" if path.is_dir() else path
    try:
        with require_regular(file).open("rb") as opened:
            start = opened.read(4096)
    except OSError:
        return False
    return file.suffix.lower() == ".xml" and b"<annotations" in start and (b"<meta" in start or b"<image" in start)


def read_cvat_set(source: Path, photos: Sequence[Path] = ()) -> AnnotationSet:
    """Read CVAT's annotations.xml; UserError if nothing can be used. Subsets train, val and test are splits."""
    source = absolute(source)
    file = source / "annotations.xml" if source.is_dir() else source
    root = _parse(file)
    images = [element for element in root.iter("image") if element.get("name")]
    if not images:
        video = root.find("track") is not None
        found = "the tracks of CVAT for video: export the task as CVAT for images" if video else "none"
        raise UserError(f"{printable(file)}: expected <image> with shapes, found {found}")
    drawn = [_drawn(element) for element in images]
    return annotation_set(source, _class_names(root, images), drawn, subset_finders(drawn, file.parent, photos))


def _drawn(element: ElementTree.Element) -> DrawnPhoto:
    shapes = [_shape(each) for each in element if each.tag in SHAPES]
    subset = element.get("subset", "")
    return DrawnPhoto(element.get("name", "").replace("\\", "/"), split_of(subset), _size(element), shapes, subset)


def _shape(element: ElementTree.Element) -> Shape:
    corners = _corners(element)
    turned = corners is not None and element.tag in ("box", "ellipse") and is_turned(_turn(element))
    return Shape(printable(element.get("label") or ""), corners, element.tag, turned)


def _parse(file: Path) -> ElementTree.Element:
    shown = printable(file)
    try:
        if file.stat().st_size > LARGEST_XML:
            raise UserError(f"{shown}: larger than {LARGEST_XML >> 20} MiB")
        data = require_regular(file).read_bytes()
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {printable(error)}") from None
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise UserError(f"{shown}: refused: a document type, entities or NUL bytes")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f"{shown}: no XML: {printable(error, 100)}") from None
    if root.tag != "annotations":
        raise UserError(f"{shown}: expected CVAT's <annotations>, found <{printable(root.tag, 40)}>")
    return root


def _class_names(root: ElementTree.Element, images: Sequence[ElementTree.Element]) -> tuple[str, ...]:
    """Name the classes in the order of the task's labels, else sorted."""
    found = {shape.get("label", "") for image in images for shape in image if shape.tag in SHAPES} - {""}
    listed = [(label.findtext("name") or "").strip() for label in root.iterfind(".//labels/label")]
    named = list(dict.fromkeys(printable(name) for name in listed if name))
    found = {printable(name) for name in found}
    return tuple(named if found <= set(named) else sorted(found))


def _size(element: ElementTree.Element) -> tuple[int, int]:
    texts = (element.get("height") or "", element.get("width") or "")
    height, width = (int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0 for text in texts)
    return height, width


def _corners(shape: ElementTree.Element) -> Corners | None:
    """Find the upright box around a shape; None for one without extent, or with numbers that are none."""
    try:
        if shape.tag == "box":
            x1, y1, x2, y2 = (float(shape.get(key) or "nan") for key in ("xtl", "ytl", "xbr", "ybr"))
            corners = turned_box((x1, y1, x2, y2), _turn(shape))
        elif shape.tag == "ellipse":
            cx, cy, rx, ry = (float(shape.get(key) or "nan") for key in ("cx", "cy", "rx", "ry"))
            corners = turned_ellipse((cx, cy), (rx, ry), _turn(shape))
        elif shape.tag == "mask":
            left, top, width, height = (float(shape.get(key) or "nan") for key in ("left", "top", "width", "height"))
            corners = (left, top, left + width, top + height)
        elif shape.tag == "polygon":
            pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";")]
            corners = around([(float(x), float(y)) for x, y in pairs])
        else:
            return None
    except (ValueError, IndexError, OverflowError):
        return None
    return corners if all(map(math.isfinite, corners)) else None


def _turn(shape: ElementTree.Element) -> float:
    """Read by how many degrees clockwise a shape is turned about its centre."""
    return float(shape.get("rotation") or 0)
