"""Anchors: where they lie, level by level."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Level:
    """One level's grid with K anchors on every cell, numbered from `start` in the order (anchor, row, column)."""

    stride: int
    rows: int
    columns: int
    sizes: Tensor  # (K, 2) pixels
    start: int

    @property
    def count(self) -> int:
        """Return the number of anchors on this level."""
        return len(self.sizes) * self.rows * self.columns

    def index(self, anchor: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Return the index into all anchors of anchor shape `anchor` at a cell."""
        return self.start + (anchor * self.rows + row) * self.columns + column


class Anchors(NamedTuple):
    """All anchors of one image size, finest level first: centers (A, 2), sizes (A, 2), strides (A,), in pixels."""

    centers: Tensor
    sizes: Tensor
    strides: Tensor
    levels: tuple[Level, ...]

    @property
    def boxes(self) -> Tensor:
        """Return the xyxy boxes (A, 4)."""
        return torch.cat([self.centers - self.sizes / 2, self.centers + self.sizes / 2], dim=-1)

    @property
    def counts(self) -> tuple[int, ...]:
        """Return how many anchors every level has."""
        return tuple(level.count for level in self.levels)

    @property
    def image_size(self) -> tuple[int, int]:
        """Return the (height, width) in pixels of the image that the anchors were laid over."""
        first = self.levels[0]
        return first.rows * first.stride, first.columns * first.stride


class DenseAnchors(NamedTuple):
    """Anchors that reach any box: boxes (A, 4) xyxy pixels, level by level, `counts` of them on each.

    `image_size` is the (height, width) in pixels of the image that they lie over; `level_strides` the pixels between
    the cells of every level, none where they lie on no grid.
    """

    boxes: Tensor
    counts: tuple[int, ...]
    image_size: tuple[int, int]
    level_strides: tuple[float, ...] = ()

    @property
    def centers(self) -> Tensor:
        """Return the centres (A, 2)."""
        low, high = self.boxes.split(2, dim=-1)
        return (low + high) / 2

    @property
    def sizes(self) -> Tensor:
        """Return widths and heights (A, 2)."""
        low, high = self.boxes.split(2, dim=-1)
        return high - low


def build_anchors(
    image_size: tuple[int, int],
    strides: Sequence[int],
    sizes: Sequence[Sequence[Sequence[float]]],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Anchors:
    """Lay the anchors of every level over an image.

    Args:
        image_size: (height, width) in pixels, both divisible by every stride.
        strides: Side of a cell in pixels, for each level.
        sizes: (width, height) in pixels of the anchors in a cell, for each level.
        device: Where the tensors are made.
        dtype: Their type.

    Returns:
        All anchors, level by level, each in the order (anchor, row, column).

    Raises:
        ValueError: A side of the image is not divisible by a stride.
    """
    for stride in strides:
        if any(side % stride for side in image_size):
            height, width = image_size
            raise ValueError(f"image_size {height} x {width} must be divisible by every stride, and is not by {stride}")
    levels, parts, start = [], [], 0
    for stride, level_sizes in zip(strides, sizes, strict=True):
        rows, columns = (side // stride for side in image_size)
        level = Level(stride, rows, columns, torch.tensor(level_sizes, device=device, dtype=dtype), start)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cells = (torch.stack([x, y], dim=-1).to(device, dtype) + 0.5) * stride
        shape = (len(level.sizes), rows, columns, 2)
        parts.append(
            (
                cells.expand(shape).reshape(-1, 2),
                level.sizes[:, None, None].expand(shape).reshape(-1, 2),
                torch.full((level.count,), stride, device=device, dtype=dtype),
            )
        )
        levels.append(level)
        start += level.count
    centers, all_sizes, all_strides = (torch.cat(part) for part in zip(*parts, strict=True))
    return Anchors(centers, all_sizes, all_strides, tuple(levels))


def take(anchors: Anchors, index: Tensor) -> Anchors:
    """Pick the anchors at the given indices (P,), without the grid they came from."""
    return Anchors(anchors.centers[index], anchors.sizes[index], anchors.strides[index], ())


def best_possible_recall(boxes: Tensor, sizes: Tensor, anchor_t: float = 4.0) -> tuple[float, float]:
    """Return the share of truth sides (T, 2) with an anchor (K, 2) below side ratio `anchor_t`, and how many."""
    ratio = boxes[:, None] / sizes[None]
    worst = torch.maximum(ratio, 1 / ratio).amax(-1)
    within = worst < anchor_t
    return within.any(1).float().mean().item(), within.sum(1).float().mean().item()
