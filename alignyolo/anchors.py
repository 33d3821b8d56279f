"""Anchors: where they lie, and how raw outputs become boxes relative to them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Level(NamedTuple):
    """One level's grid with K anchors on every cell, numbered from `start` in the order (anchor, row, column)."""

    stride: int
    rows: int
    columns: int
    sizes: Tensor  # (K, 2) pixels
    start: int

    @property
    def count(self) -> int:
        """Number of anchors on this level."""
        return len(self.sizes) * self.rows * self.columns

    def index(self, anchor: Tensor, row: Tensor, column: Tensor) -> Tensor:
        """Index into all anchors of anchor shape `anchor` at a cell."""
        return self.start + (anchor * self.rows + row) * self.columns + column


class Anchors(NamedTuple):
    """All anchors of one image size, finest level first: centers (A, 2), sizes (A, 2), strides (A,), in pixels."""

    centers: Tensor
    sizes: Tensor
    strides: Tensor
    levels: tuple[Level, ...]

    @property
    def boxes(self) -> Tensor:
        """xyxy boxes (A, 4)."""
        return torch.cat([self.centers - self.sizes / 2, self.centers + self.sizes / 2], dim=-1)


def build_anchors(
    image_size: tuple[int, int],
    strides: Sequence[int],
    sizes: Sequence[Sequence[Sequence[float]]],
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Anchors:
    """Lays the anchors of every level over an image of (height, width) pixels, both divisible by every stride."""
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


def decode(raw_boxes: Tensor, anchors: Anchors, kind: str = "bounded", xy_reach: float = 0.5) -> Tensor:
    """Raw (..., A, 4) outputs -> xyxy pixels (..., A, 4), in float32 or wider; anchors may be gathered to match.

    `bounded` (ultralytics): centre (1 + 2r) sigmoid - r cells, side (2 sigmoid)^2 anchor sides.
    `darknet` (YOLOv3): centre sigmoid cells, side exp anchor sides.
    """
    raw_boxes = raw_boxes.to(torch.promote_types(raw_boxes.dtype, torch.float32))
    raw_center, raw_size = raw_boxes.split(2, dim=-1)
    if kind == "darknet":
        offset, scale = raw_center.sigmoid() - 0.5, raw_size.exp()
    else:
        offset, scale = (raw_center.sigmoid() - 0.5) * (1 + 2 * xy_reach), (2 * raw_size.sigmoid()).square()
    center = anchors.centers + offset * anchors.strides[:, None]
    half = anchors.sizes * scale / 2
    return torch.cat([center - half, center + half], dim=-1)


def take(anchors: Anchors, index: Tensor) -> Anchors:
    """The anchors at the given indices (P,), without the grid they came from."""
    return Anchors(anchors.centers[index], anchors.sizes[index], anchors.strides[index], ())


def best_possible_recall(boxes: Tensor, sizes: Tensor, anchor_t: float = 4.0) -> tuple[float, float]:
    """Share of truth sides (T, 2) with an anchor (K, 2) within the side ratio `anchor_t`; mean number of those."""
    ratio = boxes[:, None] / sizes[None]
    worst = torch.maximum(ratio, 1 / ratio).amax(-1)
    within = worst < anchor_t
    return within.any(1).float().mean().item(), within.sum(1).float().mean().item()
