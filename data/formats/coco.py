"""COCO and LVIS annotation files, read as an annotation set."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto
from data.formats.coco_json import CocoFile, CocoImage, CocoObject, masked, read_coco
from data.formats.photo_finder import NOT_FOUND, PhotoFinder, PhotosBelow, folders_of_subset, foreign_to, own_first
from data.formats.reading import (
    MASK_AREA,
    SAME_LABEL_FILE,
    TWICE,
    BadAnnotation,
    clipped_box,
    frame,
    note_shared,
    place_in_set,
)
from data.formats.turned import TURNED
from data.images import ImageError
from data.labels.tool_faults import FAULTS
from utils.errors import UserError, printable
from utils.regular_file import require_regular

# A split as a word of its own: minival2014, test-dev2017 and trainval, but neither latest nor interval.
SPLIT_WORD = re.compile(
    r"(?<![^\W\d_])(?:valminus)?(?:mini)?"
    r"(?:(train)(?:ing|[-_]?val)?|(val)(?:id|idation)?|(test)(?:ing)?)(?:set)?(?:[-_]?dev)?(\d*)(?![^\W_])"
)
SPLIT_PART = re.compile(r"(?:(train)(?:val)?|(val)(?:id)?|(test))(?:[-_]?dev)?(\d*)")
BOTH = re.compile(r"train(ing)?[-_]?val")
CROWD = "crowd region: no label, annotation files alone hold it"
DIFFICULT = "marked ignore: no label, annotation files alone hold it"
HEAD = 2**16
BESIDE_PHOTOS = ("annotations", "annotation", "labels")  # folders of annotation files, beside those of the photos
MOST_FOLDERS = 20_000  # that are searched for a photo that lies in none of the usual ones
LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def looks_like_coco(path: Path) -> bool:
    """Tell whether a file, or one of those that a folder has in COCO's layouts, begins as a COCO file."""
    if path.is_dir():
        return any(looks_like_coco(file) for file in _candidates(path)[:3])
    if path.suffix.lower() != ".json":
        return False
    try:
        with require_regular(path).open("rb") as file:
            head = file.read(HEAD).lstrip()
    except OSError:
        return False
    return head.startswith(b"{") and bool(LISTS.search(head))


def read_coco_set(
    source: Path, photos: Sequence[Path] = (), splits: Sequence[str] = (), subset: bool = False
) -> AnnotationSet:
    """Read COCO or LVIS files; UserError if nothing can be used.

    `source` is a file or a folder of them; `photos` are folders with the photos (default: looked for beside the
    files); `splits` name the split of each file where its name does not. With `subset`, photos that are not there are
    no finding: they are counted, and the data set is of those at hand.
    """
    source = Path(os.path.normpath(Path(source).absolute()))
    files = _annotation_files(source)
    named = _split_names(files, splits)
    root = source if source.is_dir() else source.parent
    found = AnnotationSet(source, (), [], [])
    top = root.parent if root.name.lower() in BESIDE_PHOTOS else root
    below = PhotosBelow(photos) if photos else PhotosBelow([top], MOST_FOLDERS)
    for path, split in zip(files, named, strict=True):
        file = read_coco(path)
        known = split if splits or _says_split(path, files) else ""
        alias = _own_name(path) if not known or BOTH.search(path.stem.lower()) else ""
        foreign = foreign_to(known, {*named, *map(_own_name, files)} - {split, _own_name(path)}, alias)
        folders = own_first(photos, foreign) if photos else _photo_folders(path, root, split)
        finder = PhotoFinder((image.file_name for image in file.images), folders, below, foreign)
        if subset:
            total, file = len(file.images), _at_hand(file, finder)
            found.facts[f"{split}_photos"] = f"{len(file.images):,} at hand of {total:,} (--subset)"
        _add_file(found, file, split, finder)
    note_shared(found.photos, found.findings)
    if not any(photo.objects for photo in found.photos):
        reason = found.reasons().most_common(1)
        why = f"; most often ({reason[0][1]} times): {reason[0][0][1]}" if reason else ""
        raise UserError(f"no box in {printable(source)} can be converted{why}")
    return found


def _annotation_files(source: Path) -> list[Path]:
    """Find the file itself, or the annotation files of a folder in the layouts of COCO and of Roboflow."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"no such file or folder: {printable(source)}")
    found = _candidates(source)
    if not found:
        raise UserError(f"no annotation file: expected {printable(source)}/annotations/*.json, or name a JSON file")
    return found


def _candidates(source: Path) -> list[Path]:
    for pattern in ("annotations/instances_*.json", "annotations/lvis*.json", "annotations/*.json"):
        if found := sorted(source.glob(pattern)):
            return found
    found = sorted(source.glob("*/_annotations.coco.json"))
    return found or [path for path in sorted(source.glob("*.json")) if looks_like_coco(path)]


def _split_names(files: Sequence[Path], wanted: Sequence[str]) -> list[str]:
    """Name the split of each file: as asked, or by the last train, val or test in its name or its folder's."""
    if wanted:
        if len(wanted) != len(files):
            raise UserError(f"--splits: {len(wanted)} names for {len(files)} annotation files")
        if bad := [split for split in wanted if not re.fullmatch(r"(train|val|test)\d*", split)]:
            raise UserError(f"--splits: {printable(bad[0])!r}: expected train, val or test, such as val2017")
        names = list(wanted)
    else:
        names = [_split_by_name(path, files) or "train" for path in files]
    if len(set(names)) < len(names):
        raise UserError(
            f"several annotation files of one split ({printable(', '.join(names))}): name one file, or use --splits"
        )
    return names


def _split_by_name(path: Path, files: Sequence[Path]) -> str:
    """Find the split in the name of a file, or of its folder where that tells files apart.

    A part of a word (cocoval.json) counts only beside other files: one alone is a set to train on.
    """
    apart = len(files) == 1 or len({file.parent for file in files}) > 1
    names = [path.stem, path.parent.name] if apart else [path.stem]
    patterns = [SPLIT_WORD] if len(files) == 1 else [SPLIT_WORD, SPLIT_PART]
    return next((split for pattern in patterns for name in names if (split := _split_of(name, pattern))), "")


def _says_split(path: Path, files: Sequence[Path]) -> bool:
    """Tell whether a file says its split; the folder of one alone may be called so by chance."""
    return bool(_split_by_name(path, files) if len(files) > 1 else _split_of(path.stem, SPLIT_WORD))


def _split_of(name: str, pattern: re.Pattern[str]) -> str:
    """Find the last split that a name holds, with its year; nothing where there is none."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    found = list(pattern.finditer(words))
    return "".join(filter(None, found[-1].groups())) if found else ""


def _own_name(path: Path) -> str:
    """Name what a file is of, as datumaro and others name their subsets."""
    return re.sub(r"^instances_", "", path.stem)


def _photo_folders(path: Path, root: Path, split: str) -> list[Path]:
    """List where photos usually lie in relation to their annotation file, but no folder of another split.

    Splits have photos of the same names: in another's folder the boxes would go onto another photo.
    """
    bases = dict.fromkeys([path.parent, path.parent.parent, root])
    own = dict.fromkeys((split, _own_name(path), *folders_of_subset(split)))
    below = dict.fromkeys((*(f"images/{each}" for each in own), *own, "images", "."))
    return [base / each for base in bases for each in below]


def _add_file(found: AnnotationSet, file: CocoFile, split: str, finder: PhotoFinder) -> None:
    """Add one split; what cannot be used goes to the findings, and what had to be mended to its truths."""
    findings, kind = found.findings, "LVIS" if file.federated else "COCO"
    for problem in file.problems:
        findings.append(Finding("dropped", split, file.path.name, problem.where, problem.reason, problem.values))
    names = _class_names(file, findings, split)
    if found.names and found.names != tuple(names.values()):
        raise UserError(f"{printable(file.path)}: its categories differ from those of the other annotation file")
    found.names = tuple(names.values())
    found.facts[f"{split}_annotations"] = f"{kind}, {file.path}"
    found.ids.setdefault("categories", {}).update({name: number for number, name in names.items()})
    labels = {number: label for label, number in enumerate(names)}
    mended = _Mended(file, names)
    file = mended.joined(split, findings)
    by_image = defaultdict(list)
    for item in file.objects:
        by_image[item.image].append(item)
    taken: dict[PurePosixPath, str] = {}
    for image in file.images:
        shown = printable(image.file_name)
        try:
            photo, name = finder.find(image.file_name)
            name = place_in_set(name)
            if name.with_suffix("") in taken:
                raise BadAnnotation(SAME_LABEL_FILE, taken[name.with_suffix("")])
            declared, size = frame(photo, image.size, split, findings)
            taken[name.with_suffix("")] = name.name
        except ImageError as error:
            findings.append(Finding("dropped photo", split, shown, "", printable(error.reason)))
            continue
        except BadAnnotation as error:
            findings.append(Finding("dropped photo", split, shown, "", error.reason, error.details))
            continue
        found.ids.setdefault("images", {})[f"{split}/{name}"] = image.id
        objects, ignored = _objects(by_image[image.id], image, declared, labels, split, findings)
        found.photos.append(LabelledPhoto(split, photo, objects, str(name), size, ignored))
        mended.add(image, str(name), declared, size, mended.once(by_image[image.id]))
    _name_truths(found, split, mended)
    _note_losses(file, split, findings)


class _Mended:
    """The file as its labels have it: photos joined, placed and scaled; it is only used where something differs."""

    def __init__(self, file: CocoFile, names: dict[int, str]) -> None:
        self.file, self.names = file, names
        self.reasons: list[str] = ["ids that are texts are numbered"] if file.renumbered else []
        if any(names[category.id] != category.name for category in file.categories):
            self.reasons.append("classes of one name are told apart")
        if any(item.turned for item in file.objects):
            self.reasons.append("rotated boxes are upright")
        self.images: list[CocoImage] = []
        self.objects: list[CocoObject] = []

    def joined(self, split: str, findings: list[Finding]) -> CocoFile:
        """Join the entries of a photo that is listed under several ids; the same object counts once."""
        first: dict[str, int] = {}
        other = {image.id: first.setdefault(image.file_name, image.id) for image in self.file.images}
        again = [image for image in self.file.images if other[image.id] != image.id]
        if not again:
            return self.file
        self.reasons.append("photos that are listed twice are joined")
        for image in again:
            reason = "the photo is listed under several ids: joined"
            findings.append(Finding("noted", split, printable(image.file_name), "", reason, str(image.id)))
        own = {(item.image, item.category, item.xywh) for item in self.file.objects if other[item.image] == item.image}
        objects = []
        for item in self.file.objects:
            place = (other[item.image], item.category, item.xywh)
            if item.image == other[item.image] or place not in own:
                own.add(place)
                objects.append(item._replace(image=other[item.image]))
        images = tuple(image for image in self.file.images if other[image.id] == image.id)
        return replace(self.file, images=images, objects=tuple(objects))

    def once(self, objects: Sequence[CocoObject]) -> list[CocoObject]:
        """Leave out what stands in a photo again, as reading labels does; crowds and difficult objects stay."""
        seen: set[tuple[int, tuple[float, ...]]] = set()
        kept = []
        for item in objects:
            place = (item.category, item.xywh)
            if item.crowd or item.difficult or place not in seen:
                kept.append(item)
            if not (item.crowd or item.difficult):
                seen.add(place)
        if len(kept) < len(objects):
            self.reasons.append("objects that stand twice count once")
        return kept

    def add(
        self,
        image: CocoImage,
        name: str,
        declared: tuple[int, int],
        size: tuple[int, int],
        objects: Iterable[CocoObject],
    ) -> None:
        """Take over a photo that can be used, with its objects in the photo's own pixels."""
        if name != image.file_name:
            self.reasons.append("photos are found by the end of their names")
        self.images.append(image._replace(file_name=name, size=size))
        if declared == size:
            self.objects += objects
            return
        self.reasons.append("annotations of another size are scaled")
        rows, columns = size[0] / declared[0], size[1] / declared[1]
        for item in objects:
            left, top, width, height = item.xywh
            xywh = (left * columns, top * rows, width * columns, height * rows)
            self.objects.append(item._replace(xywh=xywh, area=item.area * rows * columns))

    def whole(self) -> CocoFile:
        """Put together the file that has the labels' classes, photos and sizes."""
        categories = tuple(category._replace(name=self.names[category.id]) for category in self.file.categories)
        return replace(self.file, categories=categories, images=tuple(self.images), objects=tuple(self.objects))


def _name_truths(found: AnnotationSet, split: str, mended: _Mended) -> None:
    """Let the split be measured against its file, or against a mended one that agrees with the labels."""
    if not mended.reasons:
        found.annotations[split] = mended.file.path
        return
    found.truths[split] = mended.whole()
    reasons = ", ".join(dict.fromkeys(mended.reasons))
    found.facts[f"{split}_truths"] = f"annotations/{split}.json instead of {mended.file.path.name}: {reasons}"


def _class_names(file: CocoFile, findings: list[Finding], split: str) -> dict[int, str]:
    """Name each category id in the file's order; repeated names get their id."""
    counts = Counter(category.name for category in file.categories)
    names = {}
    for category in file.categories:
        names[category.id] = category.name if counts[category.name] == 1 else f"{category.name} ({category.id})"
        if counts[category.name] > 1:
            findings.append(Finding("noted", split, file.path.name, category.name, "several categories of this name"))
    return names


def _at_hand(file: CocoFile, finder: PhotoFinder) -> CocoFile:
    """Leave out the photos that are not found; a name that no photo can have is left to the findings."""

    def is_there(image: CocoImage) -> bool:
        try:
            return bool(finder.find(image.file_name))
        except BadAnnotation as error:
            return not error.reason.startswith(NOT_FOUND)

    images = tuple(image for image in file.images if is_there(image))
    ids = {image.id for image in images}
    return replace(file, images=images, objects=tuple(item for item in file.objects if item.image in ids))


def _objects(
    items: Sequence[CocoObject],
    image: CocoImage,
    size: tuple[int, int],
    labels: dict[int, int],
    split: str,
    findings: list[Finding],
) -> tuple[list[LabelledObject], list[LabelledObject]]:
    """Sort the objects of a photo into those that get a label and those that are neither found nor missed."""
    objects: list[LabelledObject] = []
    ignored: list[LabelledObject] = []
    seen = set()
    for item in items:
        where = (split, printable(image.file_name), f"annotations[{item.position}]")
        left, top, width, height = item.xywh
        values = printable(" ".join(f"{side:g}" for side in item.xywh))
        if item.turned:
            findings.append(Finding("noted", *where, TURNED, values))
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
            findings.append(Finding("dropped", *where, TWICE, values))
            continue
        seen.add((item.category, item.xywh))
        objects.append(LabelledObject(labels[item.category], *box))
    return objects, ignored


def _why_dropped(xywh: tuple[float, ...], size: tuple[int, int]) -> str | None:
    """Say why an object gets no label, or None."""
    left, top, width, height = xywh
    if width <= 0 or height <= 0:
        return "box without area"
    if left + width <= 0 or top + height <= 0 or left >= size[1] or top >= size[0]:
        return "box outside the photo"
    return None


def _note_losses(file: CocoFile, split: str, findings: list[Finding]) -> None:
    """Note what labels cannot hold although an evaluation would use it: it stays in the annotation file."""
    if fault := FAULTS.get(f"{file.contributor} COCO"):
        findings.append(Finding("noted", split, file.path.name, "", fault))
    if other := masked(file.objects):
        findings.append(Finding("noted", split, file.path.name, "", MASK_AREA, str(other)))
    if file.federated:
        reason = "LVIS: labels do not say which classes are absent or not fully annotated"
        findings.append(Finding("noted", split, file.path.name, "", reason))
