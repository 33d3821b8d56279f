"""The frame that an annotation's boxes refer to, checked against the photo."""

from pathlib import Path

from data.formats.yolo_set import Finding
from data.images import image_size
from utils.errors import printable


class BadAnnotation(Exception):
    """An annotation that cannot be used, why, and details; the conversion goes on without it."""

    def __init__(self, reason: str, details: object = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.details = printable(details)


def frame(photo: Path, declared: tuple[int, int], split: str, findings: list[Finding]) -> tuple[int, int]:
    """The (height, width) that the boxes refer to: the annotation's, checked against the photo, or the photo's."""
    height, width = image_size(photo)
    if not all(declared):
        reason = "the annotation gives no size: the photo's is used"
        findings.append(Finding("noted", split, printable(photo.name), "", reason, f"{width}x{height}"))
        return height, width
    if declared == (height, width):
        return declared
    values = f"annotation {declared[1]}x{declared[0]}, photo {width}x{height}"
    if abs(declared[0] * width - declared[1] * height) > 0.01 * declared[1] * height:
        raise BadAnnotation("the annotation is of another photo or of a turned one", values)
    reason = "the annotation is of another size: boxes are scaled"
    findings.append(Finding("noted", split, printable(photo.name), "", reason, values))
    return declared


def clipped_box(corners: tuple[float, ...], size: tuple[int, int]) -> tuple[tuple[float, float, float, float], bool]:
    """Edges xyxy in a frame (height, width) as fractions of it (centre, sides), and whether it was clipped."""
    height, width = size
    left, top, right, bottom = corners
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return box, (x1, y1, x2, y2) != (left, top, right, bottom)
