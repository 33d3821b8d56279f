"""CVAT's own XML ("CVAT for images 1.1": one annotations.xml for all photos), read as an annotation set."""

import math
import os
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto
from data.formats.photo_finder import PhotoFinder
from data.formats.reading import BadAnnotation, clipped_box, frame, one_label_each, place_in_set
from data.images import ImageError
from utils.errors import UserError, printable
from utils.regular_file import require_regular

LARGEST_XML = 2**30
SUBSETS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
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
    source = Path(os.path.normpath(Path(source).absolute()))
    file = source / "annotations.xml" if source.is_dir() else source
    root = _parse(file)
    images = [element for element in root.iter("image") if element.get("name")]
    found = AnnotationSet(source, _class_names(root, images), [], [])
    subsets = {element.get("subset", "") for element in images}
    folders = [file.parent / "images" / each for each in sorted(subsets)] + [file.parent / "images", file.parent]
    names = [element.get("name", "").replace("\\", "/") for element in images]
    finder = PhotoFinder(names, photos or folders, deep=True)
    for element, name in zip(images, names, strict=True):
        split = SUBSETS.get(element.get("subset", "").lower(), "train")
        try:
            photo, place = finder.find(name)
            declared, size = frame(photo, _size(element), split, found.findings)
        except (ImageError, BadAnnotation) as error:
            reason = printable(error.reason)
            found.findings.append(Finding("dropped photo", split, printable(name), "", reason))
            continue
        objects = _objects(element, declared, split, name, found)
        found.photos.append(LabelledPhoto(split, photo, objects, str(place_in_set(place)), size))
    found.photos = one_label_each(found.photos, found.findings)
    if not any(photo.objects for photo in found.photos):
        reasons = found.reasons().most_common(1)
        why = f"; most often ({reasons[0][1]} times): {reasons[0][0][1]}" if reasons else ""
        raise UserError(f"no box in {printable(file)} can be converted{why}")
    return found


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


def _objects(
    element: ElementTree.Element, size: tuple[int, int], split: str, name: str, found: AnnotationSet
) -> list[LabelledObject]:
    """Make labels of boxes, and of polygons and masks the box around them; count the shapes that have none."""
    labels = {each: number for number, each in enumerate(found.names)}
    objects: list[LabelledObject] = []
    skipped: Counter[str] = Counter()
    where = (split, printable(name))
    for number, shape in enumerate((each for each in element if each.tag in SHAPES), 1):
        corners = _corners(shape)
        label = labels.get(printable(shape.get("label") or ""))
        if corners is None or label is None:
            skipped[shape.tag] += 1
            continue
        left, top, right, bottom = corners
        height, width = size
        if right <= max(left, 0) or bottom <= max(top, 0) or left >= width or top >= height:
            found.findings.append(Finding("dropped", *where, f"{number} {shape.tag}", "box without area in the photo"))
            continue
        if float(shape.get("rotation") or 0):
            reason = "rotated box: the upright box around it is used"
            found.findings.append(Finding("noted", *where, f"{number} {shape.tag}", reason))
        box, clipped = clipped_box(corners, size)
        if clipped:
            values = " ".join(f"{side:g}" for side in corners)
            found.findings.append(Finding("clipped", *where, str(number), "box reaches beyond the photo", values))
        objects.append(LabelledObject(label, *box))
    for tag, count in skipped.items():
        found.findings.append(
            Finding("dropped", *where, tag, f"{printable(tag)}: no box can be made of it", str(count))
        )
    return objects


def _corners(shape: ElementTree.Element) -> tuple[float, float, float, float] | None:
    """Find the upright box around a shape; None for one without extent, or with numbers that are none."""
    try:
        if shape.tag == "box":
            x1, y1, x2, y2 = (float(shape.get(key) or "nan") for key in ("xtl", "ytl", "xbr", "ybr"))
            turn = math.radians(float(shape.get("rotation") or 0))
            wide, high = (x2 - x1) / 2, (y2 - y1) / 2
            half = (
                wide * abs(math.cos(turn)) + high * abs(math.sin(turn)),
                wide * abs(math.sin(turn)) + high * abs(math.cos(turn)),
            )
            centre = ((x1 + x2) / 2, (y1 + y2) / 2)
            corners = (x1, y1, x2, y2) if not turn else _around(centre, half)
        elif shape.tag == "ellipse":
            cx, cy, rx, ry = (float(shape.get(key) or "nan") for key in ("cx", "cy", "rx", "ry"))
            corners = _around((cx, cy), (rx, ry))
        elif shape.tag == "mask":
            left, top, width, height = (float(shape.get(key) or "nan") for key in ("left", "top", "width", "height"))
            corners = (left, top, left + width, top + height)
        elif shape.tag == "polygon":
            points = [tuple(map(float, pair.split(","))) for pair in (shape.get("points") or "").split(";")]
            xs, ys = [point[0] for point in points], [point[1] for point in points]
            corners = (min(xs), min(ys), max(xs), max(ys))
        else:
            return None
    except (ValueError, IndexError, OverflowError):
        return None
    return corners if all(map(math.isfinite, corners)) else None


def _around(centre: tuple[float, float], half: tuple[float, float]) -> tuple[float, float, float, float]:
    return centre[0] - half[0], centre[1] - half[1], centre[0] + half[0], centre[1] + half[1]
