"""SSD's augmentation of single photos: zooming out, and crops that overlap an object (Liu et al. 2016, 2.2, 3.6).

Both choose a window, xyxy in whole pixels of the photo, that the network input then shows; nothing is drawn here.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator

LARGEST_ZOOM = 4.0
SMALLEST_CROP = 0.3
MOST_ELONGATED = 2.0
LEAST_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
TRIALS = 40


class Window(NamedTuple):
    """What of a photo is shown: whole pixels, beyond the photo too, where it is grey."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left


def zoom_out(window: Window, rng: Generator) -> Window:
    """Return a window of 1 to 4 times the sides, somewhere around the given one."""
    height, width = window.size
    zoom = rng.uniform(1, LARGEST_ZOOM)
    left = window.left - int(rng.uniform(0, zoom - 1) * width)
    top = window.top - int(rng.uniform(0, zoom - 1) * height)
    return Window(left, top, left + int(zoom * width), top + int(zoom * height))


def iou_crop(window: Window, boxes: np.ndarray, rng: Generator) -> Window:
    """Draw a part of the window with an object's centre inside, whose IoU with one reaches a limit drawn too.

    boxes (T, 4) xyxy. Limits are 0, .1, .3, .5, .7, .9 or the whole window as it is; each gets 40 trials of sides .3 to
    1 times the window's, at most 2 : 1. A limit that no trial meets gives way to another one.
    """
    if not len(boxes):
        return window
    for limit in rng.permutation((*LEAST_OVERLAPS, np.inf)):
        if limit == np.inf:
            return window
        crops = _trials(window, rng)
        inside = _hold_centres(crops, boxes)
        met = (inside & (_overlaps(crops, boxes) >= limit)).any(1).nonzero()[0]
        if len(met):
            return Window(*crops[met[0]].tolist())
    return window


def centre_inside(window: Window, boxes: np.ndarray) -> np.ndarray:
    """Return which boxes (T, 4) have their centre in the window: (T,)."""
    return _hold_centres(np.array([window]), boxes)[0]


def _trials(window: Window, rng: Generator) -> np.ndarray:
    """Return random crops (K, 4) of a window, of those 40 that are not too elongated."""
    height, width = window.size
    heights = np.maximum(height * rng.uniform(SMALLEST_CROP, 1, TRIALS), 1).astype(int)
    widths = np.maximum(width * rng.uniform(SMALLEST_CROP, 1, TRIALS), 1).astype(int)
    left = window.left + ((width - widths) * rng.random(TRIALS)).astype(int)
    top = window.top + ((height - heights) * rng.random(TRIALS)).astype(int)
    crops = np.stack([left, top, left + widths, top + heights], 1)
    return crops[np.maximum(widths, heights) <= MOST_ELONGATED * np.minimum(widths, heights)]


def _hold_centres(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return which windows (K, 4) hold which boxes' (T, 4) centres: (K, T)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > windows[:, None, :2]) & (centres < windows[:, None, 2:])).all(2)


def _overlaps(windows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return IoU (K, T) of windows (K, 4) with boxes (T, 4)."""
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    high = np.minimum(windows[:, None, 2:], boxes[:, 2:])
    both = (high - low).clip(0).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (windows, boxes)]
    return both / (areas[0][:, None] + areas[1] - both)
