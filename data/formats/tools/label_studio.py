"""Label Studio's own JSON (its "JSON" and "JSON-MIN" exports), read as an annotation set."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data.formats.annotation_set import AnnotationSet, Finding
from data.formats.coco_json import load_json
from data.formats.photo_finder import LEAVES, NOT_FOUND_HINT, PhotoFinder
from data.formats.reading import BadAnnotation
from data.formats.tools.json_files import head_of, json_files, number, pixels
from data.formats.tools.shapes import DrawnPhoto, Shape, absolute, annotation_set, used_names
from data.formats.turned import Corners, around, is_turned, turned_around, turned_ellipse
from data.photo_files import is_photo_name
from utils.errors import UserError, printable

RESULT = re.compile(rb'"(original_width|rectanglelabels|polygonlabels|completed_by|annotations|file_upload)"\s*:')
UPLOADED = re.compile(r"^[0-9a-f]{8}-")  # stands before the name of each photo that was uploaded
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
    for file in filter(_begins, json_files(source)):
        tasks = load_json(file)
        for place, task in enumerate(tasks):
            drawn += _drawn(task, f"[{place}]", file, findings)
    root = source if source.is_dir() else source.parent
    finder = _Finder([photo.name for photo in drawn], photos or (root, root / "images"), deep=True)
    found = annotation_set(source, used_names(drawn), drawn, finder)
    found.findings[:0] = findings
    return found


class _Finder(PhotoFinder):
    """Looks for a photo by the name that the server gave it, then by the one that it had before it was uploaded.

    Servers quote in addresses what is no ASCII letter, by %.
    """

    def find(self, name: str) -> Any:
        plain = unquote(name)
        errors: list[BadAnnotation] = []
        for each in dict.fromkeys((name, _before_upload(name), plain, _before_upload(plain))):
            try:
                return super().find(each)
            except BadAnnotation as error:
                errors.append(error)
        if errors[-1].reason == LEAVES and ".." not in PurePosixPath(plain).parts:
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
        yield DrawnPhoto(name, "train", size, [shape for region in regions if (shape := _shape(region))])


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


def _shape(region: Mapping[str, Any]) -> Shape | None:
    """Read a region; None for what is no shape, such as a choice, a text, or the half of one that has no label."""
    value = region["value"] if isinstance(region.get("value"), Mapping) else region
    keys = [key for key in value if key.endswith("labels") and isinstance(value[key], list) and value[key]]
    if not keys:
        return None
    kind = keys[0].removesuffix("labels") or "label"
    try:
        corners = _corners(value, _size(region))
        turned = is_turned(number(value.get("rotation") or 0))
    except (ValueError, TypeError, KeyError):
        corners, turned = None, False
    return Shape(printable(value[keys[0]][0]), corners, kind, turned)


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
