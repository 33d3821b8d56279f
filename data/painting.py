"""The pixels of augmented images, made by OpenCV: photos warped onto a canvas, blended, recoloured."""

from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.letterbox import PADDING

BAND = 32


class Layout(NamedTuple):
    """Photos at corners (left, top) of a grey canvas, and how an output of size (h, w) shows it.

    shown (N, 4) is what of each photo lies on the canvas, windows (N, 4) are the output pixels around that, inverse
    (3, 3) leads from output to canvas. Photos are arrays (h, w, 3) uint8, or stand for such and have their shape.
    """

    photos: tuple
    corners: tuple[tuple[int, int], ...]
    shown: np.ndarray
    windows: np.ndarray
    inverse: np.ndarray
    size: tuple[int, int]


class Painter(NamedTuple):
    """What makes images of what was drawn; an image is an array for OPENCV, else what the painter takes for one.

    paint(layout) -> image; blend(first, second, share of the first) -> image; recolour(image, gains (3,)) -> image.
    """

    paint: Callable[[Layout], Any]
    blend: Callable[[Any, Any, float], Any]
    recolour: Callable[[Any, np.ndarray], Any]


def paint(layout: Layout) -> np.ndarray:
    """The output (h, w, 3) uint8; the canvas exists in the coordinates only, each photo is warped once."""
    image = np.full((*layout.size, 3), PADDING, np.uint8)
    for photo, corner, area, window in zip(*layout[:4], strict=True):
        _warp_onto(image, photo, corner, area, window, layout.inverse)
    return image


def blend(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Two images of one size, `share` of the first."""
    return cv2.addWeighted(first, share, second, 1 - share, 0)


def recolour(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """The image (h, w, 3) uint8 RGB with hue, saturation and value multiplied by gains (3,), in place."""
    multiply = _channel_multiplier(gains, image.shape[1])
    # In bands that stay in the processor's cache from one operation to the next.
    for first in range(0, len(image), BAND):
        band = image[first : first + BAND]
        cv2.cvtColor(band, cv2.COLOR_RGB2HSV, dst=band)
        multiply(band)
        cv2.cvtColor(band, cv2.COLOR_HSV2RGB, dst=band)
    return image


OPENCV = Painter(paint, blend, recolour)


def shift(x: float, y: float) -> np.ndarray:
    """The 3 x 3 matrix that moves points by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def beyond_bytes(gains: np.ndarray) -> bool:
    """Whether a hue, which OpenCV counts in half degrees, times its gain can exceed what a byte holds."""
    return gains[0] * 180 > 255


def as_factors(gains: np.ndarray) -> tuple[np.ndarray, float]:
    """Gains (3,) as whole factors (3,) uint8 times one unit: the hue's exactly, the others to about 1/150."""
    unit = gains[0] / max(int(255 * gains[0] / gains.max()), 1)
    return (gains / unit).round().clip(0, 255).astype(np.uint8), unit


def _channel_multiplier(gains: np.ndarray, width: int) -> Callable[[np.ndarray], object]:
    """A function that multiplies hue, saturation and value of (h, width, 3) uint8, h <= BAND, by a gain each, in place.

    As a product of two pictures and one number, which OpenCV computes in a third of the time that a table takes. A hue
    may go beyond 180; only where it would go beyond 255 it takes a table after all.
    """
    if beyond_bytes(gains):
        table = np.arange(256)[:, None] * gains
        table[:, 0] %= 180
        table = table.clip(0, 255).astype(np.uint8)[None]
        return lambda band: cv2.LUT(band, table, dst=band)
    whole, unit = as_factors(gains)
    factors = np.empty((BAND, width, 3), np.uint8)
    factors[:] = np.tile(whole, (width, 1))
    return lambda band: cv2.multiply(band, factors[: len(band)], dst=band, scale=unit)


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
    to_canvas = inverse @ shift(x1 + 0.5, y1 + 0.5)
    to_image = shift(-left - 0.5, -top - 0.5) @ to_canvas
    if inverse[0, 1] == 0 == inverse[1, 0] and not inverse[2, :2].any():
        _warp(image, to_image, target)
        return
    # A slanted image covers its window in part. One more pixel all around leaves no cracks between neighbours.
    mask_left, mask_top, mask_right, mask_bottom = (shown + (-1, -1, 1, 1)).tolist()
    mask = np.full((mask_bottom - mask_top, mask_right - mask_left), 255, np.uint8)
    to_mask = shift(-mask_left - 0.5, -mask_top - 0.5) @ to_canvas
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
