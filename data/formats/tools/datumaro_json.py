"""Datumaro's own JSON (annotations/<subset>.json with items), read as an annotation set."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.formats.annotation_set import AnnotationSet
from data.formats.coco_json import load_json
from data.formats.tools.json_files import head_of, json_files, number, pixels
from data.formats.tools.shapes import DrawnPhoto, Shape, absolute, annotation_set, split_of, subset_finders
from data.formats.turned import Corners, around, turn_of, turned_box
from utils.errors import UserError, printable

BEGINS = re.compile(rb'"dm_format_version"|"categories"\s*:\s*\{\s*("label")?')
ITEMS = re.compile(rb'"dm_format_version"|"items"\s*:\s*\[')


def looks_like_datumaro(path: Path) -> bool:
    """Tell whether a JSON file, or one in a folder or its annotations/, begins as datumaro's."""
    return any(_begins(file) for file in _files(path)[:5])


def _files(path: Path) -> list[Path]:
    return json_files(path / "annotations") if (path / "annotations").is_dir() else json_files(path)


def _begins(file: Path) -> bool:
    head = head_of(file)
    return head.startswith(b"{") and bool(BEGINS.search(head)) and bool(ITEMS.search(head))


def read_datumaro_set(source: Path, photos: Sequence[Path] = ()) -> AnnotationSet:
    """Read the items of all subsets; train, val and test are splits, others train. UserError if nothing can be used."""
    source = absolute(source)
    files = [file for file in _files(source) if _begins(file)]
    if not files:
        raise UserError(f"no datumaro JSON file in {printable(source)}: expected annotations/*.json with items")
    root = source if source.is_dir() else source.parent
    root = root.parent if root.name == "annotations" else root
    names: tuple[str, ...] = ()
    drawn: list[DrawnPhoto] = []
    for file in files:
        document = load_json(file)
        own = _names(document, file)
        if names and own != names:
            raise UserError(f"{printable(file)}: its labels differ from those of the other subset")
        names = own
        drawn += [_drawn(item, names, file, place) for place, item in enumerate(_items(document, file))]
    return annotation_set(source, names, drawn, subset_finders(drawn, root, photos))


def _names(document: Any, file: Path) -> tuple[str, ...]:
    """Read the class names in datumaro's order."""
    try:
        labels = document["categories"]["label"]["labels"]
        names = tuple(printable(each["name"]) for each in labels)
    except (KeyError, TypeError, IndexError):
        raise UserError(f"{printable(file)}: expected names under categories: label: labels") from None
    if not names or len(set(names)) < len(names):
        raise UserError(f"{printable(file)}: expected labels, each of another name")
    return names


def _items(document: Any, file: Path) -> list[Any]:
    items = document.get("items")
    if not isinstance(items, list):
        raise UserError(f"{printable(file)}: expected a list under 'items'")
    return items


def _drawn(item: Any, names: Sequence[str], file: Path, place: int) -> DrawnPhoto:
    media: Mapping[str, Any] = next((item[key] for key in ("image", "media") if isinstance(item.get(key), Mapping)), {})
    name = media.get("path") or (f"{item['id']}.jpg" if isinstance(item.get("id"), str) else "")
    if not isinstance(name, str) or not name:
        raise UserError(f"{printable(file)}: items[{place}]: expected the path of an image")
    size = media.get("size")
    height, width = size if isinstance(size, list) and len(size) == 2 else (0, 0)
    entries = item.get("annotations")
    shapes = [_shape(each, names) for each in (entries if isinstance(entries, list) else [])]
    return DrawnPhoto(name.replace("\\", "/"), split_of(file.stem), pixels(height, width), shapes, file.stem)


def _shape(entry: Any, names: Sequence[str]) -> Shape:
    label = entry.get("label_id") if isinstance(entry, Mapping) else None
    name = names[label] if type(label) is int and 0 <= label < len(names) else ""
    kind = str(entry.get("type", "")) if isinstance(entry, Mapping) else "?"
    try:
        corners = _corners(entry, kind)
    except (ValueError, TypeError, KeyError):
        corners = None
    turned = kind == "bbox" and bool(turn_of(entry.get("attributes")))
    return Shape(name, corners, kind, turned)


def _corners(entry: Mapping[str, Any], kind: str) -> Corners | None:
    """Find the upright box around a box or a polygon; None for other kinds."""
    if kind == "bbox":
        x, y, width, height = map(number, entry["bbox"])
        return turned_box((x, y, x + width, y + height), turn_of(entry.get("attributes")))
    if kind == "polygon":
        values = list(map(number, entry["points"]))
        return around(list(zip(values[0::2], values[1::2], strict=True)))
    return None
