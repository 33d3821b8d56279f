"""Label Studio's own JSON (its "JSON" and "JSON-MIN" exports), read as an annotation set."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data.formats.annotation_set import AnnotationSet, Finding
from data.formats.coco_json import load_json
from data.formats.photo_finder import LEAVES, NOT_FOUND_HINT, PhotoFinder, PhotosBelow
from data.formats.reading import BadAnnotation
from data.formats.tools.json_files import head_of, json_files, number, pixels
from data.formats.tools.shapes import DrawnPhoto, Shape, absolute, annotation_set, used_names
from data.formats.turned import Corners, around, is_turned, turned_around, turned_ellipse
from data.photo_files import is_photo_name
from utils.errors import UserError, printable

RESULT = re.compile(rb'"(original_width|rectanglelabels|polygonlabels|completed_by|annotations|file_upload)"\s*:')
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # stands before the name of each photo that was uploaded
GEOMETRY = ("x", "y", "width", "height", "radiusX", "radiusY", "rotation", "points", "rle")
SHARED_NAME = "several photos have this name without the prefix of their upload"
NOT_YET = "no annotation, or a skipped one: not labelled yet"


def looks_like_label_studio(path: Path) -> bool:
    """Tell whether a JSON file, or one in a folder, begins as a list of Label Studio's tasks."""
    return any(_begins(file) for file in json_files(path)[:5])


def _begins(file: Path) -> bool:
    head = head_of(file)
    return head.startswith(b"[") and head[1:].lstrip().startswith(b"{") and bool(RESULT.search(head))


def read_label_studio_set(source: Path, photos: Sequence[Path] = ()) -> AnnotationSet:
    """Read tasks with their first annotation that was not skipped; UserError if nothing can be used.

    A task without one is not labelled yet: it is left out and named, while an annotation without regions is background.
    """
    source = absolute(source)
    drawn: list[DrawnPhoto] = []
    findings: list[Finding] = []
    files = list(filter(_begins, json_files(source)))
    if not files:
        raise UserError(f"no Label Studio JSON file in {printable(source)}: expected a list of its tasks")
    for file in files:
        tasks = load_json(file)
        for place, task in enumerate(tasks):
            drawn += _drawn(task, f"[{place}]", file, findings)
    root = source if source.is_dir() else source.parent
    folders = photos or (root, root / "images")
    finder = _Finder([photo.name for photo in drawn], folders, PhotosBelow(folders))
    found = annotation_set(source, used_names(drawn), drawn, {"": finder})
    found.findings[:0] = findings
    return found


class _Finder(PhotoFinder):
    """Looks for a photo by the name that the server gave it, then by the one that it had before it was uploaded.

    Servers quote in addresses what is no ASCII letter, by %. Two uploads that had one name before are never guessed.
    """

    def _spellings(self, name: str) -> Collection[str]:
        plain = unquote(name)
        return dict.fromkeys((name, _before_upload(name), plain, _before_upload(plain)))

    def find(self, name: str) -> Any:
        errors: list[BadAnnotation] = []
        for each in self._spellings(name):
            try:
                found = super().find(each)
            except BadAnnotation as error:
                errors.append(error)
                continue
            if each != name and self.shared(each):
                raise BadAnnotation(SHARED_NAME, found[0].name)
            return found
        if errors[-1].reason == LEAVES and ".." not in PurePosixPath(unquote(name)).parts:
            raise BadAnnotation(NOT_FOUND_HINT, name)  # a server's path, not one of this machine
        raise errors[-1]


def _before_upload(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{UPLOADED.sub('', file)}"


def _drawn(task: Any, place: str, file: Path, findings: list[Finding]) -> Iterator[DrawnPhoto]:
    """Yield the photo of a task with its shapes."""
    if not isinstance(task, Mapping):
        raise UserError(f"{printable(file)}: {place}: expected one of Label Studio's tasks")
    data = task["data"] if isinstance(task.get("data"), Mapping) else task
    name = next((found for value in data.values() if (found := _photo_name(value))), "")
    regions = _regions(task)
    if not name:
        findings.append(Finding("dropped photo", "train", file.name, place, "the task names no photo"))
    elif regions is None:
        findings.append(Finding("dropped photo", "train", printable(name), place, NOT_YET))
    else:
        size = next((each for region in regions if all(each := _size(region))), (0, 0))
        labelled = {place for region in regions if _labels(_value(region)) for place in _places(region)}
        bare: set[str] = set()  # a region without a label may have several entries: its text, its rating
        shapes: list[Shape] = []
        for region in regions:
            places = _places(region)
            if not _labels(_value(region)) and (not places or (labelled | bare) & places):
                continue
            bare |= places
            shapes.append(_shape(region))
        yield DrawnPhoto(name, "train", size, shapes)


def _photo_name(value: Any) -> str:
    """Read the path of a photo from an address, a server's path or a local file's `?d=`; nothing for another text."""
    if not isinstance(value, str):
        return ""
    parts = urlsplit(value) if "://" in value or "?" in value else None
    text = value if parts is None else (parse_qs(parts.query).get("d", [""])[0] or unquote(parts.path))
    return text.replace("\\", "/") if is_photo_name(text.replace("\\", "/").rpartition("/")[2]) else ""


def _regions(task: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """List the regions of a task's annotation, of JSON-MIN those of all its lists; None where it is not labelled."""
    if isinstance(task.get("annotations"), list):
        done = [each for each in task["annotations"] if isinstance(each, Mapping) and not each.get("was_cancelled")]
        if not done:
            return None
        chosen = next((each for each in done if each.get("ground_truth")), done[0])
        result = chosen.get("result")
        return [each for each in result if isinstance(each, Mapping)] if isinstance(result, list) else []
    lists = [value for value in task.values() if isinstance(value, list)]
    return [each for value in lists for each in value if isinstance(each, Mapping)]


def _size(region: Mapping[str, Any]) -> tuple[int, int]:
    return pixels(region.get("original_height"), region.get("original_width"))


def _value(region: Mapping[str, Any]) -> Mapping[str, Any]:
    return region["value"] if isinstance(region.get("value"), Mapping) else region


def _labels(value: Mapping[str, Any]) -> dict[str, str]:
    """List the labels of a region, the first of which is its class, each with the kind of shape that it stands on."""
    keys = [key for key in value if key.endswith("labels") and isinstance(value[key], list)]
    found: dict[str, str] = {}
    for key in keys:
        for label in value[key]:
            found.setdefault(printable(label), key.removesuffix("labels") or "label")
    return found


def _places(region: Mapping[str, Any]) -> set[str]:
    """Say where a region was drawn, in the ways in which its entries share it; nothing for what is no shape.

    The shape and its labels may be two entries: of one id, or in JSON-MIN, which has no ids, of the same numbers.
    """
    value = _value(region)
    numbers = {key: value[key] for key in GEOMETRY if key in value}
    if not numbers:
        return set()
    return {json.dumps(numbers, sort_keys=True)} | ({f"id {region['id']}"} if region.get("id") else set())


def _shape(region: Mapping[str, Any]) -> Shape:
    """Read a region that was drawn or has a label."""
    value = _value(region)
    labels = _labels(value)
    name = next(iter(labels), "")
    kind = labels.get(name) or str(region.get("type") or value.get("format") or "region")
    try:
        corners = _corners(value, _size(region))
        turned = is_turned(number(value.get("rotation") or 0))
    except (ValueError, TypeError, KeyError):
        corners, turned = None, False
    return Shape(name, corners, kind, turned, list(labels)[1:])


def _corners(value: Mapping[str, Any], size: tuple[int, int]) -> Corners | None:
    """Find the upright box, in pixels, around a region in percent of its photo; None for one without extent."""
    if not all(size):
        raise ValueError("no size")
    across, down = size[1] / 100, size[0] / 100
    if isinstance(value.get("points"), list):
        return around([(number(x) * across, number(y) * down) for x, y in value["points"]])
    if "x" not in value or not {"width", "radiusX"} & set(value):
        return None
    # Turned in pixels: in percent a shape would be skewed on photos that are not square.
    x, y = number(value["x"]) * across, number(value["y"]) * down
    degrees = number(value.get("rotation") or 0)
    if "radiusX" in value:
        radii = (number(value["radiusX"]) * across, number(value["radiusY"]) * down)
        return turned_ellipse((x, y), radii, degrees)
    sides = (number(value["width"]) * across, number(value["height"]) * down)
    return turned_around((x, y), sides, degrees)
