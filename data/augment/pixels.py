"""The pixels of augmented images, made by OpenCV: photos warped onto a canvas, blended, recoloured."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from utils.letterbox import PADDING

BAND = 128
# cv2.flip's codes for flips along (x, y).
FLIP_CODES = {(True, False): 1, (False, True): 0, (True, True): -1}


class Views(NamedTuple):
    """How an output shows each of N photos: all in whole pixels, ends excluded.

    shown (N, 4) is a part of the photo, windows (N, 4) are the output's columns and rows around it, matrices (N, 3, 3)
    lead from photo to output. Where they keep rectangles upright, the part fills its window. A photo that is not seen
    has an empty window.
    """

    shown: np.ndarray
    windows: np.ndarray
    matrices: np.ndarray


class Layout(NamedTuple):
    """An output of size (h, w) that shows photos over grey.

    Photos are arrays (h, w, 3) uint8, or stand for such and have their shape.
    """

    photos: tuple
    views: Views
    size: tuple[int, int]


class Recipe(NamedTuple):
    """How an image is made: one layout, or two blended with `share` of the first; hue, saturation, value gains (3,)."""

    layouts: tuple[Layout, ...]
    share: float = 1.0
    gains: np.ndarray | None = None


def paint(recipe: Recipe, image: np.ndarray | None = None) -> np.ndarray:
    """Return the image (h, w, 3) uint8 RGB of a recipe, in `image` if given."""
    first, *others = recipe.layouts
    image = np.empty((*first.size, 3), np.uint8) if image is None else image
    _lay(first, image)
    for layout in others:
        second = _lay(layout, np.empty_like(image))
        cv2.addWeighted(image, recipe.share, second, 1 - recipe.share, 0, dst=image)
    return image if recipe.gains is None else recolour(image, recipe.gains)


def recolour(image: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the image (h, w, 3) uint8 RGB with hue, saturation and value multiplied by gains (3,), in place."""
    multiply = _channel_multiplier(gains, image.shape[1])
    # In bands that stay in the processor's cache from one operation to the next.
    for first in range(0, len(image), BAND):
        band = image[first : first + BAND]
        cv2.cvtColor(band, cv2.COLOR_RGB2HSV, dst=band)
        multiply(band)
        cv2.cvtColor(band, cv2.COLOR_HSV2RGB, dst=band)
    return image


def _lay(layout: Layout, image: np.ndarray) -> np.ndarray:
    """Paint the layout into an image (h, w, 3): each photo is warped once, straight into it."""
    image.fill(PADDING)
    shown, windows, matrices = layout.views
    for photo, (left, top, right, bottom), (x1, y1, x2, y2), upright, matrix in zip(
        layout.photos, shown.tolist(), windows.tolist(), are_upright(matrices).tolist(), matrices, strict=True
    ):
        if x1 >= x2 or y1 >= y2:
            continue
        part, target = photo[top:bottom, left:right], image[y1:y2, x1:x2]
        if upright:
            _fill(target, part, matrix[0, 0] < 0, matrix[1, 1] < 0)
        else:
            _warp_onto(target, part, np.linalg.inv(shift(-x1, -y1) @ matrix @ shift(left, top)))
    return image


def shift(x: float, y: float) -> np.ndarray:
    """Return the 3 x 3 matrix that moves points by (x, y)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def are_upright(matrices: np.ndarray) -> np.ndarray:
    """Return which of the matrices (..., 3, 3) keep rectangles upright (N,)."""
    return np.logical_not(matrices.reshape(-1, 9)[:, [1, 3, 6, 7]].any(1))


def beyond_bytes(gains: np.ndarray) -> bool:
    """Tell whether a hue, which OpenCV counts in half degrees, times its gain can exceed what a byte holds."""
    return gains[0] * 180 > 255


def as_factors(gains: np.ndarray) -> tuple[np.ndarray, float]:
    """Return gains (3,) as whole factors (3,) uint8 times one unit: the hue's exactly, the others to about 1/150."""
    unit = gains[0] / max(int(255 * gains[0] / gains.max()), 1)
    return (gains / unit).round().clip(0, 255).astype(np.uint8), unit


def _channel_multiplier(gains: np.ndarray, width: int) -> Callable[[np.ndarray], object]:
    """Make a function that multiplies hue, saturation and value of (h, width, 3) uint8 in place, h <= BAND.

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


def _fill(target: np.ndarray, photo: np.ndarray, flip_x: bool, flip_y: bool) -> None:
    """Scale a photo to a target's size and flip it."""
    # What OpenCV calls inexact are Intel's primitives, where it has them: half the time, and nearer to the true values
    # than its own, which round down more often than up. A setting of this thread.
    before = cv2.ipp.useIPP_NotExact()
    cv2.ipp.setUseIPP_NotExact(True)
    try:
        cv2.resize(photo, target.shape[1::-1], dst=target, interpolation=cv2.INTER_LINEAR)
    finally:
        cv2.ipp.setUseIPP_NotExact(before)
    if flip_x or flip_y:
        cv2.flip(target, FLIP_CODES[bool(flip_x), bool(flip_y)], dst=target)


def _warp_onto(target: np.ndarray, photo: np.ndarray, inverse: np.ndarray) -> None:
    """Draw a photo into every pixel of a target that it covers, by a 3 x 3 matrix from target to photo."""
    # A slanted photo covers its window in part. One more pixel all around leaves no cracks between neighbours.
    mask = np.full((photo.shape[0] + 2, photo.shape[1] + 2), 255, np.uint8)
    covered = np.zeros(target.shape[:2], np.uint8)
    _warp(mask, shift(1, 1) @ inverse, covered, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    cv2.copyTo(_warp(photo, inverse, np.empty_like(target)), covered, target)


def _warp(
    source: np.ndarray,
    inverse: np.ndarray,
    target: np.ndarray,
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_REPLICATE,
) -> np.ndarray:
    """Fill the target from the source by a 3 x 3 matrix from target to source pixels."""
    size = target.shape[1::-1]
    flags = interpolation | cv2.WARP_INVERSE_MAP
    # OpenCV counts from the centre of the first pixel.
    inverse = shift(-0.5, -0.5) @ inverse @ shift(0.5, 0.5)
    if inverse[2, :2].any():
        return cv2.warpPerspective(source, inverse, size, target, flags, border)
    return cv2.warpAffine(source, inverse[:2] / inverse[2, 2], size, target, flags, border)
