"""Augmentation of images with boxes; every function that draws takes its random generator.

What becomes of the boxes is computed here, the pixels are a painter's (data/painting.py).
Boxes and matrices use continuous pixel coordinates: the first pixel's centre lies at (0.5, 0.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from data.painting import OPENCV, Layout, Painter, Views, is_straight, shift
from data.zoom_crop import Window, centre_inside, iou_crop, zoom_out
from utils.letterbox import Letterbox

MIN_SIDE = 2.0
MIN_AREA_LEFT = 0.1
MAX_SIDE_RATIO = 100.0


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
    """An image (h, w, 3) uint8 RGB with its boxes (T, 4) float32 xyxy pixels and labels (T,) int64.

    The image is an array unless another painter than OpenCV is at work: then it stands for one, or for its making.
    """

    image: Any
    boxes: np.ndarray
    labels: np.ndarray


class Transform(NamedTuple):
    """A 3 x 3 matrix from canvas to output pixels, and the change of scale in it."""

    matrix: np.ndarray
    scale: float


def mosaic(
    parts: Sequence[Labelled],
    size: tuple[int, int],
    settings: Augmentation,
    rng: Generator,
    painter: Painter = OPENCV,
) -> Labelled:
    """Four images around a random point of a canvas twice the size (h, w), transformed; its middle is the output."""
    height, width = size
    centre = int(rng.uniform(0.5, 1.5) * width), int(rng.uniform(0.5, 1.5) * height)
    canvas = 2 * height, 2 * width
    transform = draw_transform(canvas, size, settings, rng)
    return compose(parts, mosaic_corners(parts, centre), canvas, size, transform, painter)


def warp_single(
    part: Labelled, size: tuple[int, int], settings: Augmentation, rng: Generator, painter: Painter = OPENCV
) -> Labelled:
    """One image, already scaled to fit size (h, w), letterboxed and transformed in one step."""
    if settings.zoom_out or settings.iou_crop:
        return warp_window(part, draw_window(part, settings, rng), size, settings, rng, painter)
    box = Letterbox.fit(part.image.shape[:2], size)
    transform = draw_transform(size, size, settings, rng)
    return compose([part], [(box.left, box.top)], size, size, transform, painter)


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
    part: Labelled,
    window: Window,
    size: tuple[int, int],
    settings: Augmentation,
    rng: Generator,
    painter: Painter = OPENCV,
) -> Labelled:
    """A window of an image, scaled to fit size (h, w) and transformed; keeps the boxes whose centre it shows."""
    keep = centre_inside(window, part.boxes)
    shown = Labelled(part.image, part.boxes[keep], part.labels[keep])
    fit = min(size[0] / window.size[0], size[1] / window.size[1])
    transform = draw_transform(window.size, size, settings, rng, fit)
    return compose([shown], [(-window.left, -window.top)], window.size, size, transform, painter)


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
    to_centre = shift(-canvas_width / 2, -canvas_height / 2)
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
    matrix = _flip(flip_x, flip_y, size) @ shift(x * width, y * height) @ shear @ rotation @ perspective @ to_centre
    return Transform(matrix, scale)


def compose(
    parts: Sequence[Labelled],
    corners: Sequence[tuple[int, int]],
    canvas: tuple[int, int],
    size: tuple[int, int],
    transform: Transform,
    painter: Painter = OPENCV,
) -> Labelled:
    """The images at their corners (left, top) of a grey canvas (h, w), transformed into an output of size (h, w).

    Without rotation, shear and perspective each image fills whole pixels of the output: its edges move by less than a
    pixel, its boxes with them.
    """
    offsets = np.array(corners, float).repeat(2, axis=0).reshape(-1, 4)
    extents = np.array([(0, 0, part.image.shape[1], part.image.shape[0]) for part in parts], float)
    on_canvas = _clip(extents + offsets, canvas)
    place = _straight if is_straight(transform.matrix) else _slanted
    views = place(on_canvas, offsets, transform.matrix, size)
    # Nothing is painted of an image that has no whole pixel to show.
    views.windows[(views.shown[:, 2:] <= views.shown[:, :2]).any(1)] = 0
    layout = Layout(tuple(part.image for part in parts), views, size)

    owner = np.arange(len(parts)).repeat([len(part.boxes) for part in parts])
    boxes = np.concatenate([part.boxes for part in parts]).astype(float)
    labels = np.concatenate([part.labels for part in parts])
    before = boxes * transform.scale
    shown = _between(boxes, (on_canvas - offsets)[owner]) * transform.scale
    moved = _clip(transform_boxes(_between(boxes, views.shown[owner]), views.matrices[owner]), size)
    # Both: turned, even a sliver at the canvas's edge gets a wide box around it.
    keep = worth_keeping(before, shown) & worth_keeping(before, moved)
    return Labelled(painter.paint(layout), moved[keep].astype(np.float32), labels[keep])


def _slanted(on_canvas: np.ndarray, offsets: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> Views:
    """Views of images that lie at offsets (N, 4) of a canvas and fill on_canvas (N, 4) of it, by any matrix."""
    matrices = np.array([matrix @ shift(x, y) for x, y in offsets[:, :2]])
    windows = _pixels(transform_boxes(on_canvas, matrix), size)
    return Views((on_canvas - offsets).astype(int), windows, matrices)


def _straight(on_canvas: np.ndarray, offsets: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> Views:
    """The same for an upright matrix, changed a little for each image: whole pixels of it fill whole output pixels."""
    scale, base = (np.tile(values / matrix[2, 2], 2) for values in (matrix.diagonal()[:2], matrix[:2, 2]))
    # From the canvas's whole pixels, so that neighbours round their common edge alike.
    edges = on_canvas * scale + base
    visible = _clip(edges, size)
    whole = np.rint(visible)
    cut = _between(np.rint((whole - base) / scale), on_canvas)
    shown = np.where(edges == visible, on_canvas, cut) - offsets
    first, last = np.minimum(whole[:, :2], whole[:, 2:]), np.maximum(whole[:, :2], whole[:, 2:])
    matrices = np.zeros((len(shown), 3, 3))
    sides = shown[:, 2:] - shown[:, :2]
    matrices[:, [0, 1], [0, 1]] = own = (whole[:, 2:] - whole[:, :2]) / np.maximum(sides, 1)
    matrices[:, :2, 2] = whole[:, :2] - own * shown[:, :2]
    matrices[:, 2, 2] = 1
    return Views(shown.astype(int), np.hstack([first, last]).astype(int), matrices)


def transform_boxes(boxes: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Boxes (T, 4) float64 xyxy around the four moved corners of each; NaN where a corner lies beyond the horizon.

    matrices are (T, 3, 3), or (3, 3) for all.
    """
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    x, y, w = np.moveaxis(corners @ matrices.swapaxes(-1, -2), -1, 0)
    w = np.where(w > 1e-6, w, np.nan)
    x, y = x / w, y / w
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


def worth_keeping(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Which boxes (T,) still show after a transformation: before (scaled alike) and after, both (T, 4) xyxy."""
    area_before = np.prod(before[:, 2:] - before[:, :2], axis=1)
    width, height = (after[:, 2:] - after[:, :2]).T
    long, short = np.maximum(width, height), np.minimum(width, height)
    return (short > MIN_SIDE) & (width * height > MIN_AREA_LEFT * area_before) & (long < MAX_SIDE_RATIO * short)


def mixup(first: Labelled, second: Labelled, rng: Generator, painter: Painter = OPENCV) -> Labelled:
    """Two images of one size blended by a share drawn from Beta(32, 32), with the boxes of both."""
    share = rng.beta(32.0, 32.0)
    image = painter.blend(first.image, second.image, share)
    return Labelled(image, *(np.concatenate(pair) for pair in zip(first[1:], second[1:], strict=True)))


def hsv_jitter(image: Any, settings: Augmentation, rng: Generator, painter: Painter = OPENCV) -> Any:
    """The image (h, w, 3) uint8 RGB with hue, saturation and brightness each multiplied by 1 +- its gain, in place."""
    strengths = settings.hsv_h, settings.hsv_s, settings.hsv_v
    if not any(strengths):
        return image
    return painter.recolour(image, (1 + rng.uniform(-1, 1, 3) * strengths).clip(1e-3))


def _pixels(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The columns and rows (N, 4), ends excluded, whose centres boxes (N, 4) hold; all of them for NaN."""
    whole = np.array([0, 0, size[1], size[0]])
    rounded = _clip(np.ceil(boxes - 0.5), size)
    return np.where(np.isnan(boxes).any(1, keepdims=True), whole, rounded).astype(int)


def _clip(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return boxes.clip(0, np.array([width, height, width, height], boxes.dtype))


def _between(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Boxes (T, 4), each cut to its own limits (T, 4)."""
    return boxes.clip(limits[:, [0, 1, 0, 1]], limits[:, [2, 3, 2, 3]])


def _flip(flip_x: bool, flip_y: bool, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array(
        [
            [-1.0 if flip_x else 1.0, 0.0, width if flip_x else 0.0],
            [0.0, -1.0 if flip_y else 1.0, height if flip_y else 0.0],
            [0.0, 0.0, 1.0],
        ]
    )
