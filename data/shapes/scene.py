"""Draws pictures of shapes on textured, cluttered backgrounds; the same generator state gives the same picture."""

import colorsys
import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator

SHAPE_CLASSES = ("disc", "ring", "square", "triangle", "cross", "bar")
SLENDER = ("bar",)
SLENDER_SHARE = 0.35
COVERING_SHARE = 0.3  # of the shapes lie where they fall; the others look for a free place
SMALLEST_SIDE = 8
LEAST_VISIBLE = 0.3
DRAWN = 64  # of 255: the coverage from which a pixel counts as the object's
LETTERS = "AEFGHJKMNPRSW"  # none that looks like a class


class Shape(NamedTuple):
    """An object where it was put: class id, coverage (h, w) uint8, and the pixel of its upper left corner."""

    label: int
    coverage: np.ndarray
    left: int
    top: int

    def mask(self, size: int) -> np.ndarray:
        """Return the object's pixels in the picture, hidden ones included, bool (size, size)."""
        mask = np.zeros((size, size), bool)
        picture, patch = self.windows(size)
        mask[picture] = self.coverage[patch] >= DRAWN
        return mask

    def windows(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return slices of the picture that the object's patch covers, and of the patch inside the picture."""
        height, width = self.coverage.shape
        top, left = max(self.top, 0), max(self.left, 0)
        bottom, right = min(self.top + height, size), min(self.left + width, size)
        patch = slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left)
        return (slice(top, bottom), slice(left, right)), patch

    def box(self, size: int) -> tuple[int, int, int, int]:
        """Return the extent of `mask` as xyxy pixels."""
        (rows, columns), patch = self.windows(size)
        drawn = self.coverage[patch] >= DRAWN
        ys, xs = np.flatnonzero(drawn.any(1)) + rows.start, np.flatnonzero(drawn.any(0)) + columns.start
        return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


@dataclass(frozen=True)
class Scene:
    """A picture (S, S, 3) uint8 RGB, its labelled shapes, and per pixel the index of the shape seen there, or -1."""

    image: np.ndarray
    shapes: list[Shape]
    seen: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """Whole extents of the shapes within the picture, (N, 4) float64 xyxy pixels."""
        return np.array([shape.box(len(self.image)) for shape in self.shapes], float).reshape(-1, 4)

    @property
    def labels(self) -> np.ndarray:
        """Class ids (N,)."""
        return np.array([shape.label for shape in self.shapes], int)


def draw_scene(generator: Generator, size: int) -> Scene:
    """Return a square picture of about 3 to 8 shapes, the large ones mostly behind the small ones."""
    image = _background(generator, size)
    _draw_clutter(image, generator)
    patches = [_random_patch(generator, size) for _ in range(generator.integers(3, 8))]
    patches.sort(key=lambda patch: -patch[1].size * generator.uniform(0.3, 1))
    shapes: list[Shape] = []
    seen = np.full((size, size), -1)
    for label, coverage in patches:
        shape = _place(label, coverage, seen, shapes, generator)
        if shape is not None:
            _paint(image, shape, generator)
            picture, patch = shape.windows(size)
            seen[picture][coverage[patch] >= DRAWN] = len(shapes)
            shapes.append(shape)
    seen[_draw_strokes(image, generator)] = -1
    image += generator.standard_normal((size, size, 1), np.float32) * generator.uniform(1, 5)
    return _without_hidden(np.clip(image, 0, 255).astype(np.uint8), shapes, seen)


def _without_hidden(image: np.ndarray, shapes: list[Shape], seen: np.ndarray) -> Scene:
    """Return the scene without the labels of shapes of which strokes have left too little to see."""
    kept: list[Shape] = []
    renumbered = np.full_like(seen, -1)
    for index, shape in enumerate(shapes):
        if (seen == index).sum() >= LEAST_VISIBLE * (shape.coverage >= DRAWN).sum():
            renumbered[seen == index] = len(kept)
            kept.append(shape)
    return Scene(image, kept, renumbered)


def _side(generator: Generator, smallest: float, largest: float) -> float:
    """Return a side in pixels on a logarithmic scale; one in ten is tiny, since those take longest to learn."""
    if generator.random() < 0.1:
        side = smallest * 2 ** generator.random()
    else:
        side = 2 * smallest * (largest / (2 * smallest)) ** generator.random()
    return min(side, largest)  # in a small picture the range can be empty


def _random_patch(generator: Generator, size: int) -> tuple[int, np.ndarray]:
    """Return a class id and the coverage (h, w) of one such shape, its size drawn on a logarithmic scale."""
    slender = generator.random() < SLENDER_SHARE
    name = generator.choice(SLENDER if slender else [name for name in SHAPE_CLASSES if name not in SLENDER])
    if slender:
        ratio = generator.triangular(4, 4, 10)
        contours = _turned(_outline(name, ratio, generator), 90 * generator.integers(4))
        short = _side(generator, SMALLEST_SIDE, 0.95 * size / ratio)
        height, width = (
            (short, short * ratio) if np.ptp(contours[0][:, 0]) > np.ptp(contours[0][:, 1]) else (short * ratio, short)
        )
    else:
        angle = generator.uniform(-15, 15)
        contours = _turned(_outline(name, 1, generator), angle)
        side = _side(generator, 1.4 * SMALLEST_SIDE, 0.75 * size)
        stretch = np.sqrt(generator.uniform(0.8, 1.25))
        height, width = side * stretch, side / stretch
    return SHAPE_CLASSES.index(name), _coverage(contours, round(height), round(width))


def _outline(name: str, ratio: float, generator: Generator) -> list[np.ndarray]:
    """Return closed contours (N, 2) of a shape that is one unit high and `ratio` units long.

    A second contour is a hole.
    """
    if name == "disc":
        return [_circle(0.5)]
    if name == "ring":
        return [_circle(0.5), _circle(generator.uniform(0.22, 0.32))]
    if name == "square":
        return [np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2]
    if name == "triangle":
        return _turned([_circle(0.5, 3)], -90)
    if name == "cross":
        arm = generator.uniform(0.13, 0.19)
        corner = np.array([(arm, arm), (arm, 0.5), (-arm, 0.5)])
        return [np.concatenate([_turned([corner], 90 * turn)[0] for turn in range(4)])]
    end = ratio / 2
    return [np.array([(-end, -0.5), (end, -0.5), (end, 0.5), (-end, 0.5)])]


def _circle(radius: float, points: int = 64) -> np.ndarray:
    angles = np.arange(points) * 2 * np.pi / points
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _turned(contours: list[np.ndarray], degrees: float) -> list[np.ndarray]:
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return [contour @ np.array([(cosine, sine), (-sine, cosine)]) for contour in contours]


def _coverage(contours: list[np.ndarray], height: int, width: int, oversampling: int = 4) -> np.ndarray:
    """Return how much of each pixel contours cover when they are stretched to (height, width), 0 to 255."""
    low = contours[0].min(0)
    scale = (np.array([width, height]) * oversampling - 1) / (contours[0].max(0) - low)
    fine = np.zeros((height * oversampling, width * oversampling), np.uint8)
    cv2.fillPoly(fine, [np.round((contour - low) * scale * 16).astype(np.int32) for contour in contours], 255, shift=4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)


def _place(
    label: int, coverage: np.ndarray, seen: np.ndarray, shapes: list[Shape], generator: Generator
) -> Shape | None:
    """Return the shape at a random place, mostly a free one, rarely across the border.

    None if it would hide too much.
    """
    size = len(seen)
    height, width = coverage.shape
    overhang = 0.2 if generator.random() < 0.15 else 0.0
    covers = generator.random() < COVERING_SHARE
    fallback = None
    needed = 1.5 * LEAST_VISIBLE * np.array([(shape.coverage >= DRAWN).sum() for shape in shapes])
    visible = np.bincount(seen[seen >= 0], minlength=len(shapes))
    for _ in range(12):
        left = round(generator.uniform(-overhang * width, size - (1 - overhang) * width))
        top = round(generator.uniform(-overhang * height, size - (1 - overhang) * height))
        shape = Shape(label, coverage, left, top)
        picture, patch = shape.windows(size)
        hidden = seen[picture][coverage[patch] >= DRAWN]
        remaining = visible - np.bincount(hidden[hidden >= 0], minlength=len(shapes))
        x1, y1, x2, y2 = shape.box(size)
        roomy = min(x2 - x1, y2 - y1) >= SMALLEST_SIDE
        if roomy and (remaining >= needed).all():
            if covers or (remaining == visible).all():
                return shape
            fallback = shape
    return fallback


def _color(hue: float, lightness: float, saturation: float) -> np.ndarray:
    """Return RGB, 0 to 255, float32 (3,)."""
    return np.array(colorsys.hls_to_rgb(hue % 1, lightness, saturation), np.float32) * 255


def _contrasting(background: np.ndarray, generator: Generator) -> np.ndarray:
    """Return a vivid random colour that stands out from the background."""
    while True:
        color = _color(generator.random(), generator.uniform(0.3, 0.75), generator.uniform(0.5, 0.95))
        difference = color - background
        if np.abs(difference).max() > 70 and abs(difference @ (0.3, 0.59, 0.11)) > 25:
            return color


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return row numbers (height, 1) and column numbers (1, width), float32."""
    return np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]


def _waves(height: int, width: int, period: float, generator: Generator) -> np.ndarray:
    """Return parallel waves in a random direction, (height, width), 0 to 1."""
    ys, xs = _grid(height, width)
    angle = generator.uniform(0, math.pi)
    return 0.5 + 0.5 * np.sin((xs * math.cos(angle) + ys * math.sin(angle)) * (2 * math.pi / period))


def _clouds(size: int, generator: Generator) -> np.ndarray:
    """Smooth noise of several scales, (size, size), 0 to 1."""
    clouds = np.zeros((size, size), np.float32)
    for cells, weight in ((3, 1.0), (7, 0.5), (17, 0.25)):
        grid = generator.random((cells, cells), np.float32)
        clouds += weight * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(clouds, clouds, 0, 1, cv2.NORM_MINMAX)


def _background(generator: Generator, size: int) -> np.ndarray:
    """Return a textured picture (size, size, 3) float32 RGB of two related colours."""
    hue, lightness = generator.random(), generator.choice([0.14, 0.22, 0.5, 0.8, 0.9])
    saturation = generator.uniform(0.1, 0.5)
    first = _color(hue, lightness, saturation)
    second = _color(hue + generator.uniform(-0.12, 0.12), lightness + generator.uniform(-0.1, 0.1), saturation)
    pattern = _clouds(size, generator)
    style = generator.integers(4)
    if style == 1:
        pattern = 0.5 * pattern + 0.5 * _waves(size, size, generator.uniform(10, 60), generator)
    elif style == 2:
        pattern = np.sin(pattern * generator.uniform(20, 50)) * 0.5 + 0.5
    elif style == 3:
        period = generator.uniform(8, 40)
        pattern = 0.4 * pattern + 0.6 * _waves(size, size, period, generator) * _waves(size, size, period, generator)
    return first + (second - first) * pattern[..., None]


def _draw_clutter(image: np.ndarray, generator: Generator) -> None:
    """Draw blobs, letters and speckles, which are no class, onto the background."""
    size = len(image)
    for _ in range(generator.integers(2, 7)):
        center, radius = generator.uniform(0, size, 2), generator.uniform(0.02, 0.14) * size
        blob = center + radius * _lobes(generator)
        shade = image[int(center[1]), int(center[0])] * generator.uniform(0.75, 1.3) + generator.uniform(-25, 25, 3)
        cv2.fillPoly(image, [blob.round().astype(np.int32)], np.clip(shade, 0, 255).tolist(), cv2.LINE_AA)
    for _ in range(generator.integers(0, 4)):
        place = generator.integers(0, size, 2).tolist()
        color = _color(*generator.uniform(0.1, 0.9, 3)).tolist()
        cv2.putText(
            image, str(generator.choice(list(LETTERS))), place, 0, generator.uniform(0.4, 1.6), color, 1, cv2.LINE_AA
        )
    speckles = generator.integers(0, size, (generator.integers(0, 60), 2))
    image[speckles[:, 0], speckles[:, 1]] = generator.uniform(0, 255, (len(speckles), 3))


def _lobes(generator: Generator) -> np.ndarray:
    """Return an irregular, lobed contour (48, 2) about the origin."""
    circle = _circle(1, 48)
    angles = np.arctan2(circle[:, 1], circle[:, 0])
    radii = np.ones(48)
    for lobes in (2, 3, 5):
        radii += generator.uniform(0.1, 0.3) * np.sin(lobes * angles + generator.uniform(0, 6.3))
    return circle * radii[:, None]


def _draw_strokes(image: np.ndarray, generator: Generator) -> np.ndarray:
    """Draw a few thin lines and curls over everything; returns their pixels, bool (size, size)."""
    size = len(image)
    mask = np.zeros((size, size), np.uint8)
    for _ in range(generator.integers(0, 5)):
        steps = generator.normal(0, 0.3, 24).cumsum() * generator.integers(0, 2) + generator.uniform(0, 6.3)
        path = np.cumsum(np.stack([np.cos(steps), np.sin(steps)], 1), 0) * generator.uniform(0.01, 0.05) * size
        points = [(path + generator.uniform(0, size, 2)).round().astype(np.int32)]
        thickness = int(generator.integers(1, 3))
        cv2.polylines(image, points, False, _color(*generator.uniform(0.1, 0.9, 3)).tolist(), thickness, cv2.LINE_AA)
        cv2.polylines(mask, points, False, 1, thickness)
    return mask.astype(bool)


def _paint(image: np.ndarray, shape: Shape, generator: Generator) -> None:
    """Paint the shape with its shadow, fill and outline onto the float picture."""
    size = len(image)
    height, width = shape.coverage.shape
    reach = 1 + min(height, width) // 12
    shadow = cv2.GaussianBlur(shape.coverage, (2 * reach + 1, 2 * reach + 1), 0)
    picture, patch = shape._replace(coverage=shadow, left=shape.left + reach, top=shape.top + reach).windows(size)
    image[picture] *= 1 - shadow[patch][..., None] * np.float32(0.4 / 255)

    picture, patch = shape.windows(size)
    color = _contrasting(image[picture].mean((0, 1)), generator)
    fill = np.broadcast_to(color, (height, width, 3))
    style = generator.integers(3)
    if style == 1:
        ys, xs = _grid(height, width)
        fill = fill * (0.75 + 0.5 * (ys / height * 0.6 + xs / width * 0.4))[..., None]
    elif style == 2 and min(height, width) > 20:
        fill = fill * (0.8 + 0.3 * (_waves(height, width, generator.uniform(8, 20), generator) > 0.5))[..., None]
    if generator.random() < 0.5 and min(height, width) > 14:
        edge = int(generator.integers(2, 4))
        padded = cv2.copyMakeBorder(shape.coverage, 1, 1, 1, 1, cv2.BORDER_CONSTANT)
        inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=edge)[1:-1, 1:-1, None] / np.float32(255)
        fill = fill * (inner + (1 - inner) * float(generator.choice([0.35, 1.6])))
    share = shape.coverage[patch][..., None] / np.float32(255)
    image[picture] += (np.minimum(fill[patch], 255) - image[picture]) * share
