"""Augmentation of images with boxes; every function that draws takes its random generator.

Boxes and matrices use continuous pixel coordinates: the first pixel's centre lies at (0.5, 0.5).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

from data.zoom_crop import Window, centre_inside, iou_crop, zoom_out
from utils.letterbox import PADDING, Letterbox

MIN_SIDE = 2.0
MIN_AREA_LEFT = 0.1
MAX_SIDE_RATIO = 100.0
BAND = 32


@dataclass(frozen=True)
class Augmentation:
    """How strongly to augment; names and meanings are those of ultralytics' hyperparameters.

    `zoom_out` and `iou_crop` are SSD's (data/zoom_crop.py), for images that are no mosaic.
    From epoch `close_mosaic_from` on (counted from 0; None = never) there is neither mosaic nor mixup.
    """

    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    flipud: float = 0.0
    fliplr: float = 0.5
    mosaic: float = 1.0
    mixup: float = 0.0
    zoom_out: float = 0.0
    iou_crop: float = 0.0
    close_mosaic_from: int | None = None


class Labelled(NamedTuple):
    """An image (h, w, 3) uint8 RGB with its boxes (T, 4) float32 xyxy pixels and labels (T,) int64."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class Transform(NamedTuple):
    """A 3 x 3 matrix from canvas to output pixels, and the change of scale in it."""

    matrix: np.ndarray
    scale: float


def mosaic(parts: Sequence[Labelled], size: tuple[int, int], settings: Augmentation, rng: Generator) -> Labelled:
    """Four images around a random point of a canvas twice the size (h, w), transformed; its middle is the output."""
    height, width = size
    centre = int(rng.uniform(0.5, 1.5) * width), int(rng.uniform(0.5, 1.5) * height)
    canvas = 2 * height, 2 * width
    transform = draw_transform(canvas, size, settings, rng)
    return compose(parts, mosaic_corners(parts, centre), canvas, size, transform)


def warp_single(part: Labelled, size: tuple[int, int], settings: Augmentation, rng: Generator) -> Labelled:
    """One image, already scaled to fit size (h, w), letterboxed and transformed in one step."""
    if settings.zoom_out or settings.iou_crop:
        return warp_window(part, draw_window(part, settings, rng), size, settings, rng)
    box = Letterbox.fit(part.image.shape[:2], size)
    return compose([part], [(box.left, box.top)], size, size, draw_transform(size, size, settings, rng))


def draw_window(part: Labelled, settings: Augmentation, rng: Generator) -> Window:
    """The part of an image that SSD's augmentation shows: zoomed out, cropped, both or neither."""
    height, width = part.image.shape[:2]
    window = Window(0, 0, width, height)
    if rng.random() < settings.zoom_out:
        window = zoom_out(window, rng)
    if rng.random() < settings.iou_crop:
        window = iou_crop(window, part.boxes, rng)
    return window


def warp_window(
    part: Labelled, window: Window, size: tuple[int, int], settings: Augmentation, rng: Generator
) -> Labelled:
    """A window of an image, scaled to fit size (h, w) and transformed; keeps the boxes whose centre it shows."""
    keep = centre_inside(window, part.boxes)
    shown = Labelled(part.image, part.boxes[keep], part.labels[keep])
    fit = min(size[0] / window.size[0], size[1] / window.size[1])
    transform = draw_transform(window.size, size, settings, rng, fit)
    return compose([shown], [(-window.left, -window.top)], window.size, size, transform)


def mosaic_corners(parts: Sequence[Labelled], centre: tuple[int, int]) -> list[tuple[int, int]]:
    """The (left, top) of four images that touch the centre (x, y): above left, above right, below left, below right."""
    x, y = centre
    (h0, w0), (h1, _), (_, w2), _ = (part.image.shape[:2] for part in parts)
    return [(x - w0, y - h0), (x, y - h1), (x - w2, y), (x, y)]


def draw_transform(
    canvas: tuple[int, int], size: tuple[int, int], settings: Augmentation, rng: Generator, fit: float = 1.0
) -> Transform:
    """A random perspective, rotation, scaling and shear about the centre of the canvas (h, w), and a flip.

    The centre comes to lie in the middle of the output (h, w), give or take `translate` of its sides. `fit` is the
    scale about which the random one varies.
    """
    (canvas_height, canvas_width), (height, width) = canvas, size
    to_centre = _shift(-canvas_width / 2, -canvas_height / 2)
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-1, 1, 2) * settings.perspective
    angle = math.radians(rng.uniform(-1, 1) * settings.degrees)
    scale = fit * rng.uniform(1 - settings.scale, 1 + settings.scale)
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = np.tan(np.radians(rng.uniform(-1, 1, 2) * settings.shear))
    x, y = rng.uniform(0.5 - settings.translate, 0.5 + settings.translate, 2)
    flip_x, flip_y = rng.random(2) < (settings.fliplr, settings.flipud)
    matrix = _flip(flip_x, flip_y, size) @ _shift(x * width, y * height) @ shear @ rotation @ perspective @ to_centre
    return Transform(matrix, scale)


def compose(
    parts: Sequence[Labelled],
    corners: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    size: tuple[int, int],
    transform: Transform,
) -> Labelled:
    """The images at their corners (left, top) of a grey canvas (h, w), transformed into an output of size (h, w).

    The canvas exists in the coordinates only: each image is warped once, straight to where it shows in the output.
    """
    image = np.full((*size, 3), PADDING, np.uint8)
    placed = [(*corner, *_far_corner(part, corner)) for part, corner in zip(parts, corners, strict=True)]
    shown = _clip(np.array(placed), canvas)
    windows = _pixels(transform_boxes(shown, transform.matrix), size)
    inverse = np.linalg.inv(transform.matrix)
    for part, corner, area, window in zip(parts, corners, shown, windows, strict=True):
        _warp_onto(image, part.image, corner, area, window, inverse)
    boxes = np.concatenate([part.boxes + np.float32(corner * 2) for part, corner in zip(parts, corners, strict=True)])
    labels = np.concatenate([part.labels for part in parts])
    on_canvas = _clip(boxes, canvas)
    moved = _clip(transform_boxes(on_canvas, transform.matrix), size)
    scaled = boxes * transform.scale
    # Both: turned, even a sliver at the canvas's edge gets a wide box around it.
    keep = worth_keeping(scaled, on_canvas * transform.scale) & worth_keeping(scaled, moved)
    return Labelled(image, moved[keep].astype(np.float32), labels[keep])


def transform_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Boxes (T, 4) float64 xyxy around the four moved corners of each; NaN where a corner lies beyond the horizon."""
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    x, y, w = np.moveaxis(corners @ matrix.T, -1, 0)
    w = np.where(w > 1e-6, w, np.nan)
    x, y = x / w, y / w
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


def worth_keeping(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which boxes (T,) still show after a transformation: before (scaled alike) and after, both (T, 4) xyxy."""
    area_before = np.prod(before[:, 2:] - before[:, :2], axis=1)
    width, height = (after[:, 2:] - after[:, :2]).T
    long, short = np.maximum(width, height), np.minimum(width, height)
    return (short > MIN_SIDE) & (width * height > MIN_AREA_LEFT * area_before) & (long < MAX_SIDE_RATIO * short)


def mixup(first: Labelled, second: Labelled, rng: Generator) -> Labelled:
    """Two images of one size blended by a share drawn from Beta(32, 32), with the boxes of both."""
    share = rng.beta(32.0, 32.0)
    image = cv2.addWeighted(first.image, share, second.image, 1 - share, 0)
    return Labelled(image, *(np.concatenate(pair) for pair in zip(first[1:], second[1:], strict=True)))


def hsv_jitter(image: np.ndarray, settings: Augmentation, rng: Generator) -> np.ndarray:
    """The image (h, w, 3) uint8 RGB with hue, saturation and brightness each multiplied by 1 +- its gain, in place."""
    strengths = settings.hsv_h, settings.hsv_s, settings.hsv_v
    if not any(strengths):
        return image
    gains = (1 + rng.uniform(-1, 1, 3) * strengths).clip(1e-3)
    multiply = _channel_multiplier(gains, image.shape[1])
    # In bands that stay in the processor's cache from one operation to the next.
    for first in range(0, len(image), BAND):
        band = image[first : first + BAND]
        cv2.cvtColor(band, cv2.COLOR_RGB2HSV, dst=band)
        multiply(band)
        cv2.cvtColor(band, cv2.COLOR_HSV2RGB, dst=band)
    return image


def _channel_multiplier(gains: np.ndarray, width: int) -> Callable[[np.ndarray], object]:
    """A function that multiplies hue, saturation and value of (h, width, 3) uint8, h <= BAND, by a gain each, in place.

    As a product of two pictures and one number, which OpenCV computes in a third of the time that a table takes: the
    hue's gain is exact, the others are rounded to about 1/150. OpenCV's 8-bit hue counts half degrees and may go beyond
    180; only where it would go beyond 255 it takes a table after all.
    """
    if gains[0] * 180 > 255:
        table = np.arange(256)[:, None] * gains
        table[:, 0] %= 180
        table = table.clip(0, 255).astype(np.uint8)[None]
        return lambda band: cv2.LUT(band, table, dst=band)
    unit = gains[0] / max(int(255 * gains[0] / gains.max()), 1)
    factors = np.empty((BAND, width, 3), np.uint8)
    factors[:] = np.tile((gains / unit).round().clip(0, 255).astype(np.uint8), (width, 1))
    return lambda band: cv2.multiply(band, factors[: len(band)], dst=band, scale=unit)


def _far_corner(part: Labelled, corner: tuple[int, int]) -> tuple[int, int]:
    return corner[0] + part.image.shape[1], corner[1] + part.image.shape[0]


def _warp_onto(
    output: np.ndarray,
    image: np.ndarray,
    corner: tuple[int, int],
    shown: np.ndarray,
    window: np.ndarray,
    inverse: np.ndarray,
) -> None:
    """Draws an image that lies at a corner (left, top) of the canvas into every pixel of the output that it covers.

    shown (4,) is what of it lies on the canvas, window (4,) the output pixels around that, inverse (3, 3) leads from
    output to canvas.
    """
    (left, top), (x1, y1, x2, y2) = corner, window.tolist()
    if x1 >= x2 or y1 >= y2:
        return
    target = output[y1:y2, x1:x2]
    # OpenCV counts from the centre of the first pixel.
    to_canvas = inverse @ _shift(x1 + 0.5, y1 + 0.5)
    to_image = _shift(-left - 0.5, -top - 0.5) @ to_canvas
    if inverse[0, 1] == 0 == inverse[1, 0] and not inverse[2, :2].any():
        _warp(image, to_image, target)
        return
    # A slanted image covers its window in part. One more pixel all around leaves no cracks between neighbours.
    mask_left, mask_top, mask_right, mask_bottom = (shown + (-1, -1, 1, 1)).tolist()
    mask = np.full((mask_bottom - mask_top, mask_right - mask_left), 255, np.uint8)
    to_mask = _shift(-mask_left - 0.5, -mask_top - 0.5) @ to_canvas
    covered = _warp(mask, to_mask, np.zeros(target.shape[:2], np.uint8), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    cv2.copyTo(_warp(image, to_image, np.empty_like(target)), covered, target)


def _warp(
    source: np.ndarray,
    inverse: np.ndarray,
    target: np.ndarray,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_REPLICATE,
) -> np.ndarray:
    """Fills the target from the source by a 3 x 3 matrix from target to source pixel indices."""
    size = target.shape[1::-1]
    flags = interpolation | cv2.WARP_INVERSE_MAP
    if inverse[2, :2].any():
        return cv2.warpPerspective(source, inverse, size, target, flags, border)
    return cv2.warpAffine(source, inverse[:2] / inverse[2, 2], size, target, flags, border)


def _pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The columns and rows (N, 4), ends excluded, whose centres boxes (N, 4) hold; all of them for NaN."""
    whole = np.array([0, 0, size[1], size[0]])
    rounded = _clip(np.ceil(boxes - 0.5), size)
    return np.where(np.isnan(boxes).any(1, keepdims=True), whole, rounded).astype(int)


def _clip(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return boxes.clip(0, np.array([width, height, width, height], boxes.dtype))


def _shift(x: float, y: float) -> np.ndarray:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def _flip(flip_x: bool, flip_y: bool, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array(
        [
            [-1.0 if flip_x else 1.0, 0.0, width if flip_x else 0.0],
            [0.0, -1.0 if flip_y else 1.0, height if flip_y else 0.0],
            [0.0, 0.0, 1.0],
        ]
    )
