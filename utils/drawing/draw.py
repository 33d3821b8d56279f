"""Boxes on pictures, pictures in a grid, and pictures in files; images are (H, W, 3) RGB uint8."""

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from utils.errors import UserError, printable

GOLDEN_RATIO = 0.618034
GREY = 114  # the padding of letterboxed images
JPEG = (".jpg", ".jpeg")
LARGEST_JPEG = 65500  # pixels of a side


def class_color(label: int) -> tuple[int, int, int]:
    """Return a class's RGB colour, the same in every picture: hues a golden ratio apart, in three shades."""
    saturation, value = ((0.85, 0.95), (0.55, 1.0), (0.9, 0.7))[label % 3]
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: NDArray, boxes: ArrayLike, labels: ArrayLike, names: Sequence[str], scores: ArrayLike | None = None
) -> NDArray:
    """Return a copy of the image with boxes (K, 4) xyxy pixels, names and scores (K,).

    Without boxes that are not finite.
    """
    boxes, labels = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(labels, np.int64)
    order = np.arange(len(labels)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    order = order[np.isfinite(boxes[order]).all(1)]  # by rising score, so that the surest lies on top
    side = max(image.shape[:2])
    width, font = max(1, round(side / 320)), _font(max(11, round(side / 42)))

    picture = Image.fromarray(np.ascontiguousarray(image))
    pen = ImageDraw.Draw(picture)
    for row in order.tolist():
        color = class_color(int(labels[row]))
        left, top, right, bottom = _inside(boxes[row], picture.size)
        pen.rectangle((left, top, right, bottom), outline=color, width=width)
        name = drawable(names[labels[row]], f"class {labels[row]}")
        text = name if scores is None else f"{name} {float(np.asarray(scores)[row]):.2f}"
        _draw_text(pen, picture.size, (left, top), text, color, font)
    return np.asarray(picture).copy()


def image_grid(images: Sequence[NDArray], columns: int) -> NDArray:
    """Return one picture of several, row by row, each centred in a grey cell as large as the largest."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    grid = np.full((-(-len(images) // columns) * height, min(columns, len(images)) * width, 3), GREY, np.uint8)
    for number, image in enumerate(images):
        top = number // columns * height + (height - image.shape[0]) // 2
        left = number % columns * width + (width - image.shape[1]) // 2
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    return grid


def fitting(path: Path, image: NDArray) -> Path:
    """Return where `write_image` writes an image: there, or where a .jpg cannot hold it, beside it as .png."""
    too_large = path.suffix in JPEG and max(image.shape[:2]) > LARGEST_JPEG
    return path.with_suffix(".png") if too_large else path


def write_image(path: Path, image: NDArray) -> Path:
    """Write a .jpg or .png, to any path that the system knows, and return it; UserError where neither holds the image.

    An image with a side that a .jpg cannot hold becomes a .png of that name.
    """
    path = fitting(path, image)
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix in JPEG else []
    try:
        done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    except cv2.error:
        done = False
    if not done:
        size = f"{image.shape[1]}x{image.shape[0]}"
        raise UserError(f"{printable(path)}: a picture of {size} px cannot be written as {path.suffix}")
    path.write_bytes(encoded.tobytes())
    return path


def drawable(name: str, instead: str) -> str:
    """Return the name on one line, or `instead` when the font lacks one of its characters."""
    name = printable(name, 40)
    return name if all(map(_has_glyph, name)) else instead


@cache
def _has_glyph(character: str) -> bool:
    """Say whether the font draws a character as something else than its mark for missing ones."""
    font = _font(16)
    mask, missing = font.getmask(character), font.getmask("\uffff")
    return (mask.getbbox(), bytes(mask)) != (missing.getbbox(), bytes(missing))


def _draw_text(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[int, int],
    text: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Draw text on a filled patch above the box's corner, or inside the box where there is no room."""
    ascent, descent = font.getmetrics()
    margin = max(1, descent // 3)
    height, width = ascent + descent, round(font.getlength(text)) + 2 * margin
    left = max(0, min(corner[0], size[0] - width))
    top = corner[1] - height if corner[1] >= height else corner[1]
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    pen.text((left + margin, top), text, fill=(0, 0, 0) if brightness > 140 else (255, 255, 255), font=font)


def _inside(box: NDArray, size: tuple[int, int]) -> list[int]:
    """Return the box in whole pixels, clipped to the image, with ordered corners."""
    last = np.tile(np.asarray(size) - 1, 2)
    left, top, right, bottom = box.round().clip(0, last).astype(int).tolist()
    return [left, top, max(left, right), max(top, bottom)]


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib: Pillow's own font and cv2's know ASCII only."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
