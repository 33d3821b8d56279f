"""Augmentation of images with boxes: what is drawn at random for an image, and where photos and boxes come to lie.

Every function that draws takes its random generator. Pixels are made of the recipes that come out here, elsewhere
(data/augment/pixels.py, data/augment/on_device.py). Boxes and matrices use continuous pixel coordinates: the first
pixel's centre lies at (0.5, 0.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from data.augment.pixels import Layout, Recipe, Views, are_upright, shift
from data.augment.zoom_crop import Window, centre_inside, iou_crop, zoom_out
from utils.letterbox import Letterbox

MIN_SIDE = 2.0
MIN_AREA_LEFT = 0.1
MAX_SIDE_RATIO = 100.0


@dataclass(frozen=True)
class Augmentation:
    """How strongly to augment; names and meanings are those of ultralytics' hyperparameters.

    `zoom_out` and `iou_crop` are SSD's (data/augment/zoom_crop.py), for images that are no mosaic.
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

    The image is an array, or stands for one and has its shape; of an augmented image it is the recipe.
    """

    image: Any
    boxes: np.ndarray
    labels: np.ndarray


class Transform(NamedTuple):
    """A 3 x 3 matrix from canvas to output pixels, and the change of scale in it."""

    matrix: np.ndarray
    scale: float


class Composition(NamedTuple):
    """Images at their corners (left, top) of a grey canvas (h, w), to be transformed into an output of size (h, w)."""

    parts: Sequence[Labelled]
    corners: Sequence[tuple[int, int]]
    canvas: tuple[int, int]
    size: tuple[int, int]
    transform: Transform


class Draft(NamedTuple):
    """All that was drawn for an image: one composition, or two to be blended with `share` of the first, and colours.

    gains (3,) are those of hue, saturation and value; None changes no colour.
    """

    compositions: tuple[Composition, ...]
    share: float = 1.0
    gains: np.ndarray | None = None


def draw_mosaic(
    parts: Sequence[Labelled], size: tuple[int, int], settings: Augmentation, rng: Generator
) -> Composition:
    """Return four images around a random point of a canvas twice the size (h, w), transformed.

    Its middle is the output.
    """
    height, width = size
    centre = int(rng.uniform(0.5, 1.5) * width), int(rng.uniform(0.5, 1.5) * height)
    canvas = 2 * height, 2 * width
    transform = draw_transform(canvas, size, settings, rng)
    return Composition(parts, mosaic_corners(parts, centre), canvas, size, transform)


def draw_single(part: Labelled, size: tuple[int, int], settings: Augmentation, rng: Generator) -> Composition:
    """Return one image, already scaled to fit size (h, w), letterboxed and transformed in one step."""
    if settings.zoom_out or settings.iou_crop:
        return draw_view(part, draw_window(part, settings, rng), size, settings, rng)
    box = Letterbox.fit(part.image.shape[:2], size)
    transform = draw_transform(size, size, settings, rng)
    return Composition([part], [(box.left, box.top)], size, size, transform)


def draw_window(part: Labelled, settings: Augmentation, rng: Generator) -> Window:
    """Return the part of an image that SSD's augmentation shows: zoomed out, cropped, both or neither."""
    height, width = part.image.shape[:2]
    window = Window(0, 0, width, height)
    if rng.random() < settings.zoom_out:
        window = zoom_out(window, rng)
    if rng.random() < settings.iou_crop:
        window = iou_crop(window, part.boxes, rng)
    return window


def draw_view(
    part: Labelled, window: Window, size: tuple[int, int], settings: Augmentation, rng: Generator
) -> Composition:
    """Return a window of an image, scaled to fit size (h, w) and transformed; keeps the boxes whose centre it shows."""
    keep = centre_inside(window, part.boxes)
    shown = Labelled(part.image, part.boxes[keep], part.labels[keep])
    fit = min(size[0] / window.size[0], size[1] / window.size[1])
    transform = draw_transform(window.size, size, settings, rng, fit)
    return Composition([shown], [(-window.left, -window.top)], window.size, size, transform)


def mosaic_corners(parts: Sequence[Labelled], centre: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the (left, top) of four images that touch the centre (x, y).

    Above left, above right, below left, below right.
    """
    x, y = centre
    (h0, w0), (h1, _), (_, w2), _ = (part.image.shape[:2] for part in parts)
    return [(x - w0, y - h0), (x, y - h1), (x - w2, y), (x, y)]


def draw_transform(
    canvas: tuple[int, int], size: tuple[int, int], settings: Augmentation, rng: Generator, fit: float = 1.0
) -> Transform:
    """Return a random perspective, rotation, scaling and shear about the centre of the canvas (h, w), and a flip.

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


def draw_share(rng: Generator) -> float:
    """Return the share of the first of two images that mixup blends: Beta(32, 32)."""
    return rng.beta(32.0, 32.0)


def draw_gains(settings: Augmentation, rng: Generator) -> np.ndarray | None:
    """Return what hue, saturation and brightness are multiplied by (3,), each by 1 +- its strength.

    None if all are zero.
    """
    strengths = settings.hsv_h, settings.hsv_s, settings.hsv_v
    if not any(strengths):
        return None
    return (1 + rng.uniform(-1, 1, 3) * strengths).clip(1e-3)


def develop(drafts: Sequence[Draft]) -> list[Labelled]:
    """Return what the drafts come to: the recipe of each image, its boxes and labels.

    Many at a time, since NumPy's time goes by the number of operations. Without rotation, shear and perspective each
    photo fills whole pixels of the output: its edges move by less than a pixel, its boxes with them.
    """
    compositions = [composition for draft in drafts for composition in draft.compositions]
    laid = zip(*_lay_out(compositions), strict=True)
    images = []
    for draft in drafts:
        layouts, boxes, labels = zip(*(next(laid) for _ in draft.compositions), strict=True)
        recipe = Recipe(layouts, draft.share, draft.gains)
        images.append(Labelled(recipe, np.concatenate(boxes), np.concatenate(labels)))
    return images


def _lay_out(compositions: Sequence[Composition]) -> tuple[list[Layout], list[np.ndarray], list[np.ndarray]]:
    """Return the layout of each composition, its boxes and its labels. Below N are the photos of all."""
    counts = [len(composition.parts) for composition in compositions]
    parts = [part for composition in compositions for part in composition.parts]
    of = np.arange(len(compositions)).repeat(counts)
    offsets = np.array([corner * 2 for composition in compositions for corner in composition.corners], float)
    extents = np.array([(0, 0, part.image.shape[1], part.image.shape[0]) for part in parts], float)
    canvases, sizes = (
        np.array([(*shape[::-1], *shape[::-1]) for shape in shapes], float)[of]
        for shapes in zip(*((composition.canvas, composition.size) for composition in compositions), strict=True)
    )
    matrices, scales = (np.array(each)[of] for each in zip(*(drawn.transform for drawn in compositions), strict=True))
    on_canvas = (extents + offsets).clip(0, canvases)
    views = _views(on_canvas, offsets, matrices, sizes)
    # Nothing is painted of an image that has no whole pixel to show.
    views.windows[(views.shown[:, 2:] <= views.shown[:, :2]).any(1)] = 0

    boxes, labels, owner = _kept_boxes(parts, on_canvas - offsets, scales, views, sizes)
    borders = np.cumsum(np.bincount(of[owner], minlength=len(compositions)))[:-1]
    ends = np.cumsum(counts).tolist()
    each = (Views(*(part[end - count : end] for part in views)) for count, end in zip(counts, ends, strict=True))
    layouts = [
        Layout(tuple(part.image for part in drawn.parts), own, drawn.size)
        for drawn, own in zip(compositions, each, strict=True)
    ]
    return layouts, np.split(boxes, borders), np.split(labels, borders)


def _kept_boxes(
    parts: Sequence[Labelled], on_photo: np.ndarray, scales: np.ndarray, views: Views, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes (T, 4) of the output, labels (T,) and photos (T,) of what the views of N photos still show.

    on_photo (N, 4) is what of each lies on its canvas, scales (N,) and sizes (N, 4) are those of its output.
    """
    owner = np.arange(len(parts)).repeat([len(part.boxes) for part in parts])
    boxes = np.concatenate([part.boxes for part in parts]).astype(float)
    labels = np.concatenate([part.labels for part in parts])
    scale = scales[owner, None]
    whole, on_canvas = boxes * scale, _between(boxes, on_photo[owner]) * scale
    moved = transform_boxes(_between(boxes, views.shown[owner]), views.matrices[owner]).clip(0, sizes[owner])
    # Both: turned, even a sliver at the canvas's edge gets a wide box around it.
    keep = worth_keeping(whole, on_canvas) & worth_keeping(whole, moved)
    return moved[keep].astype(np.float32), labels[keep], owner[keep]


def _views(on_canvas: np.ndarray, offsets: np.ndarray, matrices: np.ndarray, sizes: np.ndarray) -> Views:
    """Return views of N images that lie at offsets (N, 4) of a canvas and fill on_canvas (N, 4) of it.

    matrices (N, 3, 3) lead from canvas to output, whose width and height are sizes (N, 4), twice.
    """
    upright = are_upright(matrices)
    if upright.all():
        return _straight(on_canvas, offsets, matrices, sizes)
    views = Views(np.empty((len(sizes), 4), int), np.empty((len(sizes), 4), int), np.empty((len(sizes), 3, 3)))
    for chosen, place in ((upright, _straight), (~upright, _slanted)):
        given = (each[chosen] for each in (on_canvas, offsets, matrices, sizes))
        for each, found in zip(views, place(*given), strict=True):
            each[chosen] = found
    return views


def _slanted(on_canvas: np.ndarray, offsets: np.ndarray, matrices: np.ndarray, sizes: np.ndarray) -> Views:
    """Return _views by any matrices."""
    own = matrices.copy()
    own[:, :, 2] += np.einsum("nij,nj->ni", matrices[:, :, :2], offsets[:, :2])
    windows = _pixels(transform_boxes(on_canvas, matrices), sizes)
    return Views((on_canvas - offsets).astype(int), windows, own)


def _straight(on_canvas: np.ndarray, offsets: np.ndarray, matrices: np.ndarray, sizes: np.ndarray) -> Views:
    """Return _views by upright matrices, changed a little for each image.

    Whole pixels of it fill whole output pixels.
    """
    scale, base, last = _upright_parts(matrices)
    scale, base = np.tile(scale / last, 2), np.tile(base / last, 2)
    # From the canvas's whole pixels, so that neighbours round their common edge alike.
    edges = on_canvas * scale + base
    visible = edges.clip(0, sizes)
    whole = np.rint(visible)
    cut = _between(np.rint((whole - base) / scale), on_canvas)
    shown = np.where(edges == visible, on_canvas, cut) - offsets
    start, end = whole[:, :2], whole[:, 2:]
    own = np.zeros(matrices.shape)
    own_scale, own_base, ones = _upright_parts(own)
    own_scale[:] = (end - start) / np.maximum(shown[:, 2:] - shown[:, :2], 1)
    own_base[:], ones[:] = start - own_scale * shown[:, :2], 1
    windows = np.hstack([np.minimum(start, end), np.maximum(start, end)])
    return Views(shown.astype(int), windows.astype(int), own)


def _upright_parts(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return views of what upright matrices (..., 3, 3) hold.

    Scale and base (N, 2) of x and y, and the last number (N, 1).
    """
    flat = matrices.reshape(-1, 9)
    return flat[:, 0:5:4], flat[:, 2:6:3], flat[:, 8:]


def transform_boxes(boxes: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Move boxes (T, 4), float64 xyxy around their four moved corners; NaN where one is beyond the horizon.

    matrices are (T, 3, 3), or (3, 3) for all.
    """
    if are_upright(matrices).all():
        scale, base, last = _upright_parts(matrices)
        one, other = (boxes[:, side] * (scale / last) + base / last for side in (slice(0, 2), slice(2, 4)))
        return np.hstack([np.minimum(one, other), np.maximum(one, other)])
    corners = np.ones((len(boxes), 4, 3))
    corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    x, y, w = np.moveaxis(corners @ matrices.swapaxes(-1, -2), -1, 0)
    w = np.where(w > 1e-6, w, np.nan)
    x, y = x / w, y / w
    return np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)


def worth_keeping(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return which boxes (T,) still show after a transformation: before (scaled alike) and after, both (T, 4) xyxy."""
    area_before = np.prod(before[:, 2:] - before[:, :2], axis=1)
    width, height = (after[:, 2:] - after[:, :2]).T
    long, short = np.maximum(width, height), np.minimum(width, height)
    return (short > MIN_SIDE) & (width * height > MIN_AREA_LEFT * area_before) & (long < MAX_SIDE_RATIO * short)


def _pixels(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the columns and rows (N, 4), ends excluded, whose centres boxes (N, 4) hold; all of them for NaN."""
    whole = sizes * (0, 0, 1, 1)
    rounded = np.ceil(boxes - 0.5).clip(0, sizes)
    return np.where(np.isnan(boxes).any(1, keepdims=True), whole, rounded).astype(int)


def _between(boxes: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return boxes (T, 4), each cut to its own limits (T, 4)."""
    low, high = limits.reshape(-1, 2, 2).swapaxes(0, 1)[:, :, None]
    return boxes.reshape(-1, 2, 2).clip(low, high).reshape(-1, 4)


def _flip(flip_x: bool, flip_y: bool, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array(
        [
            [-1.0 if flip_x else 1.0, 0.0, width if flip_x else 0.0],
            [0.0, -1.0 if flip_y else 1.0, height if flip_y else 0.0],
            [0.0, 0.0, 1.0],
        ]
    )
