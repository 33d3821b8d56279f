"""Photos that stay on the training device, and whole batches painted there from recipes drawn on the host.

The CPU path (data/augment/pixels.py) is the oracle: the same draws, boxes and matrices, and pixels equal to within the
rounding of its interpolation (OpenCV takes coordinates in 1/32 pixel, here they are float32).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignyolo.targets import sent
from data.augment.colours import as_factors, beyond_bytes
from data.augment.pixels import Recipe
from utils.letterbox import PADDING


class Stored(NamedTuple):
    """A photo among those on the device: its first pixel there and its shape (h, w, 3)."""

    start: int
    shape: tuple[int, int, int]


# A row of Recipes.photos that shows nowhere.
NO_PHOTO = np.array([0, 1, 0, 0, 1, 1, 0, 0, 0, 0], np.int64)


class Recipes(NamedTuple):
    """The recipes of a batch as tensors: B images of `size` (h, w), L layouts each, K photos a layout, filled up.

    photos (B, L, K, 10) int64: start, width, shown (4), window (4), as Views have them; inverses (B, L, K, 3, 3)
    float32 from output to photo; share (B,); gains (B, 3), None where no colour changes. A photo that fills up has an
    empty window.
    """

    photos: Tensor
    inverses: Tensor
    share: Tensor
    gains: Tensor | None
    size: tuple[int, int]

    @staticmethod
    def stack(recipes: list[Recipe]) -> "Recipes":
        """Return the recipes of one batch, whose images have one size."""
        layers = max(len(recipe.layouts) for recipe in recipes)
        slots = max(len(layout.photos) for recipe in recipes for layout in recipe.layouts)
        photos = np.tile(NO_PHOTO, (len(recipes), layers, slots, 1))
        inverses = np.tile(np.eye(3), (len(recipes), layers, slots, 1, 1))
        for image, recipe in enumerate(recipes):
            for layer, layout in enumerate(recipe.layouts):
                shown, windows, matrices = layout.views
                seen = (windows[:, 2:] > windows[:, :2]).all(1)
                stored = np.array([(photo.start, photo.shape[1]) for photo in layout.photos])
                photos[image, layer, : seen.sum()] = np.hstack([stored, shown, windows])[seen]
                inverted = np.linalg.inv(matrices[seen])
                inverses[image, layer, : seen.sum()] = inverted / inverted[:, 2:, 2:]
        share = torch.tensor([recipe.share for recipe in recipes], dtype=torch.float32)
        drawn = [recipe.gains for recipe in recipes if recipe.gains is not None]
        gains = torch.from_numpy(np.array([_applied(each) for each in drawn], np.float32)) if drawn else None
        placed = torch.from_numpy(inverses.astype(np.float32))
        return Recipes(torch.from_numpy(photos), placed, share, gains, recipes[0].layouts[0].size)

    def to(self, device: torch.device) -> "Recipes":
        """Copy all parts to another device, without waiting for it."""
        gains = None if self.gains is None else sent(self.gains, device)
        photos, inverses, share = (sent(part, device) for part in (self.photos, self.inverses, self.share))
        return Recipes(photos, inverses, share, gains, self.size)


def _applied(gains: np.ndarray) -> np.ndarray:
    """Return gains (3,) as OpenCV's painter rounds them."""
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
        """Yield batches whose images are Recipes, with the images (B, 3, h, w) uint8 on the device, channels last."""
        for batch in batches:
            yield batch._replace(images=paint_batch(self.pixels, batch.images.to(self.pixels.device)))


def paint_batch(pixels: Tensor, recipes: Recipes) -> Tensor:
    """Return the images (B, 3, h, w) uint8 of a batch, channels last, all at once from stored pixels (N, 3) uint8."""
    images = _paint_layer(pixels, recipes, 0)
    if recipes.photos.shape[1] > 1:
        share = recipes.share[:, None, None, None]
        images = (images * share + _paint_layer(pixels, recipes, 1) * (1 - share)).round()
    if recipes.gains is not None:
        images = _recolour(images, recipes.gains)
    return images.to(torch.uint8).permute(0, 3, 1, 2)


def _paint_layer(pixels: Tensor, recipes: Recipes, layer: int) -> Tensor:
    """Return one layout of every image: (B, h, w, 3) float32, whole levels."""
    count, slots = recipes.photos.shape[0], recipes.photos.shape[2]
    owner = torch.full((count, *recipes.size), -1, device=pixels.device)
    seen_x = torch.zeros(owner.shape, device=pixels.device)
    seen_y = seen_x.clone()
    for slot in range(slots):
        x, y = _on_photo(recipes.inverses[:, layer, slot], recipes.size)
        # The last photo to show at a pixel is the one that is seen.
        shows = _shows(recipes.photos[:, layer, slot], x, y)
        owner, seen_x, seen_y = (torch.where(shows, new, old) for new, old in ((slot, owner), (x, seen_x), (y, seen_y)))
    # The row of every pixel's photo in the tables of all images' photos.
    row = owner.clamp(min=0) + slots * torch.arange(count, device=pixels.device)[:, None, None]
    start, width, *shown = (column.flatten()[row] for column in recipes.photos[:, layer, :, :6].unbind(-1))
    colours = _bilinear(pixels, start, width, shown, seen_x - 0.5, seen_y - 0.5)
    return torch.where(owner[..., None] < 0, PADDING, colours)


def _on_photo(inverse: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where pixel centres lie on one photo of each image: x and y (B, h, w), by inverse (B, 3, 3)."""
    row = torch.arange(size[0], device=inverse.device)[:, None] + 0.5
    column = torch.arange(size[1], device=inverse.device) + 0.5
    x, y, w = (
        a[:, None, None] * column + b[:, None, None] * row + c[:, None, None]
        for a, b, c in (line.unbind(-1) for line in inverse.unbind(1))
    )
    # On the horizon as OpenCV has it.
    scale = torch.where(w == 0, 0, 1 / w)
    return x * scale, y * scale


def _shows(photos: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return where one photo of each image (B, 10) shows: (B, h, w), with pixels at its points x, y (B, h, w)."""
    row = torch.arange(x.shape[1], device=x.device)[:, None]
    column = torch.arange(x.shape[2], device=x.device)
    edges = photos[:, 2:, None, None].unbind(1)
    left, top, right, bottom, first_column, first_row, end_column, end_row = edges
    inside = (column >= first_column) & (column < end_column) & (row >= first_row) & (row < end_row)
    # A slanted photo covers its window in part. One more pixel all around leaves no cracks between neighbours.
    return inside & (x >= left - 1) & (x < right + 1) & (y >= top - 1) & (y < bottom + 1)


def _bilinear(pixels: Tensor, start: Tensor, width: Tensor, shown: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Read colours (B, h, w, 3) float32, whole levels, at points x, y (B, h, w) of photos, edges repeated."""
    first_x, first_y, end_x, end_y = shown
    x, y = x.maximum(first_x).minimum(end_x - 1), y.maximum(first_y).minimum(end_y - 1)
    left, top = x.floor(), y.floor()
    first = start + top.long() * width + left.long()
    right, below = (left < end_x - 1).long(), (top < end_y - 1).long() * width
    x, y = (x - left)[..., None], (y - top)[..., None]
    upper = torch.lerp(pixels[first].float(), pixels[first + right].float(), x)
    first = first + below
    lower = torch.lerp(pixels[first].float(), pixels[first + right].float(), x)
    return torch.lerp(upper, lower, y).round()


def _recolour(images: Tensor, gains: Tensor) -> Tensor:
    """Multiply hue, saturation and value of images (B, h, w, 3) by gains (B, 3), rounded as OpenCV does.

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
    """Return whole values times a factor in twelve binary places, rounded to whole numbers.

    OpenCV's tables for bytes.
    """
    return (values.int() * (4096 * factor).round().int() + 2048) >> 12
