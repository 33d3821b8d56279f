"""The pixels of augmented images, made by OpenCV: photos warped onto a canvas, blended, recoloured."""

from typing import NamedTuple

import cv2
import numpy as np

from data.augment.colours import beyond_bytes, recolour
from data.augment.fused_colours import fused_colours
from utils.letterbox import PADDING

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
    fused = None
    if recipe.gains is not None and not beyond_bytes(recipe.gains) and image.flags.c_contiguous:
        fused = fused_colours(image.shape[1])
    # A sheet stays in the processor's cache, where a batch's array does not.
    sheet, flips = image if fused is None else np.empty_like(image), (False, False)
    if fused is not None and not others:
        first, flips = _before_flips(first)
    _lay(first, sheet)
    for layout in others:
        second = _lay(layout, np.empty_like(image))
        cv2.addWeighted(sheet, recipe.share, second, 1 - recipe.share, 0, dst=sheet)
    if recipe.gains is None:
        return image
    return recolour(image, recipe.gains) if fused is None else fused(sheet, recipe.gains, *flips, image)


def _before_flips(layout: Layout) -> tuple[Layout, tuple[bool, bool]]:
    """Return the layout that shows the same when it is flipped along (x, y) as a whole, and these flips.

    The layout itself, and none, where photos are not upright, or flipped each in its own way.
    """
    shown, windows, matrices = layout.views
    seen = (windows[:, :2] < windows[:, 2:]).all(1)
    flips = (matrices[seen][:, (0, 1), (0, 1)] < 0).tolist()
    if not flips or flips.count(flips[0]) < len(flips) or not are_upright(matrices).all():
        return layout, (False, False)
    flip_x, flip_y = flips[0]
    (height, width), windows, matrices = layout.size, windows.copy(), np.abs(matrices)
    if flip_x:
        windows[:, ::2] = width - windows[:, 2::-2]
    if flip_y:
        windows[:, 1::2] = height - windows[:, 3::-2]
    return layout._replace(views=Views(shown, windows, matrices)), (flip_x, flip_y)


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
