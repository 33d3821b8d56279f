"""Which pairs of truths and anchors a rule looks at: anchors in a truth, or nearest to its centre; any kind of anchors.

The anchors of a YOLO head lie on grids, where cells near a truth are found by counting; `reach` is the head's, in
cells, inf for a head that reaches any box. Dense anchors are looked at all, one image at a time.
"""

import math

import torch
from torch import Tensor

from alignyolo.anchors import Anchors, DenseAnchors, Level
from alignyolo.assign.assignment import Context
from alignyolo.assign.pairs import MAX_SIDE_RATIO, Pairs, cells_within, center_and_size, reachable_pairs

ROWS = 16  # truths at a time, so that no matrix with all anchors gets large


def pairs_around(context: Context, boxes: Tensor, reach: float) -> Pairs:
    """Find the pairs whose anchor centre lies within a box (T, 4), and which the head can reach."""
    anchors = context.anchors
    if isinstance(anchors, DenseAnchors):
        parts = []
        for start in range(0, len(boxes), ROWS):
            truth, anchor = inside(anchors.centers, boxes[start : start + ROWS, None]).nonzero(as_tuple=True)
            parts.append(Pairs(truth + start, anchor))
        return Pairs.join([Pairs.none(boxes.device), *parts])
    if math.isinf(reach):
        center, size = center_and_size(boxes)
        # Rounding may not lose an anchor at the edge; what is too many goes below.
        radius = (size / 2 + 1)[:, None]
        found = Pairs.join(
            [cells_within(level, center, radius.expand(-1, len(level.sizes), 2)) for level in anchors.levels]
        )
    else:
        found = reachable_pairs(anchors, context.targets.boxes, reach)
    return found.where(inside(anchors.centers[found.anchor], boxes[found.truth]))


def inside(centers: Tensor, boxes: Tensor, least: float = 1e-9) -> Tensor:
    """Return whether points (..., 2) lie in boxes (..., 4), by more than `least` pixels from every side."""
    low, high = boxes.split(2, dim=-1)
    return torch.minimum(centers - low, high - centers).amin(-1) > least


def nearest_pairs(context: Context, count: int) -> Pairs:
    """Find each truth's `count` nearest anchors on every level, by the centres; of equally near ones the first."""
    anchors, center = context.anchors, center_and_size(context.targets.boxes)[0]
    if isinstance(anchors, DenseAnchors):
        starts = torch.tensor([0, *anchors.counts]).cumsum(0).tolist()
        levels = zip(starts, starts[1:], strict=False)
        return Pairs.join([_nearest(anchors.centers[a:b], center, count, a) for a, b in levels])
    return Pairs.join([_nearest_on_grid(level, center, count) for level in anchors.levels])


def _nearest(points: Tensor, center: Tensor, count: int, start: int) -> Pairs:
    """Search all points (A, 2) of a level, numbered from `start`, for each centre (T, 2)."""
    parts = []
    for first in range(0, len(center), ROWS):
        distance = (center[first : first + ROWS, None] - points).square().sum(-1)
        parts.append(_smallest(distance, count).add_(start))
    anchor = torch.cat(parts) if parts else torch.zeros(0, 0, dtype=torch.long, device=center.device)
    truth = torch.arange(len(center), device=center.device)[:, None].expand_as(anchor)
    return Pairs(truth.flatten(), anchor.flatten())


def _nearest_on_grid(level: Level, center: Tensor, count: int) -> Pairs:
    """Search the cells around each centre (T, 2): the n nearest cells lie at most n cells from the nearest one."""
    shapes = len(level.sizes)
    steps = math.ceil(count / shapes)
    columns, column = _cells_around(center[:, 0] / level.stride, level.columns, steps)
    rows, row = _cells_around(center[:, 1] / level.stride, level.rows, steps)
    across = ((column + 0.5) * level.stride - center[:, :1]).square()
    down = ((row + 0.5) * level.stride - center[:, 1:]).square()
    # In the order of the anchors' numbers, so that of equally near ones the first is taken.
    distance = (down[:, :, None] + across[:, None]).flatten(1).repeat(1, shapes)
    chosen = _smallest(distance, count)
    shape, cell = chosen // (rows * columns), chosen % (rows * columns)
    truth = torch.arange(len(center), device=center.device)[:, None].expand_as(chosen)
    anchor = level.index(shape, row.gather(1, cell // columns), column.gather(1, cell % columns))
    return Pairs(truth.flatten(), anchor.flatten())


def _cells_around(position: Tensor, cells: int, steps: int) -> tuple[int, Tensor]:
    """Return how many of a grid side's cells lie in a window around positions (T,) in cells, and which: (T, n)."""
    wide = min(2 * steps + 1, cells)
    first = (position.floor().long() - steps).clamp(0, cells - wide)
    return wide, first[:, None] + torch.arange(wide, device=position.device)


def _smallest(distance: Tensor, count: int) -> Tensor:
    """Return the columns of the `count` smallest numbers of every row (T, N): (T, count), the first of equals."""
    count = min(count, distance.shape[1])
    if len(distance) == 0 or count == 0:
        return torch.zeros(len(distance), count, dtype=torch.long, device=distance.device)
    limit = distance.kthvalue(count, dim=1).values[:, None]
    # All below the limit, and the first of those at it.
    below, at = distance < limit, distance == limit
    room = count - below.sum(1, keepdim=True)
    chosen = below | (at & (at.cumsum(1) <= room))
    return chosen.nonzero()[:, 1].view(len(distance), count)


def reaches(anchors: Anchors | DenseAnchors, boxes: Tensor, pairs: Pairs, reach: float) -> Tensor:
    """Return which pairs (N,) the head can decode, all where `reach` is inf: (N,)."""
    if math.isinf(reach) or not isinstance(anchors, Anchors):
        return torch.ones_like(pairs.truth, dtype=torch.bool)
    center, size = center_and_size(boxes[pairs.truth])
    near = (anchors.centers[pairs.anchor] - center).abs() < (0.5 + reach) * anchors.strides[pairs.anchor, None]
    return (near & (size < MAX_SIDE_RATIO * anchors.sizes[pairs.anchor])).all(-1)
