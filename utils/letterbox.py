"""Fitting a photo into the network input, and boxes there and back."""

from typing import NamedTuple, TypeVar

import cv2
import numpy as np
from torch import Tensor

PADDING = 114

Boxes = TypeVar("Boxes", np.ndarray, Tensor)


class Letterbox(NamedTuple):
    """How a photo of `original` (h, w) lies in a network input of `size` (h, w): scaled, centred, padded with grey."""

    original: tuple[int, int]
    size: tuple[int, int]
    scale: float
    left: int
    top: int

    @classmethod
    def fit(cls, original: tuple[int, int], size: tuple[int, int]) -> "Letterbox":
        """Return the largest scale at which a photo (h, w) fits into size (h, w)."""
        height, width = (int(side) for side in original)
        scale = min(size[0] / height, size[1] / width)
        box = cls((height, width), (int(size[0]), int(size[1])), scale, 0, 0)
        inner_height, inner_width = box.inner
        return box._replace(left=(size[1] - inner_width) // 2, top=(size[0] - inner_height) // 2)

    @property
    def inner(self) -> tuple[int, int]:
        """The (h, w) of the scaled photo without its padding, whole pixels."""
        height, width = (max(round(side * self.scale), 1) for side in self.original)
        return height, width

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return the photo (h, w, 3) uint8 as a network input of `size`, padding 114."""
        return self.pad(self.resize(image))

    def resize(self, image: np.ndarray, shrink: int = cv2.INTER_AREA) -> np.ndarray:
        """Return the photo (h, w, 3) uint8 scaled to `inner`, bilinear when growing."""
        if image.shape[:2] == self.inner:
            return image
        height, width = self.inner
        return cv2.resize(image, (width, height), interpolation=shrink if self.scale < 1 else cv2.INTER_LINEAR)

    def pad(self, inner: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
        """Return the scaled photo at its place on grey, (H, W, 3) uint8, in `image` if given."""
        image = np.empty((*self.size, 3), np.uint8) if image is None else image
        image.fill(PADDING)
        image[self.top : self.top + inner.shape[0], self.left : self.left + inner.shape[1]] = inner
        return image

    def boxes(self, boxes: Boxes) -> Boxes:
        """Return boxes (N, 4) xyxy, floating, from original to network pixels."""
        return boxes * _like(self._ratio, boxes) + _like(self._offset, boxes)

    def undo(self, boxes: Boxes) -> Boxes:
        """Return boxes (N, 4) xyxy, floating, from network to original pixels, clipped to the photo."""
        height, width = self.original
        boxes = (boxes - _like(self._offset, boxes)) / _like(self._ratio, boxes)
        return boxes.clip(_like((0, 0, 0, 0), boxes), _like((width, height, width, height), boxes))

    @property
    def _ratio(self) -> tuple[float, ...]:
        # Not `scale`: whole pixels make the two sides' true ratios differ from it, by half a pixel at the far edge.
        (height, width), (inner_height, inner_width) = self.original, self.inner
        return (inner_width / width, inner_height / height) * 2

    @property
    def _offset(self) -> tuple[int, ...]:
        return (self.left, self.top) * 2


def _like(values: tuple[float, ...], boxes: Boxes) -> Boxes:
    if isinstance(boxes, Tensor):
        return boxes.new_tensor(values)
    return np.asarray(values, boxes.dtype)
