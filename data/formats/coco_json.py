"""COCO and LVIS annotation files: read whole, checked entry by entry, nothing believed."""

import gc
import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from data.formats.turned import turn_of, turned_box
from utils.config.yaml_file import kind_of
from utils.errors import UserError, printable
from utils.regular_file import require_regular

LARGEST_ID = 2**53
LONGEST_ID = 200
LVIS_LISTS = ("neg_category_ids", "not_exhaustive_category_ids")
NUMBERS, MOST = {int, float}, 1e9
SHOWN = 3


class Category(NamedTuple):
    """A class of the file: its id, its name, and in LVIS r, c or f."""

    id: int
    name: str
    frequency: str


class CocoImage(NamedTuple):
    """A photo of the file: id, file name, (height, width) or zeros, and LVIS's category ids of what is not there and of
    what is not annotated to the last object.
    """

    id: int
    file_name: str
    size: tuple[int, int]
    absent: tuple[int, ...]
    not_exhaustive: tuple[int, ...]


class CocoObject(NamedTuple):
    """An annotation: where it stands in the file, image id, category id, (left, top, width, height), area, kind.

    `turned` is whether the file has a box that is turned, of which this is the upright box around it.
    """

    position: int
    image: int
    category: int
    xywh: tuple[float, float, float, float]
    area: float
    crowd: bool
    difficult: bool
    turned: bool = False


class Problem(NamedTuple):
    """An entry that cannot be used: where it stands, why, and what it holds."""

    where: str
    reason: str
    values: str = ""


@dataclass(frozen=True, eq=False)
class CocoFile:
    """What a file holds, in its own order, and the entries that cannot be used.

    Ids that are texts (`cam1_0007`, UUIDs) are numbered in the order of the file, after all that are numbers.
    """

    path: Path
    categories: tuple[Category, ...]
    images: tuple[CocoImage, ...]
    objects: tuple[CocoObject, ...]
    problems: tuple[Problem, ...]
    renumbered: bool = False
    contributor: str = ""

    @property
    def federated(self) -> bool:
        """Tell whether this is LVIS: classes have a frequency and photos a list of absent classes."""
        return bool(self.categories) and all(category.frequency for category in self.categories)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Make many objects without the searches for unreachable ones that their number sets off: a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_without_garbage_collection()
def read_coco(path: Path) -> CocoFile:
    """Read a COCO or LVIS file; UserError where it is none. An entry that is wrong becomes a problem of its own."""
    document = load_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{printable(path)}: expected a COCO file (a JSON object), found {kind_of(document)}")
    parts: dict[str, list[Any]] = {}
    for key in ("images", "categories", "annotations"):
        part = document.get(key)
        if not isinstance(part, list):
            raise UserError(f"{printable(path)}: expected a list under {key!r}, found {kind_of(part)}")
        parts[key] = part
    problems: list[Problem] = []
    category_ids, image_ids = Ids(parts["categories"]), Ids(parts["images"])
    found = [_category(entry, category_ids) for entry in parts["categories"]]
    categories = tuple(_unique(found, "categories", problems))
    images = tuple(_unique([_image(entry, image_ids) for entry in parts["images"]], "images", problems))
    if not categories or not images:
        first = f"; the first problem: {problems[0].where}: {problems[0].reason}" if problems else ""
        raise UserError(f"{printable(path)}: no usable {'images' if categories else 'categories'}{first}")
    image_ids.known, category_ids.known = {image.id for image in images}, {category.id for category in categories}
    objects: list[CocoObject] = []
    for position, entry in enumerate(parts["annotations"]):
        plain = _plain_object(position, entry, image_ids.known, category_ids.known)
        item = plain or _object(position, entry, image_ids, category_ids)
        if isinstance(item, Problem):
            problems.append(item)
        else:
            objects.append(item)
    renumbered = bool(image_ids.texts or category_ids.texts)
    info = document.get("info")
    contributor = str(info.get("contributor") or "") if isinstance(info, dict) else ""
    return CocoFile(Path(path), categories, images, tuple(objects), tuple(problems), renumbered, contributor)


def document_of(file: CocoFile) -> dict[str, Any]:
    """Turn a file as read into the contents of a COCO or LVIS file again, without the entries that were problems."""
    categories: list[dict[str, Any]] = []
    for category in file.categories:
        frequency = {"frequency": category.frequency} if category.frequency else {}
        categories.append({"id": category.id, "name": category.name, **frequency})
    images: list[dict[str, Any]] = []
    for image in file.images:
        height, width = image.size
        entry: dict[str, Any] = {"id": image.id, "file_name": image.file_name, "height": height, "width": width}
        if file.federated:
            entry |= dict(zip(LVIS_LISTS, (list(image.absent), list(image.not_exhaustive)), strict=True))
        images.append(entry)
    annotations: list[dict[str, Any]] = []
    for number, item in enumerate(file.objects, 1):
        entry = {"id": number, "image_id": item.image, "category_id": item.category, "bbox": list(item.xywh)}
        entry |= {"area": item.area, "iscrowd": int(item.crowd)}
        annotations.append(entry | ({"ignore": 1} if item.difficult else {}))
    return {"images": images, "annotations": annotations, "categories": categories}


def masked(objects: Iterable[CocoObject]) -> int:
    """Count the objects whose area is not that of their box: it is that of a mask."""
    upright = (item for item in objects if not item.turned)
    return sum(abs(item.area - item.xywh[2] * item.xywh[3]) > 0.01 * item.area + 1e-6 for item in upright)


def part_of(file: CocoFile, names: Collection[str]) -> CocoFile:
    """Take the photos of these names, and their objects, from an annotation file."""
    images = tuple(image for image in file.images if image.file_name in names)
    ids = {image.id for image in images}
    return replace(file, images=images, objects=tuple(item for item in file.objects if item.image in ids))


def joined_document(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join COCO or LVIS files of the same classes: photos and objects are numbered anew, classes as in the first."""
    categories = documents[0]["categories"]
    if not all("frequency" in each for document in documents for each in document["categories"]):
        categories = [{"id": each["id"], "name": each["name"]} for each in categories]
    numbers = {each["name"]: each["id"] for each in categories}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for document in documents:
        own = {each["id"]: numbers[each["name"]] for each in document["categories"]}
        photos = {image["id"]: number for number, image in enumerate(document["images"], len(images) + 1)}
        for image in document["images"]:
            lists = {key: [own[each] for each in image[key] if each in own] for key in LVIS_LISTS if key in image}
            images.append({**image, **lists, "id": photos[image["id"]]})
        for item in document["annotations"]:
            place = {"image_id": photos[item["image_id"]], "category_id": own[item["category_id"]]}
            annotations.append({**item, **place, "id": len(annotations) + 1})
    return {"images": images, "annotations": annotations, "categories": categories}


class Ids:
    """The ids of a list of entries: whole numbers as they are, texts numbered above the largest of those."""

    def __init__(self, entries: Iterable[Any]) -> None:
        own = [entry.get("id") for entry in entries if isinstance(entry, dict)]
        texts = [each for each in own if isinstance(each, str) and whole(each) is None and 0 < len(each) <= LONGEST_ID]
        start = max((number for each in own if (number := whole(each)) is not None), default=0) + 1 if texts else 0
        self.texts = {text: start + place for place, text in enumerate(dict.fromkeys(texts))}
        self.known: set[int] = set()

    def number(self, value: Any) -> int | None:
        """Give the number of an id; None for what is no id."""
        found = whole(value)
        return self.texts.get(value) if found is None and isinstance(value, str) else found


def load_json(path: Path) -> Any:
    """Read a JSON file; UserError with its line where it is none."""
    shown = printable(path)
    try:
        return json.loads(require_regular(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"annotation file not found: {printable(Path(path).absolute())}") from None
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {printable(error.strerror)}") from None
    except RecursionError:
        raise UserError(f"{shown}: not valid JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{shown}:{error.lineno}: not valid JSON: {printable(error.msg)}") from None
    except ValueError as error:
        raise UserError(f"{shown}: not valid JSON: {printable(error)}") from None


def _unique(found: Iterable[Any], key: str, problems: list[Problem]) -> Iterator[Any]:
    """Yield the entries that are right and whose id is new."""
    seen = set()
    for position, entry in enumerate(found):
        where = f"{key}[{position}]"
        if isinstance(entry, str):
            problems.append(Problem(where, entry))
        elif entry.id in seen:
            problems.append(Problem(where, f"the id of another entry of {key}", str(entry.id)))
        else:
            seen.add(entry.id)
            yield entry


def _category(entry: Any, ids: Ids) -> Category | str:
    """Read a category, or say what is wrong with it."""
    if not isinstance(entry, dict):
        return f"category is {kind_of(entry)}"
    number, name = ids.number(entry.get("id")), entry.get("name")
    if number is None:
        return "category without an id"
    if not isinstance(name, str) or not name.strip():
        return "category without a name"
    frequency = entry.get("frequency")
    return Category(number, printable(name), frequency if frequency in ("r", "c", "f") else "")


def _image(entry: Any, ids: Ids) -> CocoImage | str:
    """Read an image, or say what is wrong with it; LVIS names the file in its address only."""
    if not isinstance(entry, dict):
        return f"image is {kind_of(entry)}"
    number, name = ids.number(entry.get("id")), entry.get("file_name")
    if not isinstance(name, str) and isinstance(entry.get("coco_url"), str):
        name = "/".join(entry["coco_url"].split("/")[-2:])
    if number is None:
        return "image without an id"
    if not isinstance(name, str) or not PurePosixPath(name).name or "\0" in name:
        return "image without a file name"
    height, width = (whole(entry.get(side)) or 0 for side in ("height", "width"))
    size = (height, width) if min(height, width) > 0 else (0, 0)
    lists = (_ids(entry.get(key)) for key in LVIS_LISTS)
    return CocoImage(number, name.replace("\\", "/"), size, *lists)


def _plain_object(position: int, entry: Any, images: set[int], categories: set[int]) -> CocoObject | None:
    """Read an annotation that is as it should be in every part, as most are, in half the time; None for others."""
    try:
        image, category, area, crowd = entry["image_id"], entry["category_id"], entry["area"], entry["iscrowd"]
        left, top, width, height = bbox = entry["bbox"]
    except (KeyError, TypeError, ValueError):
        return None
    if type(image) is not int or type(category) is not int or image not in images or category not in categories:
        return None
    # What is compared with a number, and is neither a text nor NaN nor infinite, is a number of reasonable size.
    if not {type(left), type(top), type(width), type(height), type(area)} <= NUMBERS or type(bbox) is not list:
        return None
    if not (-MOST < left < MOST and -MOST < top < MOST and -MOST < width < MOST and -MOST < height < MOST):
        return None
    if not 0 <= area < MOST or type(crowd) is not int or "ignore" in entry or "difficult" in entry:
        return None
    if "attributes" in entry and turn_of(entry["attributes"]):
        return None
    xywh = (float(left), float(top), float(width), float(height))
    return CocoObject(position, image, category, xywh, float(area), bool(crowd), False)


def _object(position: int, entry: Any, images: Ids, categories: Ids) -> CocoObject | Problem:
    """Read an annotation, or say what is wrong with it."""
    where = f"annotations[{position}]"
    if not isinstance(entry, dict):
        return Problem(where, f"annotation is {kind_of(entry)}")
    image, category = images.number(entry.get("image_id")), categories.number(entry.get("category_id"))
    if image is None or image not in images.known:
        return Problem(where, "image_id of no image", printable(entry.get("image_id"), 40))
    if category is None or category not in categories.known:
        return Problem(where, "category_id of no category", printable(entry.get("category_id"), 40))
    xywh = _numbers(entry.get("bbox"), 4) or _polygon_box(entry.get("segmentation"))
    if xywh is None:
        return Problem(where, "bbox is not four numbers", printable(entry.get("bbox"), 80))
    x, y, w, h = xywh
    stated = _numbers([entry.get("area")], 1)
    area = stated[0] if stated and stated[0] >= 0 else w * h
    # A box beside a polygon is the polygon's.
    turn = 0.0 if entry.get("segmentation") else turn_of(entry.get("attributes"))
    if turn:
        left, top, right, bottom = turned_box((x, y, x + w, y + h), turn)
        x, y, w, h = left, top, right - left, bottom - top
    crowd = bool(whole(entry.get("iscrowd")))
    difficult = bool(whole(entry.get("ignore"))) or bool(whole(entry.get("difficult")))
    return CocoObject(position, image, category, (x, y, w, h), area, crowd, difficult, bool(turn))


def whole(value: Any) -> int | None:
    """Read a whole number of reasonable size; None for anything else."""
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        value = int(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if isinstance(value, int) and abs(value) <= LARGEST_ID else None


def _ids(value: Any) -> tuple[int, ...]:
    numbers = map(whole, value) if isinstance(value, list) else ()
    return tuple(number for number in numbers if number is not None)


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Read that many finite numbers; None for anything else."""
    if not isinstance(values, list) or len(values) != count:
        return None
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        return None
    try:
        numbers = tuple(map(float, values))
    except OverflowError:
        return None
    return numbers if all(math.isfinite(number) and abs(number) < 1e9 for number in numbers) else None


def _polygon_box(segmentation: Any) -> tuple[float, ...] | None:
    """Find the box of polygons, for annotations that have nothing else."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    xs: list[float] = []
    ys: list[float] = []
    for polygon in segmentation:
        points = _numbers(polygon, len(polygon)) if isinstance(polygon, list) else None
        if not points or len(points) % 2 or len(points) < 6:
            return None
        xs += points[0::2]
        ys += points[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def some(texts: Any) -> str:
    """Show the first few of some texts, for an error message."""
    listed = list(texts)
    shown = ", ".join(printable(text, 60) for text in listed[:SHOWN])
    return shown + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")
