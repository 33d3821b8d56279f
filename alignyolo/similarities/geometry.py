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
        dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        with torch.autocast(pred.device.type, enabled=False):
            return function(pred.to(dtype), target.to(dtype), *args, **kwargs)

    return wrapper


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
    overlap, _ = spans(pred, target)
    intersection = area(overlap.clamp(min=0))
    return intersection, area(size(pred)) + area(size(target)) - intersection


def offset(pred: Tensor, target: Tensor) -> Tensor:
    """Return the centres' difference (..., 2), x and y, in pixels."""
    pred_low, pred_high = pred.split(2, dim=-1)
    target_low, target_high = target.split(2, dim=-1)
    # In this order identical boxes have exactly 0.
    return ((pred_low - target_low) + (pred_high - target_high)) / 2


def side_difference(pred: Tensor, target: Tensor) -> Tensor:
    """Return |w - W| / max(w, W) and its like for the height, in [0, 1]: (..., 2)."""
    sides, wanted = size(pred), size(target)
    return (sides - wanted).abs() / (torch.maximum(sides, wanted) + EPSILON)
