"""Pascal VOC folders (Annotations, JPEGImages, ImageSets/Main) to a YOLO data set."""

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from data.data_yaml import IMAGE_SUFFIXES
from data.formats.photo_frame import BadAnnotation, clipped_box, frame
from data.formats.yolo_set import (
    IMAGE_MODES,
    Conversion,
    Finding,
    LabelledObject,
    LabelledPhoto,
    check_target,
    write_yolo_set,
)
from data.images import ImageError
from utils.errors import UserError, nearest, printable
from utils.regular_file import require_regular

LARGEST_XML = 4 * 2**20
SIDES = ("xmin", "ymin", "xmax", "ymax")
SPLIT_KEYS = {"train": "train", "val": "val", "test": "test", "trainval": "train"}
PIXEL_ORIGINS = ("auto", "0", "1")
VOC_ITSELF = re.compile(r"\bVOC ?20\d\d\b")  # "The VOC2007 Database", "PASCAL VOC2012"
DIFFICULT = "difficult (--keep-difficult keeps such objects)"


class VocObject(NamedTuple):
    """An object as its XML holds it: class name, whether difficult, and the texts of xmin ymin xmax ymax."""

    name: str
    difficult: bool
    values: tuple[str, ...]

    def corners(self) -> tuple[float, ...] | None:
        """The box as xmin ymin xmax ymax, or None if these are no four finite numbers."""
        try:
            corners = tuple(float(value) for value in self.values)
        except ValueError:
            return None
        return corners if len(corners) == 4 and all(map(math.isfinite, corners)) else None


class Annotation(NamedTuple):
    """An annotation file: the photo's (height, width), (0, 0) if it does not say, its file name, its objects.

    `by_voc` is whether it says that the PASCAL VOC challenge annotated it.
    """

    size: tuple[int, int]
    photo: str
    objects: list[VocObject]
    by_voc: bool


class AnnotatedPhoto(NamedTuple):
    """An annotation that has its photo: split to write to, XML, photo, (height, width) of the frame of its boxes."""

    split: str
    xml: Path
    photo: Path
    size: tuple[int, int]
    objects: list[VocObject]
    by_voc: bool


def convert_voc(
    source: Path,
    target: Path | None,
    names: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    keep_difficult: bool = False,
    images: str = "link",
    pixel_origin: str = "auto",
    exist_ok: bool = False,
) -> Conversion:
    """Converts VOC folders to a YOLO data set at `target` (None: writes nothing); UserError if nothing comes out."""
    source = Path(os.path.normpath(Path(source).absolute()))
    _check_choices(names, splits, images, pixel_origin)
    folders = _voc_folders(source)
    if target is not None:
        check_target(Path(target), source, exist_ok)
    findings: list[Finding] = []
    photos: list[AnnotatedPhoto] = []
    for folder, year in folders:
        photos += _read_folder(folder, year, splits, findings)
    if not photos:
        first = f"; first of {len(findings)} problems: {findings[0].file}: {findings[0].reason}" if findings else ""
        raise UserError(f"nothing to convert in {printable(source)}{first}")
    _note_shared(photos, findings)
    classes = _class_names(photos, names, source)
    origin, reason = _choose_origin(photos, pixel_origin)
    labelled = [_labelled(photo, classes, origin, keep_difficult, findings) for photo in photos]
    facts = {"pixel_origin": f"{origin} ({reason})"}
    if not any(photo.split.startswith("val") for photo in photos):
        facts["validation"] = "no val split was found; training needs `val:` in data.yaml"
    conversion = Conversion(source, classes, labelled, findings, facts)
    if not any(photo.objects for photo in labelled):
        (_, reason), count = conversion.reasons().most_common(1)[0]
        raise UserError(f"no box in {printable(source)} can be converted; most often ({count} times): {reason}")
    if target is not None:
        write_yolo_set(conversion, Path(target), images, exist_ok)
    return conversion


def _check_choices(names: Sequence[str] | None, splits: Sequence[str] | None, images: str, pixel_origin: str) -> None:
    for split in splits or ():
        if split not in SPLIT_KEYS:
            raise UserError(f"unknown split {printable(split)!r}{nearest(split, SPLIT_KEYS)}")
    keys = [SPLIT_KEYS[split] for split in splits or ()]
    if len(set(keys)) < len(keys):
        raise UserError("the splits overlap: trainval holds train, and each may be given once")
    if names is not None and (not all(names) or len(set(names)) < len(names)):
        raise UserError("the class names must be different from each other and not empty")
    if images not in IMAGE_MODES:
        raise UserError(f"unknown way to bring images {printable(images)!r}{nearest(images, IMAGE_MODES)}")
    if pixel_origin not in PIXEL_ORIGINS:
        raise UserError(f"unknown pixel origin {printable(pixel_origin)!r}{nearest(pixel_origin, PIXEL_ORIGINS)}")


def _voc_folders(source: Path) -> list[tuple[Path, str]]:
    """The VOC folders at or below `source`, each with the year that its splits' names get (`` for a single folder)."""
    if not source.is_dir():
        raise UserError(f"no such folder: {printable(source)}")
    if (source / "Annotations").is_dir():
        return [(source, "")]
    for root in (source, source / "VOCdevkit"):
        folders = sorted(path.parent for path in root.glob("*/Annotations") if path.is_dir())
        if len(folders) == 1:
            return [(folders[0], "")]
        years = [re.sub(r"\D", "", folder.name) for folder in folders]
        if folders and all(years) and len(set(years)) == len(years):
            return list(zip(folders, years, strict=True))
        if folders:
            found = ", ".join(printable(folder.name) for folder in folders)
            raise UserError(f"{printable(root)}: several folders without a year of their own ({found}); convert one")
    raise UserError(f"no VOC folder: expected {printable(source / 'Annotations')} (or VOC2007/Annotations ...)")


def _read_folder(
    folder: Path, year: str, splits: Sequence[str] | None, findings: list[Finding]
) -> Iterable[AnnotatedPhoto]:
    """The annotated photos of one VOC folder, split by split; what cannot be used goes to the findings."""
    files = sorted((folder / "JPEGImages").glob("*"), reverse=True)
    names = {path.name: path for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    stems = {path.stem: path for path in names.values()}
    for split, identifiers in _read_splits(folder, splits).items():
        split = SPLIT_KEYS[split] + year
        taken: set[Path] = set()
        for identifier in identifiers:
            xml = folder / "Annotations" / f"{identifier}.xml"
            file = printable(f"{identifier}.xml")
            try:
                if Path(identifier).name != identifier:
                    raise BadAnnotation("not a file name in the image set")
                annotation = read_annotation(xml)
                photo = stems.get(identifier) or names.get(annotation.photo)
                if photo is None:
                    raise BadAnnotation("photo missing in JPEGImages", annotation.photo)
                if photo in taken:
                    raise BadAnnotation("photo belongs to another annotation already", photo.name)
                size = frame(photo, annotation.size, split, findings)
                taken.add(photo)
                yield AnnotatedPhoto(split, xml, photo, size, annotation.objects, annotation.by_voc)
            except ImageError as error:
                findings.append(Finding("dropped photo", split, file, "", printable(error.reason), photo.name))
            except BadAnnotation as error:
                findings.append(Finding("dropped photo", split, file, "", error.reason, error.details))


def _read_splits(folder: Path, wanted: Sequence[str] | None) -> dict[str, list[str]]:
    """Identifiers per split from ImageSets/Main; without image sets all annotations are `train`."""
    lists = {split: folder / "ImageSets" / "Main" / f"{split}.txt" for split in SPLIT_KEYS}
    present = [split for split, path in lists.items() if path.is_file()]
    if wanted is None:
        if not present:
            return {"train": sorted(path.stem for path in (folder / "Annotations").glob("*.xml"))}
        wanted = [split for split in present if split != "trainval" or "train" not in present]
    identifiers = {}
    for split in wanted:
        if split not in present:
            raise UserError(f"split {split!r}: no such file: {printable(lists[split])}")
        try:
            lines = require_regular(lists[split]).read_text("utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{printable(lists[split])}: cannot be read as UTF-8 text: {printable(error)}") from error
        # Some image sets mark each line with 1, 0 or -1, as the per-class sets do.
        cleaned = [re.sub(r"\s+(-1|0|1)$", "", line.strip()) for line in lines]
        identifiers[split] = list(dict.fromkeys(line for line in cleaned if line))
    return identifiers


def read_annotation(path: Path) -> Annotation:
    """Parses one annotation; BadAnnotation if it is missing, too large, no XML or holds a document type (entities)."""
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
    size = (_pixels(root.findtext("size/height")), _pixels(root.findtext("size/width")))
    objects = [_read_object(element) for element in root.iterfind("object")]
    source = " ".join(root.findtext(f"source/{part}") or "" for part in ("database", "annotation"))
    return Annotation(size, (root.findtext("filename") or "").strip(), objects, bool(VOC_ITSELF.search(source)))


def _pixels(text: str | None) -> int:
    """A side of the photo; 0 for what is no whole number above 0."""
    return int(text) if text and re.fullmatch(r"\s*[0-9]{1,6}\s*", text, re.ASCII) else 0


def _read_object(element: ElementTree.Element) -> VocObject:
    name = printable((element.findtext("name") or "").strip())
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
    values = tuple((element.findtext(f"bndbox/{side}") or "").strip() for side in SIDES)
    return VocObject(name, difficult, values)


def _note_shared(photos: Iterable[AnnotatedPhoto], findings: list[Finding]) -> None:
    """A photo in two splits makes a validation worthless, so it is said."""
    first: dict[Path, str] = {}
    for photo in photos:
        split = first.setdefault(photo.photo, photo.split)
        if split != photo.split:
            reason = "the photo is in two splits"
            findings.append(Finding("noted", photo.split, printable(photo.photo.name), "", reason, split))


def _class_names(photos: Sequence[AnnotatedPhoto], wanted: Sequence[str] | None, source: Path) -> tuple[str, ...]:
    """The wanted class names, of which one at least must occur, or all that occur, sorted."""
    found = sorted({item.name for photo in photos for item in photo.objects if item.name})
    if not found:
        raise UserError(f"no object in any of the {len(photos)} annotations of {printable(source)}")
    if wanted is None:
        return tuple(found)
    if not set(wanted) & set(found):
        raise UserError(f"none of the class names given occurs; the annotations hold: {printable(', '.join(found))}")
    return tuple(wanted)


def _choose_origin(photos: Sequence[AnnotatedPhoto], wanted: str) -> tuple[int, str]:
    """Whether the first pixel is 0 or 1, and why.

    The VOC challenge counts pixels from 1. Tools that write its format count from 0, and the coordinates need not show
    it: labelImg writes every 0 as a 1. So the files' own word for who annotated them decides.
    """
    if wanted != "auto":
        return int(wanted), "as asked"
    corners = [box for photo in photos for box in (item.corners() for item in photo.objects) if box]
    zeros = sum(any(0 <= side < 1 for side in box[:2]) for box in corners)
    if zeros:
        return 0, f"{zeros:,} of {len(corners):,} boxes start at 0"
    by_voc = sum(photo.by_voc for photo in photos)
    told = f"{by_voc:,} of {len(photos):,} annotations name the VOC challenge as their source"
    return (1, told) if 2 * by_voc > len(photos) else (0, f"{told}; other tools, such as labelImg, count from 0")


def _labelled(
    photo: AnnotatedPhoto, names: Sequence[str], origin: int, keep_difficult: bool, findings: list[Finding]
) -> LabelledPhoto:
    """The photo with its usable objects as YOLO labels; the others, and what was clipped, go to the findings."""
    ids = {name: index for index, name in enumerate(names)}
    height, width = photo.size
    objects, ignored = [], []
    for number, item in enumerate(photo.objects, 1):
        where = (photo.split, printable(photo.xml.name), f"{number} {item.name}")
        reason = _why_dropped(item, ids, photo.size, origin)
        values = printable(" ".join(value or "-" for value in item.values))
        if reason:
            findings.append(Finding("dropped", *where, reason, values))
            continue
        edges = _xyxy(item.corners(), origin)
        box, clipped = clipped_box(edges, photo.size)
        if clipped:
            findings.append(Finding("clipped", *where, "box reaches beyond the photo", f"{values} in {width}x{height}"))
        labelled = LabelledObject(ids[item.name], *box, kind="difficult" if item.difficult else "")
        if item.difficult and not keep_difficult:
            findings.append(Finding("dropped", *where, DIFFICULT, values))
            ignored.append(labelled)
        else:
            objects.append(labelled._replace(kind=""))
    return LabelledPhoto(photo.split, photo.photo, objects, photo.photo.name, photo.size, ignored)


def _xyxy(corners: tuple[float, ...], origin: int) -> tuple[float, ...]:
    """Box edges from VOC corners: with pixels counted from 1, the last one included, only the first corner moves."""
    left, top, right, bottom = corners
    return left - origin, top - origin, right, bottom


def _why_dropped(item: VocObject, ids: dict[str, int], size: tuple[int, int], origin: int) -> str | None:
    """The reason for which an object gets no label, or None."""
    corners = item.corners()
    if not item.name:
        return "object without a name"
    if item.name not in ids:
        return "class not among the names"
    if corners is None:
        return "box is not four numbers"
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return "box without area"
    left, top, right, bottom = _xyxy(corners, origin)
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        return "box outside the photo"
    return None
