"""Which pairs of truths and anchors of a YOLOv3 head come into question, found without looking at all of them."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from alignyolo.anchors import Anchors, Level
from alignyolo.assign.metric import Metric
from alignyolo.similarities.geometry import full_precision

# The decoded side is at most (2 sigmoid)^2 = 4 anchor sides.
MAX_SIDE_RATIO = 4.0


class Pairs(NamedTuple):
    """Candidate pairs: truth (N,) index into the targets, anchor (N,) index into the anchors of one image."""

    truth: Tensor
    anchor: Tensor

    @staticmethod
    def join(parts: list["Pairs"]) -> "Pairs":
        """Join the pairs of every level."""
        return Pairs(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @staticmethod
    def none(device: torch.device) -> "Pairs":
        """Return no pairs; first in a list, they let `join` take one that is otherwise empty."""
        nothing = torch.zeros(0, dtype=torch.long, device=device)
        return Pairs(nothing, nothing)

    def where(self, keep: Tensor) -> "Pairs":
        """Keep the pairs that a mask (N,) marks."""
        return Pairs(self.truth[keep], self.anchor[keep])


def center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres (..., 2) and sides (..., 2)."""
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, high - low


def reachable_pairs(anchors: Anchors, boxes: Tensor, reach: float) -> Pairs:
    """Find the pairs that the head can decode: centres below (.5 + reach) strides apart, truth below 4 anchor sides."""
    center, size = center_and_size(boxes)
    steps = torch.arange(math.ceil(1 + 2 * reach) + 1, device=boxes.device)
    parts = []
    for level in anchors.levels:
        first = (center / level.stride - 1 - reach).floor().long()
        column, row = first[:, None, 0] + steps, first[:, None, 1] + steps
        inside = within(column, level.columns)[:, None] & within(row, level.rows)[:, :, None]
        fits = (size[:, None] < MAX_SIDE_RATIO * level.sizes).all(-1)
        truth, anchor, i, j = (inside[:, None] & fits[:, :, None, None]).nonzero(as_tuple=True)
        parts.append(Pairs(truth, level.index(anchor, row[truth, i], column[truth, j])))
    pairs = Pairs.join(parts)
    distance = (anchors.centers[pairs.anchor] - center[pairs.truth]).abs()
    limit = (0.5 + reach) * anchors.strides[pairs.anchor]
    return pairs.where((distance < limit[:, None]).all(-1))


def within(cells: Tensor, count: int) -> Tensor:
    """Return whether cell numbers lie on a grid side of `count` cells."""
    return (cells >= 0) & (cells < count)


def near_pairs(anchors: Anchors, boxes: Tensor, lowest: float, metric: Metric) -> Pairs:
    """Find all pairs whose metric can be `lowest` or more, in a window of cells around each truth, with few others.

    IoU >= u = lowest^(1 / (1 - alpha)) asks for an overlap of u max(areas) / min(heights) in x, hence bounds |dx|;
    the Gaussian factor bounds |dx| by beta sqrt(-2 ln lowest / alpha) sigma widths.
    """
    if lowest <= 0:
        return all_pairs(anchors, boxes)
    center, size = center_and_size(boxes)
    least_iou, spread = metric.least_iou(lowest), metric.largest_offset(lowest)
    parts = []
    for level in anchors.levels:
        smaller = torch.minimum(size[:, None], level.sizes)  # (T, K, 2)
        largest_area = torch.maximum(size.prod(-1)[:, None], level.sizes.prod(-1))
        least_overlap = least_iou * largest_area[..., None] / smaller.flip(-1)
        radius = (size[:, None] + level.sizes) / 2 - least_overlap
        radius = torch.minimum(radius, spread * (smaller if metric.sigma == "overlap" else size[:, None]))
        # Rounding may not lose a pair at the edge of the window.
        radius = torch.where(least_overlap <= smaller * 1.001, radius + 1e-3 * size[:, None] + 1e-3, -math.inf)
        parts.append(cells_within(level, center, radius))
    return Pairs.join(parts)


def all_pairs(anchors: Anchors, boxes: Tensor) -> Pairs:
    """Return every truth (T, 4) with every anchor, also those that do not overlap."""
    count = len(anchors.centers)
    truth = torch.arange(len(boxes), device=boxes.device).repeat_interleave(count)
    return Pairs(truth, torch.arange(count, device=boxes.device).repeat(len(boxes)))


def cells_within(level: Level, center: Tensor, radius: Tensor) -> Pairs:
    """Find the pairs of truths, centre (T, 2), and cells at most radius (T, K, 2) pixels away, none where below 0."""
    grid = torch.tensor([level.columns, level.rows], device=center.device)
    reach = radius.clamp(min=0) / level.stride
    middle = center[:, None] / level.stride - 0.5
    first = (middle - reach).ceil().clamp(min=0).long()
    last = torch.minimum((middle + reach).floor().long(), grid - 1)
    spans = (last - first + 1).clamp(min=0) * (radius >= 0)
    first, spans = first.flatten(0, 1), spans.flatten(0, 1)
    counts = spans.prod(-1)
    window = torch.repeat_interleave(counts)
    rank = torch.arange(len(window), device=center.device) - (counts.cumsum(0) - counts)[window]
    columns = spans[window, 0]
    row = first[window, 1] + rank // columns
    column = first[window, 0] + rank % columns
    shapes = len(level.sizes)
    return Pairs(window // shapes, level.index(window % shapes, row, column))


@full_precision
def shape_iou(size: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of two concentric boxes given by their sides: (..., 2), (..., 2) -> (...)."""
    intersection = torch.minimum(size, other).prod(-1)
    return intersection / (size.prod(-1) + other.prod(-1) - intersection)
