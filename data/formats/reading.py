"""What every reader does with a box and a photo: its frame, its corners, its place in the set."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from data.formats.annotation_set import Finding, LabelledPhoto
from data.images import image_size
from utils.errors import printable

TWICE = "the same box of the same class stands here twice"
SAME_LABEL_FILE = "another photo would have the same label file"
MASK_AREA = "objects whose area is that of a mask: labels hold boxes only"
SAME_PHOTO = "photo belongs to another annotation already"


class BadAnnotation(Exception):
    """An annotation that cannot be used, why, and details; the conversion goes on without it."""

    def __init__(self, reason: str, details: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = printable(details)


def frame(
    photo: Path, declared: tuple[int, int], split: str, findings: list[Finding]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Find the (height, width) that the boxes refer to, checked against the photo, and the photo's own."""
    height, width = image_size(photo)
    if not all(declared):
        reason = "the annotation gives no size: the photo's is used"
        findings.append(Finding("noted", split, printable(photo.name), "", reason, f"{width}x{height}"))
        return (height, width), (height, width)
    if declared == (height, width):
        return declared, declared
    values = f"annotation {declared[1]}x{declared[0]}, photo {width}x{height}"
    if abs(declared[0] * width - declared[1] * height) > 0.01 * declared[1] * height:
        raise BadAnnotation("the annotation is of another photo or of a turned one", values)
    reason = "the annotation is of another size: boxes are scaled"
    findings.append(Finding("noted", split, printable(photo.name), "", reason, values))
    return declared, (height, width)


def clipped_box(corners: Sequence[float], size: tuple[int, int]) -> tuple[tuple[float, float, float, float], bool]:
    """Turn edges xyxy in a frame (height, width) into fractions of it (centre, sides); say whether it was clipped."""
    height, width = size
    left, top, right, bottom = corners
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return box, (x1, y1, x2, y2) != (left, top, right, bottom)


def one_label_each(photos: Iterable[LabelledPhoto], findings: list[Finding]) -> list[LabelledPhoto]:
    """Leave out photos whose label file would be that of another one, such as a.jpg and a.png, and say so.

    A second annotation of one and the same photo is left out and named too.
    """
    taken: dict[tuple[str, PurePosixPath], LabelledPhoto] = {}
    for photo in photos:
        key = (photo.split, PurePosixPath(photo.name).with_suffix(""))
        if key in taken:
            where = (photo.split, printable(photo.name))
            if taken[key].photo == photo.photo:
                findings.append(Finding("dropped", *where, "annotation", SAME_PHOTO, f"{len(photo.objects)} boxes"))
            else:
                findings.append(Finding("dropped photo", *where, "", SAME_LABEL_FILE, taken[key].name))
        else:
            taken[key] = photo
    return list(taken.values())


def note_shared(photos: Iterable[LabelledPhoto], findings: list[Finding]) -> None:
    """Note photos in two splits, which make a validation worthless."""
    first: dict[Path, str] = {}
    for photo in photos:
        split = first.setdefault(photo.photo, photo.split)
        if split != photo.split:
            reason = "the photo is in two splits"
            findings.append(Finding("noted", photo.split, printable(photo.photo.name), "", reason, split))


def place_in_set(name: PurePosixPath) -> PurePosixPath:
    """Choose a photo's place below `images/<split>/`: its own, without folders that are called images.

    A label file is looked for where the last `images` of a photo's path is exchanged for `labels`.
    """
    return PurePosixPath(*(part for part in name.parent.parts if part != "images"), name.name)
