"""Sides, areas and overlaps of xyxy boxes: the terms that the similarities are made of.

Shapes: pred (..., 4), target (..., 4) -> (...), broadcasting, so that (T, 1, 4) x (A, 4) gives the (T, A) matrix.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-7


def full_precision(function: Callable) -> Callable:
    """Run a function of two box tensors in float32 or wider, whatever autocast says: areas overflow in float16."""

    @functools.wraps(function)
    def wrapper(pred: Tensor, target: Tensor, *args, **kwargs) -> Tensor:
        with torch.autocast(pred.device.type, enabled=False):
            return function(*prepared(pred, target), *args, **kwargs)

    return wrapper


def prepared(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (..., 4) in float32 or wider, coordinate by coordinate: as they are where they are so already."""
    dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    return by_coordinate(pred.to(dtype)), by_coordinate(target.to(dtype))


MANY = 4096  # boxes for which another layout pays


def by_coordinate(boxes: Tensor) -> Tensor:
    """Lay many boxes (..., 4) out coordinate by coordinate: all x are then handled twice as fast, to the same bits."""
    if boxes.numel() < 4 * MANY:
        return boxes
    first = boxes.movedim(-1, 0)
    # Boxes that lie so go on as they are: no view of them adds to the order in which gradients are summed.
    return boxes if first.is_contiguous() else first.contiguous().movedim(0, -1)


def spans(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signed width and height of the overlap, and of the enclosing box: (..., 2), (..., 2)."""
    pred_low, pred_high = pred.split(2, dim=-1)
    target_low, target_high = target.split(2, dim=-1)
    overlap = torch.minimum(pred_high, target_high) - torch.maximum(pred_low, target_low)
    enclosing = torch.maximum(pred_high, target_high) - torch.minimum(pred_low, target_low)
    return overlap, enclosing


def size(boxes: Tensor) -> Tensor:
    """Return width and height (..., 2)."""
    low, high = boxes.split(2, dim=-1)
    return high - low


def area(extent: Tensor) -> Tensor:
    """Multiply along the last axis (..., 2) -> (...)."""
    width, height = extent.unbind(-1)
    return width * height


def intersection_and_union(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas of the intersection and of the union: (...), (...)."""
    pred_low, pred_high = pred.split(2, dim=-1)
    target_low, target_high = target.split(2, dim=-1)
    overlap = torch.minimum(pred_high, target_high) - torch.maximum(pred_low, target_low)
    intersection = area(overlap.clamp(min=0))
    return intersection, area(size(pred)) + area(size(target)) - intersection
