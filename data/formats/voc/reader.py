"""Pascal VOC sets: folders of XML files and photos in the layouts in which tools write them, as an annotation set."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from data.formats.annotation_set import AnnotationSet, Finding, LabelledObject, LabelledPhoto
from data.formats.photo_finder import SEVERAL
from data.formats.reading import (
    SAME_LABEL_FILE,
    SAME_PHOTO,
    TWICE,
    BadAnnotation,
    clipped_box,
    frame,
    note_shared,
    one_label_each,
)
from data.formats.turned import TURNED, Corners, turned_box
from data.formats.voc.layout import (
    LABELMAP,
    SPLIT_KEYS,
    Photos,
    VocFolder,
    find_voc_folders,
    identifiers_of,
    read_image_sets,
)
from data.formats.voc.xml_file import Seen, VocObject, choose_origin, photo_named, read_annotation
from data.images import ImageError
from data.labels.tool_faults import FAULTS
from utils.errors import UserError, nearest, printable

PIXEL_ORIGINS = ("auto", "0", "1")
DIFFICULT = "difficult (--keep-difficult keeps such objects)"
NO_XML = "no annotation: taken as background"


class AnnotatedPhoto(NamedTuple):
    """An annotation that has its photo: split to write to, XML, photo, its place below the split's folder, the
    (height, width) of the frame of its boxes and of the photo itself.
    """

    split: str
    xml: str
    photo: Path
    name: str
    frame: tuple[int, int]
    size: tuple[int, int]
    objects: list[VocObject]
    by_voc: bool
    tool: str


def read_voc_set(
    source: Path,
    names: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    keep_difficult: bool = False,
    pixel_origin: str = "auto",
) -> AnnotationSet:
    """Read VOC folders; UserError if nothing can be used."""
    source = Path(os.path.normpath(Path(source).absolute()))
    _check_choices(names, splits, pixel_origin)
    findings: list[Finding] = []
    facts: dict[str, object] = {}
    photos: list[AnnotatedPhoto] = []
    order: list[str] = []
    for folder in find_voc_folders(source):
        photos += _read_folder(folder, splits, findings, facts)
        order += folder.class_order()
    if not photos:
        first = f"; first of {len(findings)} problems: {findings[0].file}: {findings[0].reason}" if findings else ""
        raise UserError(f"nothing to convert in {printable(source)}{first}")
    classes = _class_names(photos, names, source, order, findings)
    corners = [[box for item in photo.objects if (box := item.corners())] for photo in photos]
    seen = [
        Seen(own, photo.frame, photo.by_voc, photo.tool)
        for own, photo in zip(corners, photos, strict=True)
        if photo.xml
    ]
    origin, reason = choose_origin(seen, pixel_origin)
    for tool, count in Counter(each.tool for each in seen).items():
        if fault := FAULTS.get(f"{tool} VOC"):
            findings.append(Finding("noted", photos[0].split, "", "", fault, f"{count} annotations"))
    labelled = [_labelled(photo, classes, origin, keep_difficult, findings) for photo in photos]
    note_shared(labelled, findings)
    labelled = one_label_each(labelled, findings)
    facts = {"pixel_origin": f"{origin} ({reason})", **facts}
    if not any(photo.split.startswith("val") for photo in photos):
        facts["validation"] = "no val split was found; training needs `val:` in data.yaml, or --val .2"
    found = AnnotationSet(source, classes, labelled, findings, facts)
    if not any(photo.objects for photo in labelled):
        (_, reason), count = found.reasons().most_common(1)[0]
        raise UserError(f"no box in {printable(source)} can be converted; most often ({count} times): {reason}")
    return found


def _check_choices(names: Sequence[str] | None, splits: Sequence[str] | None, pixel_origin: str) -> None:
    for split in splits or ():
        if split not in SPLIT_KEYS:
            raise UserError(f"unknown split {printable(split)!r}{nearest(split, SPLIT_KEYS)}")
    keys = [SPLIT_KEYS[split] for split in splits or ()]
    if len(set(keys)) < len(keys):
        raise UserError("the splits overlap: trainval holds train, and each may be given once")
    if names is not None and (not all(names) or len(set(names)) < len(names)):
        raise UserError("the class names must be different from each other and not empty")
    if pixel_origin not in PIXEL_ORIGINS:
        raise UserError(f"unknown pixel origin {printable(pixel_origin)!r}{nearest(pixel_origin, PIXEL_ORIGINS)}")


def _read_folder(
    folder: VocFolder, splits: Sequence[str] | None, findings: list[Finding], facts: dict[str, object]
) -> Iterable[AnnotatedPhoto]:
    """Yield the annotated photos of one VOC folder, split by split; what cannot be used goes to the findings."""
    xmls, photos = folder.annotations(), folder.photos()
    known = _Known(xmls, photos)
    listed = read_image_sets(folder, splits, facts, xmls.keys() | photos.stems.keys())
    used: set[Path] = set()
    for split, identifiers in (listed or {folder.split: sorted(xmls)}).items():
        taken: set[Path] = set()
        for identifier in identifiers:
            file = printable(f"{identifier}.xml")
            try:
                key = identifiers_of(identifier)
                found = _read_one(folder, split, key, known, taken, findings)
                taken.add(found.photo)
                used.add(found.photo)
                yield found
            except ImageError as error:
                findings.append(
                    Finding("dropped photo", split, file, "", printable(error.reason), Path(error.path).name)
                )
            except BadAnnotation as error:
                findings.append(Finding("dropped photo", split, file, "", error.reason, error.details))
        if not listed:
            yield from _background(folder, split, photos.files, used | known.annotated, findings)
    left = len(set(photos.files.values()) - used)
    if listed and left and splits is None:
        facts[f"left_out{folder.year}"] = f"{left:,} photos are in no image set that is read"


class _Known:
    """The annotations and photos of a folder, and the photos that annotations are of, those too that are refused.

    A photo whose annotation cannot be used is no background: its objects would be trained on as such.
    """

    def __init__(self, xmls: dict[str, Path], photos: Photos) -> None:
        self.xmls, self.photos = xmls, photos
        self.annotated: set[Path] = set()
        self._names: dict[str, list[Path]] = defaultdict(list)
        self._stems: dict[str, list[Path]] = defaultdict(list)
        for key, path in photos.files.items():
            self._names[PurePosixPath(key).name].append(path)
            self._stems[PurePosixPath(key).stem].append(path)

    def photos_of(self, key: str, named: str, folder: str = "") -> list[Path]:
        """List the photos that an annotation may be of: just one where its place, its file name or folder tell.

        That is the photo at its own place; else those that it names, in the folders that it names; else those that
        are called like it, wherever they lie.
        """
        named = named.replace("\\", "/")
        if beside := self.photos.stems.get(key):
            return [next((photo for photo in beside if photo.name == PurePosixPath(named).name), beside[0])]
        if named in self.photos.files:
            return [self.photos.files[named]]
        path = PurePosixPath(named)
        found = self._names.get(path.name) or self._stems.get(PurePosixPath(key).name, [])
        for parent in (path.parent.name, PurePosixPath(key).parent.name, folder):
            if parent and len(found) > 1:
                found = [photo for photo in found if photo.parent.name == parent] or found
        return found


def _read_one(
    folder: VocFolder,
    split: str,
    key: str,
    known: "_Known",
    taken: set[Path],
    findings: list[Finding],
) -> AnnotatedPhoto:
    """Read one annotation with its photo; a photo of an image set that has no annotation is background."""
    xml = known.xmls.get(key)
    beside = known.photos.stems.get(key, [])
    known.annotated.update(beside)
    if xml is None:
        if not beside:
            raise BadAnnotation("annotation missing")
        return _without_xml(folder, split, beside[0], findings)
    try:
        annotation = read_annotation(xml)
    except BadAnnotation:
        known.annotated.update(known.photos_of(key, photo_named(xml)))
        raise
    photos = known.photos_of(key, annotation.photo, annotation.folder)
    known.annotated.update(photos)
    if not photos:
        raise BadAnnotation(f"photo missing in {folder.photo_folder.name}", annotation.photo)
    if len(photos) > 1:
        listed = ", ".join(folder.place(photo) for photo in photos[:2])
        raise BadAnnotation(SEVERAL, f"{annotation.photo}: {listed}")
    photo = photos[0]
    if photo in taken:
        raise BadAnnotation(SAME_PHOTO, photo.name)
    declared, size = frame(photo, annotation.size, split, findings)
    for other in beside:
        if other != photo:
            reason = (SAME_LABEL_FILE, printable(photo.name))
            findings.append(Finding("dropped photo", split, printable(other.name), "", *reason))
    name = folder.place(photo)
    kept = (annotation.objects, annotation.by_voc, annotation.tool)
    return AnnotatedPhoto(split, xml.name, photo, name, declared, size, *kept)


def _without_xml(folder: VocFolder, split: str, photo: Path, findings: list[Finding]) -> AnnotatedPhoto:
    _, size = frame(photo, (0, 0), split, [])
    findings.append(Finding("noted", split, printable(photo.name), "", NO_XML))
    return AnnotatedPhoto(split, "", photo, folder.place(photo), size, size, [], False, "")


def _background(
    folder: VocFolder, split: str, photos: dict[str, Path], used: set[Path], findings: list[Finding]
) -> Iterable[AnnotatedPhoto]:
    """Yield the photos that no annotation is of; those that have one which cannot be used are among the `used`."""
    for _, photo in sorted(photos.items()):
        if photo not in used:
            try:
                yield _without_xml(folder, split, photo, findings)
            except ImageError as error:
                findings.append(Finding("dropped photo", split, printable(photo.name), "", printable(error.reason)))


def _class_names(
    photos: Sequence[AnnotatedPhoto],
    wanted: Sequence[str] | None,
    source: Path,
    order: Sequence[str],
    findings: list[Finding],
) -> tuple[str, ...]:
    """Choose the class names: those wanted, of which one at least must occur, or all that occur.

    Those come in the order of a labelmap.txt (CVAT, datumaro) that has them all, else sorted.
    """
    found = sorted({item.name for photo in photos for item in photo.objects if item.name})
    if not found:
        raise UserError(f"no object in any of the {len(photos)} annotations of {printable(source)}")
    if wanted is None:
        named = [name for name in dict.fromkeys(order) if name != "background" or name in found]
        missing = [name for name in found if name not in named]
        if named and missing:
            reason = "not all classes that occur stand there: they are sorted by name instead"
            findings.append(Finding("noted", photos[0].split, LABELMAP, "", reason, printable(", ".join(missing))))
        return tuple(found) if missing else tuple(named)
    if not set(wanted) & set(found):
        raise UserError(f"none of the class names given occurs; the annotations hold: {printable(', '.join(found))}")
    return tuple(wanted)


def _labelled(
    photo: AnnotatedPhoto, names: Sequence[str], origin: int, keep_difficult: bool, findings: list[Finding]
) -> LabelledPhoto:
    """Make labels of the usable objects; the others, and what was clipped, go to the findings."""
    ids = {name: index for index, name in enumerate(names)}
    height, width = photo.frame
    objects, ignored = [], []
    seen: set[LabelledObject] = set()
    for number, item in enumerate(photo.objects, 1):
        where = (photo.split, printable(photo.xml), f"{number} {item.name}")
        reason = _why_dropped(item, ids, photo.frame, origin)
        values = printable(" ".join(value or "-" for value in item.values))
        if reason:
            findings.append(Finding("dropped", *where, reason, values))
            continue
        if item.turn:
            findings.append(Finding("noted", *where, TURNED, values))
        edges = _edges(item, origin)
        box, clipped = clipped_box(edges, photo.frame)
        if clipped:
            findings.append(Finding("clipped", *where, "box reaches beyond the photo", f"{values} in {width}x{height}"))
        labelled = LabelledObject(ids[item.name], *box, kind="difficult" if item.difficult else "")
        if labelled in seen:
            findings.append(Finding("dropped", *where, TWICE, values))
            continue
        seen.add(labelled)
        if item.difficult and not keep_difficult:
            findings.append(Finding("dropped", *where, DIFFICULT, values))
            ignored.append(labelled)
        else:
            objects.append(labelled._replace(kind=""))
    return LabelledPhoto(photo.split, photo.photo, objects, photo.name, photo.size, ignored)


def _edges(item: VocObject, origin: int) -> Corners:
    """Turn VOC corners into upright edges: of pixels counted from 1, the last one included, the first corner moves."""
    left, top, right, bottom = item.corners() or (0.0,) * 4
    return turned_box((left - origin, top - origin, right, bottom), item.turn)


def _why_dropped(item: VocObject, ids: dict[str, int], size: tuple[int, int], origin: int) -> str | None:
    """Say why an object gets no label, or None."""
    corners = item.corners()
    if not item.name:
        return "object without a name"
    if item.name not in ids:
        return "class not among the names"
    if corners is None:
        return "box is not four numbers"
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return "box without area"
    left, top, right, bottom = _edges(item, origin)
    if right <= 0 or bottom <= 0 or left >= size[1] or top >= size[0]:
        return "box outside the photo"
    return None
