"""Pascal VOC's XML files, one a photo, and where their tools count pixels from: 0 or 1."""

import html
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.formats.reading import BadAnnotation
from data.formats.turned import turn_of
from utils.errors import printable
from utils.regular_file import require_regular

LARGEST_XML = 4 * 2**20
SIDES = ("xmin", "ymin", "xmax", "ymax")
VOC_ITSELF = re.compile(r"\bVOC ?20\d\d\b")  # "The VOC2007 Database", "PASCAL VOC2012"
# Boxes at the borders from which on these tell where pixels are counted from.
ENOUGH = 20
FILE_NAME = re.compile(rb"<filename>([^<]*)<")
ROOT = re.compile(rb"<annotation[\s>/]")


class VocObject(NamedTuple):
    """An object as its XML holds it: class name, whether difficult, and the texts of xmin ymin xmax ymax.

    `turn` is by how many degrees clockwise its box is turned about its centre: CVAT writes it as an attribute.
    """

    name: str
    difficult: bool
    values: tuple[str, ...]
    turn: float = 0.0

    def corners(self) -> tuple[float, ...] | None:
        """Read the box as xmin ymin xmax ymax; None if these are no four finite numbers."""
        try:
            corners = tuple(float(value) for value in self.values)
        except ValueError:
            return None
        return corners if len(corners) == 4 and all(map(math.isfinite, corners)) else None


class Annotation(NamedTuple):
    """An annotation file: the photo's (height, width), (0, 0) if it does not say, its file name, its objects.

    `by_voc` is whether it says that the PASCAL VOC challenge annotated it; `tool` is another source that is known.
    `folder` is the name of the photo's folder, which not all tools write.
    """

    size: tuple[int, int]
    photo: str
    objects: list[VocObject]
    by_voc: bool
    tool: str = ""
    folder: str = ""


def read_annotation(path: Path) -> Annotation:
    """Read one annotation; BadAnnotation if it is missing, too large, no XML or holds a document type (entities)."""
    try:
        if path.stat().st_size > LARGEST_XML:
            raise BadAnnotation("annotation too large", f"more than {LARGEST_XML >> 20} MiB")
        data = require_regular(path).read_bytes()
    except FileNotFoundError as error:
        raise BadAnnotation("annotation missing") from error
    except (OSError, ValueError) as error:
        raise BadAnnotation("annotation cannot be read", error) from error
    # Entities can grow without bound; UTF-16, the one encoding in which they would be spelt otherwise, has NUL bytes.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data or b"\0" in data:
        raise BadAnnotation("annotation with a document type, entities or NUL bytes")
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise BadAnnotation("annotation is no XML", error) from error
    if root.tag != "annotation":
        raise BadAnnotation("not an annotation of VOC's kind", f"its first element is {root.tag}")
    size = (_pixels(root.findtext("size/height")), _pixels(root.findtext("size/width")))
    objects = [_read_object(element) for element in root.iterfind("object")]
    source = " ".join(root.findtext(f"source/{part}") or "" for part in ("database", "annotation"))
    photo = (root.findtext("filename") or "").strip()
    folder = PurePosixPath((root.findtext("folder") or "").strip().replace("\\", "/")).name
    return Annotation(size, photo, objects, bool(VOC_ITSELF.search(source)), _tool(root), folder)


def photo_named(path: Path) -> str:
    """Read the file name of the photo from an annotation that cannot be read otherwise; nothing where it has none."""
    try:
        with require_regular(path).open("rb") as file:
            found = FILE_NAME.search(file.read(2**16))
    except OSError:
        return ""
    return html.unescape(found[1].decode("utf-8", "replace")).strip() if found else ""


def _tool(root: ElementTree.Element) -> str:
    """Name a tool that is known by what it writes about itself."""
    database, folder = (root.findtext("source/database") or "").strip(), (root.findtext("folder") or "").strip()
    if (database, folder) == ("roboflow.ai", "VOC"):
        return "supervision"
    tools = {"Unknown": "labelImg", "AlignYOLO": "convert.py", "MyDatabase": "Label Studio"}
    return tools.get(database, "")


def looks_like_voc(path: Path) -> bool:
    """Tell whether an XML file begins as an annotation of VOC's kind."""
    try:
        with require_regular(path).open("rb") as file:
            return bool(ROOT.search(file.read(2048)))
    except OSError:
        return False


def _pixels(text: str | None) -> int:
    """Read a side of the photo; 0 for what is no whole number above 0."""
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,6}\s*", text, re.ASCII) else 0


def _read_object(element: ElementTree.Element) -> VocObject:
    name = printable((element.findtext("name") or "").strip())
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
    values = tuple((element.findtext(f"bndbox/{side}") or "").strip() for side in SIDES)
    return VocObject(name, difficult, values, _turn(element))


def _turn(element: ElementTree.Element) -> float:
    """Read CVAT's attribute; 0 for an object that has none."""
    attributes = {each.findtext("name"): each.findtext("value") for each in element.iterfind("attributes/attribute")}
    try:
        return turn_of({"rotation": float(attributes.get("rotation") or 0)})
    except ValueError:
        return 0.0


class Seen(NamedTuple):
    """What tells where an annotation's pixels are counted from: its boxes, the photo's (h, w), its source."""

    corners: list[tuple[float, ...]]
    size: tuple[int, int]
    by_voc: bool
    tool: str


def choose_origin(seen: Sequence[Seen], wanted: str) -> tuple[int, str]:
    """Decide whether the first pixel is 0 or 1, and say why.

    The VOC challenge counts pixels from 1, and so does supervision; other tools count from 0. Coordinates need not
    show it: labelImg writes every 0 as a 1. So what the files say about their source decides first, and where they say
    nothing, what the boxes do at the photos' borders.
    """
    if wanted != "auto":
        return int(wanted), "as asked"
    boxes = [(box, each.size) for each in seen for box in each.corners]
    zeros = sum(any(0 <= side < 1 for side in box[:2]) for box, _ in boxes)
    if zeros:
        return 0, f"{zeros:,} of {len(boxes):,} boxes start at 0"
    by_voc = sum(each.by_voc for each in seen)
    told = f"{by_voc:,} of {len(seen):,} annotations name the VOC challenge as their source"
    if 2 * by_voc > len(seen):
        return 1, told
    tool, count = Counter(each.tool for each in seen).most_common(1)[0] if seen else ("", 0)
    if tool == "supervision" and 2 * count > len(seen):
        return 1, f"{count:,} of {len(seen):,} annotations are supervision's, which counts from 1"
    if 2 * count > len(seen) and tool:
        return 0, f"{told}; other tools, such as labelImg, count from 0"
    from_one, borders = _borders(boxes)
    if from_one:
        return 1, f"{borders}, as often as if the first pixel were 1"
    return 0, f"{told}; other tools, such as labelImg, count from 0"


def _borders(boxes: Sequence[tuple[tuple[float, ...], tuple[int, int]]]) -> tuple[bool, str]:
    """Tell whether boxes come near the first pixel as near the last as if it were 1, and say how many touch it.

    Objects are cut off on all sides alike. Counted from 1, as many boxes begin at 1, 2, 3 as end 0, 1, 2 pixels before
    the photo's end. A tool that counts from 0 and writes 1 for 0 begins as many at 1 as end 0 and 1 before it, at 2 as
    end 2 before it, and so on.
    """
    begins: Counter[float] = Counter()
    ends: Counter[float] = Counter()
    for (left, top, right, bottom), (height, width) in boxes:
        if any(side != math.floor(side) for side in (left, top, right, bottom)):
            return False, ""
        begins.update((left, top))
        ends.update((width - right, height - bottom))
    if begins[1] < ENOUGH or ends[0] < ENOUGH:
        return False, ""

    def distance(expected: Sequence[int]) -> float:
        found = [begins[number] for number in (1, 2, 3)]
        return sum((own - other) ** 2 / (own + other + 1) for own, other in zip(found, expected, strict=True))

    from_one, from_zero = distance([ends[0], ends[1], ends[2]]), distance([ends[0] + ends[1], ends[2], ends[3]])
    told = f"no box starts at 0, {begins[1]:,} sides start at 1 and {ends[0]:,} end at the last pixel"
    return 2 * from_one + 1 < from_zero, told
