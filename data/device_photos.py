"""Photos that stay on the training device, and whole batches painted there from recipes drawn on the host.

The CPU path (data/painting.py) is the oracle: the same draws, boxes and matrices, and pixels equal to within the
rounding of its interpolation (OpenCV takes coordinates in 1/32 pixel, here they are float32).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.painting import Layout, Painter, as_factors, beyond_bytes
from utils.letterbox import PADDING
from utils.targets import sent


class Stored(NamedTuple):
    """A photo among those on the device: its first pixel there and its shape (h, w, 3)."""

    start: int
    shape: tuple[int, int, int]


class Recipe(NamedTuple):
    """How an image is made: one layout, or two blended with `share` of the first, then hue, saturation, value gains."""

    layouts: tuple[Layout, ...]
    share: float = 1.0
    gains: np.ndarray | None = None


# Writes down what OpenCV would do at once.
NOTES = Painter(
    paint=lambda layout: Recipe((layout,)),
    blend=lambda first, second, share: Recipe(first.layouts + second.layouts, share),
    recolour=lambda recipe, gains: recipe._replace(gains=gains),
)


class Recipes(NamedTuple):
    """The recipes of a batch as tensors: B images of `size` (h, w), L layouts each, K photos a layout, filled up.

    photos (B, L, K, 13) int64: start, h, w, left, top, shown (4), window (4), as Layout has them; inverse (B, L, 3, 3)
    float32; share (B,); gains (B, 3), None where no colour changes. A photo that fills up has an empty window.
    """

    photos: Tensor
    inverse: Tensor
    share: Tensor
    gains: Tensor | None
    size: tuple[int, int]

    @staticmethod
    def stack(recipes: list[Recipe]) -> "Recipes":
        """The recipes of one batch, whose images have one size."""
        layers = max(len(recipe.layouts) for recipe in recipes)
        slots = max(len(layout.photos) for recipe in recipes for layout in recipe.layouts)
        photos = np.zeros((len(recipes), layers, slots, 13), np.int64)
        inverse = np.tile(np.eye(3), (len(recipes), layers, 1, 1))
        for image, recipe in enumerate(recipes):
            for layer, layout in enumerate(recipe.layouts):
                places = [(*photo, *corner) for (photo, corner) in zip(_flat(layout), layout.corners, strict=True)]
                photos[image, layer, : len(places)] = np.hstack([places, layout.shown, layout.windows])
                inverse[image, layer] = layout.inverse / layout.inverse[2, 2]
        share = torch.tensor([recipe.share for recipe in recipes], dtype=torch.float32)
        gains = None
        if recipes[0].gains is not None:
            gains = torch.from_numpy(np.array([_applied(recipe.gains) for recipe in recipes], np.float32))
        inverse = torch.from_numpy(inverse.astype(np.float32))
        return Recipes(torch.from_numpy(photos), inverse, share, gains, recipes[0].layouts[0].size)

    def to(self, device: torch.device) -> "Recipes":
        """The same on another device, without waiting for it."""
        return Recipes(*(sent(part, device) if isinstance(part, Tensor) else part for part in self))


def _flat(layout: Layout) -> list[tuple[int, int, int]]:
    """Start, height and width of the photos of a layout."""
    return [(photo.start, *photo.shape[:2]) for photo in layout.photos]


def _applied(gains: np.ndarray) -> np.ndarray:
    """Gains (3,) as OpenCV's painter rounds them."""
    if beyond_bytes(gains):
        return gains
    factors, unit = as_factors(gains)
    return factors * unit


@dataclass(frozen=True)
class DevicePhotos:
    """All photos of a training split, one after the other, as rows of RGB (pixels, 3) uint8 on a device."""

    pixels: Tensor

    @torch.no_grad()
    def painted(self, batches: Iterable) -> Iterator:
        """Batches whose images are Recipes, with the images (B, 3, h, w) uint8 on the device, channels last."""
        for batch in batches:
            yield batch._replace(images=paint_batch(self.pixels, batch.images.to(self.pixels.device)))


def paint_batch(pixels: Tensor, recipes: Recipes) -> Tensor:
    """The images (B, 3, h, w) uint8 of a batch, channels last, all at once from stored pixels (N, 3) uint8."""
    images = _paint_layer(pixels, recipes, 0)
    if recipes.photos.shape[1] > 1:
        share = recipes.share[:, None, None, None]
        images = (images * share + _paint_layer(pixels, recipes, 1) * (1 - share)).round()
    if recipes.gains is not None:
        images = _recolour(images, recipes.gains)
    return images.to(torch.uint8).permute(0, 3, 1, 2)


def _paint_layer(pixels: Tensor, recipes: Recipes, layer: int) -> Tensor:
    """One layout of every image: (B, h, w, 3) float32, whole levels."""
    photos, slots = recipes.photos[:, layer], recipes.photos.shape[2]
    x, y = _on_canvas(recipes.inverse[:, layer], recipes.size)
    owner = _owner(photos, x, y)
    # The row of every pixel's photo in the tables of all images' photos.
    row = owner.clamp(min=0) + slots * torch.arange(len(photos), device=pixels.device)[:, None, None]
    start, height, width, left, top = (column.flatten()[row] for column in photos[..., :5].unbind(-1))
    colours = _bilinear(pixels, start, height, width, x - left - 0.5, y - top - 0.5)
    return torch.where(owner[..., None] < 0, PADDING, colours)


def _on_canvas(inverse: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where the centres of the output's pixels lie on the canvases: x and y (B, h, w), by inverse (B, 3, 3)."""
    row = torch.arange(size[0], device=inverse.device)[:, None] + 0.5
    column = torch.arange(size[1], device=inverse.device) + 0.5
    x, y, w = (
        a[:, None, None] * column + b[:, None, None] * row + c[:, None, None]
        for a, b, c in (line.unbind(-1) for line in inverse.unbind(1))
    )
    # On the horizon as OpenCV has it.
    scale = torch.where(w == 0, 0, 1 / w)
    return x * scale, y * scale


def _owner(photos: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The last of the photos (B, K, 13) to show at canvas points x, y (B, h, w); -1 where none does."""
    row = torch.arange(x.shape[1], device=x.device)[:, None]
    column = torch.arange(x.shape[2], device=x.device)
    owner = torch.full(x.shape, -1, device=x.device)
    for slot in range(photos.shape[1]):
        edges = photos[:, slot, 5:, None, None].unbind(1)
        left, top, right, bottom, first_column, first_row, end_column, end_row = edges
        inside = (column >= first_column) & (column < end_column) & (row >= first_row) & (row < end_row)
        # A slanted photo covers its window in part. One more pixel all around leaves no cracks between neighbours.
        inside &= (x >= left - 1) & (x < right + 1) & (y >= top - 1) & (y < bottom + 1)
        owner = torch.where(inside, slot, owner)
    return owner


def _bilinear(pixels: Tensor, start: Tensor, height: Tensor, width: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Colours (B, h, w, 3) float32, whole levels, at points x, y (B, h, w) of their photos, edges repeated."""
    x, y = x.clamp(min=0).minimum(width - 1), y.clamp(min=0).minimum(height - 1)
    left, top = x.floor(), y.floor()
    first = start + top.long() * width + left.long()
    right, below = (left < width - 1).long(), (top < height - 1).long() * width
    x, y = (x - left)[..., None], (y - top)[..., None]
    upper = torch.lerp(pixels[first].float(), pixels[first + right].float(), x)
    first = first + below
    lower = torch.lerp(pixels[first].float(), pixels[first + right].float(), x)
    return torch.lerp(upper, lower, y).round()


def _recolour(images: Tensor, gains: Tensor) -> Tensor:
    """Images (B, h, w, 3), levels of RGB, with hue, saturation and value times gains (B, 3), rounded as OpenCV does.

    OpenCV rounds hue to two degrees and saturation and value to 1/255, before and after they are multiplied, and cuts
    off what is left of a level at the end.
    """
    red, green, blue = images.unbind(-1)
    value = images.amax(-1)
    spread = value - images.amin(-1)
    sixth = torch.where(
        value == red, green - blue, torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = _in_fixed_point(sixth, 30 / spread.clamp(min=1))
    saturation = _in_fixed_point(spread, 255 / value.clamp(min=1))
    hue = torch.where(hue < 0, hue + 180, hue)
    hue_gain, saturation_gain, value_gain = gains[:, :, None, None].unbind(1)
    hue = (hue * hue_gain).round() / 30
    saturation = (saturation * saturation_gain).round().clamp(max=255) / 255
    value = (value * value_gain).round().clamp(max=255)
    turned = (hue[..., None] + torch.arange(5, 0, -2, device=images.device)) % 6
    share = torch.minimum(turned, 4 - turned).clamp(0, 1)
    return (value[..., None] * (1 - saturation[..., None] * share)).floor()


def _in_fixed_point(values: Tensor, factor: Tensor) -> Tensor:
    """Whole values times a factor in twelve binary places, rounded to whole numbers: OpenCV's tables for bytes."""
    return (values.int() * (4096 * factor).round().int() + 2048) >> 12
