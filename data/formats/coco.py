"""COCO and LVIS annotation files to a YOLO data set."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data.formats.coco_json import CocoFile, CocoImage, CocoObject, read_coco
from data.formats.photo_frame import BadAnnotation, clipped_box, frame
from data.formats.yolo_set import (
    Conversion,
    Finding,
    LabelledObject,
    LabelledPhoto,
    check_target,
    write_yolo_set,
)
from data.images import ImageError
from utils.errors import UserError, nearest, printable

SPLIT_WORDS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
CROWD = "crowd region: no label, kept in the annotation file"
NOT_FOUND = "photo not found"
DIFFICULT = "marked ignore: no label, kept in the annotation file"


def convert_coco(
    source: Path,
    target: Path | None,
    photos: Sequence[Path] = (),
    splits: Sequence[str] = (),
    images: str = "link",
    exist_ok: bool = False,
    subset: bool = False,
) -> Conversion:
    """Converts COCO or LVIS files to a YOLO data set at `target` (None: writes nothing).

    UserError if nothing comes out. `source` is a file or a folder of them; `photos` are folders with the photos
    (default: looked for beside the files); `splits` name the split of each file where its name does not. With
    `subset`, photos that are not there are no finding: they are counted, and the data set is of those at hand.
    """
    source = Path(os.path.normpath(Path(source).absolute()))
    if images not in ("link", "copy"):
        raise UserError(f"unknown way to bring images {printable(images)!r}{nearest(images, ('link', 'copy'))}")
    files = _annotation_files(source)
    named = _split_names(files, splits)
    root = source if source.is_dir() else source.parent
    if target is not None:
        check_target(Path(target), source, exist_ok)
    conversion = Conversion(source, (), [], [])
    for path, split in zip(files, named, strict=True):
        folders, file = photos or _photo_folders(path, root, split), read_coco(path)
        if subset:
            total, file = len(file.images), _at_hand(file, folders)
            conversion.facts[f"{split}_photos"] = f"{len(file.images):,} at hand of {total:,} (--subset)"
        _add_file(conversion, file, split, folders)
    if not any(photo.objects for photo in conversion.photos):
        reason = conversion.reasons().most_common(1)
        why = f"; most often ({reason[0][1]} times): {reason[0][0][1]}" if reason else ""
        raise UserError(f"no box in {printable(source)} can be converted{why}")
    if target is not None:
        write_yolo_set(conversion, Path(target), images, exist_ok)
    return conversion


def _annotation_files(source: Path) -> list[Path]:
    """The file itself, or the annotation files of a folder in the layouts of COCO and of Roboflow."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"no such file or folder: {printable(source)}")
    for pattern in ("annotations/instances_*.json", "annotations/lvis*.json", "annotations/*.json"):
        if found := sorted(source.glob(pattern)):
            return found
    found = sorted(source.glob("*/_annotations.coco.json")) or sorted(source.glob("*.json"))
    if not found:
        raise UserError(f"no annotation file: expected {printable(source)}/annotations/*.json, or name a JSON file")
    return found


def _split_names(files: Sequence[Path], wanted: Sequence[str]) -> list[str]:
    """The split of each file: as asked, or by the last train, val or test in its name or its folder's."""
    if wanted:
        if len(wanted) != len(files):
            raise UserError(f"--splits: {len(wanted)} names for {len(files)} annotation files")
        if bad := [split for split in wanted if not re.fullmatch(r"(train|val|test)\d*", split)]:
            raise UserError(f"--splits: {printable(bad[0])!r}: expected train, val or test, such as val2017")
        names = list(wanted)
    else:
        names = [_split_of(path.stem) or _split_of(path.parent.name) or "train" for path in files]
    if len(set(names)) < len(names):
        raise UserError(
            f"several annotation files of one split ({printable(', '.join(names))}): name one file, or use --splits"
        )
    return names


def _split_of(name: str) -> str:
    found = re.findall(r"(train|valid|val|test)(?:[-_]?dev)?(\d*)", name.lower())
    return SPLIT_WORDS[found[-1][0]] + found[-1][1] if found else ""


def _photo_folders(path: Path, root: Path, split: str) -> list[Path]:
    """Where photos usually lie in relation to their annotation file."""
    bases = dict.fromkeys([path.parent, path.parent.parent, root])
    return [base / below for base in bases for below in (f"images/{split}", split, "images", "train", ".")]


def _add_file(conversion: Conversion, file: CocoFile, split: str, folders: Sequence[Path]) -> None:
    """Adds one split; what cannot be used goes to the findings."""
    findings, kind = conversion.findings, "LVIS" if file.federated else "COCO"
    for problem in file.problems:
        findings.append(Finding("dropped", split, file.path.name, problem.where, problem.reason, problem.values))
    names = _class_names(file, findings, split)
    if conversion.names and conversion.names != tuple(names.values()):
        raise UserError(f"{printable(file.path)}: its categories differ from those of the other annotation file")
    conversion.names = tuple(names.values())
    conversion.annotations[split] = file.path
    conversion.facts[f"{split}_annotations"] = f"{kind}, {file.path}"
    conversion.ids.setdefault("categories", {}).update({name: number for number, name in names.items()})
    labels = {number: label for label, number in enumerate(names)}
    by_image = defaultdict(list)
    for item in file.objects:
        by_image[item.image].append(item)
    taken: dict[PurePosixPath, str] = {}
    for image in file.images:
        shown = printable(image.file_name)
        try:
            name = _safe_name(image, taken)
            photo = _find(name, folders)
            size = frame(photo, image.size, split, findings)
            taken[name.with_suffix("")] = name.name
        except ImageError as error:
            findings.append(Finding("dropped photo", split, shown, "", printable(error.reason)))
            continue
        except BadAnnotation as error:
            findings.append(Finding("dropped photo", split, shown, "", error.reason, error.details))
            continue
        conversion.ids.setdefault("images", {})[f"{split}/{name}"] = image.id
        objects, ignored = _objects(by_image[image.id], image, size, labels, split, findings)
        conversion.photos.append(LabelledPhoto(split, photo, objects, str(name), size, ignored))
    _note_losses(file, split, findings)


def _class_names(file: CocoFile, findings: list[Finding], split: str) -> dict[int, str]:
    """The name of each category id in the file's order; repeated ones get their id."""
    counts = Counter(category.name for category in file.categories)
    names = {}
    for category in file.categories:
        names[category.id] = category.name if counts[category.name] == 1 else f"{category.name} ({category.id})"
        if counts[category.name] > 1:
            findings.append(Finding("noted", split, file.path.name, category.name, "several categories of this name"))
    return names


def _safe_name(image: CocoImage, taken: dict[PurePosixPath, str]) -> PurePosixPath:
    """The photo's place below its folder; BadAnnotation for one that leaves it or that another photo's label has."""
    name = PurePosixPath(image.file_name)
    if name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", image.file_name):
        raise BadAnnotation("file name leaves the photos' folder", image.file_name)
    if name.with_suffix("") in taken:
        raise BadAnnotation("another photo would have the same label file", taken[name.with_suffix("")])
    return name


def _at_hand(file: CocoFile, folders: Iterable[Path]) -> CocoFile:
    """The file without the photos that are not found; a name that no photo can have is left to the findings."""

    def is_there(image: CocoImage) -> bool:
        try:
            return _find(_safe_name(image, {}), folders) is not None
        except BadAnnotation as error:
            return not error.reason.startswith(NOT_FOUND)

    images = tuple(image for image in file.images if is_there(image))
    ids = {image.id for image in images}
    return replace(file, images=images, objects=tuple(item for item in file.objects if item.image in ids))


def _find(name: PurePosixPath, folders: Iterable[Path]) -> Path:
    for folder in folders:
        try:
            if (folder / name).is_file():
                return folder / name
        except (OSError, ValueError) as error:
            raise BadAnnotation("file name that no file can have", error) from error
    raise BadAnnotation(f"{NOT_FOUND} (--photos names its folder)")


def _objects(
    items: Sequence[CocoObject],
    image: CocoImage,
    size: tuple[int, int],
    labels: dict[int, int],
    split: str,
    findings: list[Finding],
) -> tuple[list[LabelledObject], list[LabelledObject]]:
    """The objects of a photo that get a label, and those that are neither found nor missed."""
    objects: list[LabelledObject] = []
    ignored: list[LabelledObject] = []
    seen = set()
    for item in items:
        where = (split, printable(image.file_name), f"annotations[{item.position}]")
        left, top, width, height = item.xywh
        values = printable(" ".join(f"{side:g}" for side in item.xywh))
        reason = _why_dropped(item.xywh, size)
        if reason:
            findings.append(Finding("dropped", *where, reason, values))
            continue
        box, clipped = clipped_box((left, top, left + width, top + height), size)
        if clipped:
            shown = f"{values} in {size[1]}x{size[0]}"
            findings.append(Finding("clipped", *where, "box reaches beyond the photo", shown))
        if item.crowd or item.difficult:
            ignored.append(LabelledObject(labels[item.category], *box, "crowd" if item.crowd else "difficult"))
            findings.append(Finding("dropped", *where, CROWD if item.crowd else DIFFICULT, values))
            continue
        if (item.category, item.xywh) in seen:
            findings.append(Finding("noted", *where, "the same box of the same class stands here twice", values))
        seen.add((item.category, item.xywh))
        objects.append(LabelledObject(labels[item.category], *box))
    return objects, ignored


def _why_dropped(xywh: tuple[float, ...], size: tuple[int, int]) -> str | None:
    """The reason for which an object gets no label, or None."""
    left, top, width, height = xywh
    if width <= 0 or height <= 0:
        return "box without area"
    if left + width <= 0 or top + height <= 0 or left >= size[1] or top >= size[0]:
        return "box outside the photo"
    return None


def _note_losses(file: CocoFile, split: str, findings: list[Finding]) -> None:
    """What labels cannot hold although an evaluation would use it: it stays in the annotation file."""
    other = sum(abs(item.area - item.xywh[2] * item.xywh[3]) > 0.01 * item.area + 1e-6 for item in file.objects)
    if other:
        reason = "objects whose area is that of a mask: labels hold boxes only"
        findings.append(Finding("noted", split, file.path.name, "", reason, str(other)))
    if file.federated:
        reason = "LVIS: labels do not say which classes are absent or not fully annotated"
        findings.append(Finding("noted", split, file.path.name, "", reason))
