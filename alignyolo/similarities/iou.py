"""IoU and its relatives: pure functions of xyxy boxes, 1 for identical boxes; the box loss is `1 - similarity`.

Shapes: pred (..., 4), target (..., 4) -> (...), broadcasting, so that (T, 1, 4) x (A, 4) gives the (T, A) matrix.
Boxes are in pixels. Every function computes in float32 or wider with autocast off, and has a finite value and gradient
on any pair of float32, float64 or bfloat16 with coordinates up to 1e9; areas of sides such as 1e20 overflow. float16
holds nothing above 65504, where gradients of boxes of nearly no size overflow.
"""

import math

import torch
from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, area, full_precision, intersection_and_union, size, spans


@full_precision
def iou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the intersection over union.

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.

    Returns:
        Similarities (...) in [0, 1].
    """
    intersection, union = intersection_and_union(pred, target)
    return intersection / (union + EPSILON)


@full_precision
def giou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the generalized IoU: less the empty share of the enclosing box (Rezatofighi et al. 2019).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.

    Returns:
        Similarities (...) in [-1, 1].
    """
    intersection, union = intersection_and_union(pred, target)
    _, enclosing = spans(pred, target)
    enclosing_area = area(enclosing)
    # Never negative but by rounding; the clamp also keeps the gradient of boxes without area from exploding.
    empty = (enclosing_area - union).clamp(min=0)
    return intersection / (union + EPSILON) - empty / (enclosing_area + EPSILON)


def center_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Return the squared distance of the centres over the squared diagonal of the enclosing box, in [0, 1)."""
    _, enclosing = spans(pred, target)
    pred_low, pred_high = pred.split(2, dim=-1)
    target_low, target_high = target.split(2, dim=-1)
    offset = (pred_low + pred_high - target_low - target_high) / 2
    return offset.square().sum(-1) / (enclosing.square().sum(-1) + EPSILON)


@full_precision
def diou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the distance IoU: less the distance of the centres (Zheng et al. 2020).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.

    Returns:
        Similarities (...) in (-1, 1].
    """
    return iou(pred, target) - center_distance(pred, target)


def aspect_penalty(pred: Tensor, target: Tensor, overlap: Tensor) -> Tensor:
    """Return the difference of aspect ratios times its weight by the IoU `overlap`, which is detached, in [0, 1)."""
    # A side of zero has no angle: the clamp gives it one, and no gradient.
    (pred_width, pred_height), (width, height) = (size(boxes).clamp(min=EPSILON).unbind(-1) for boxes in (pred, target))
    angle = torch.atan(width / height) - torch.atan(pred_width / pred_height)
    aspect = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + EPSILON)
    return weight * aspect


@full_precision
def ciou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the complete IoU: DIoU less the difference of aspect ratios (Zheng et al. 2020).

    The trade-off weight of the difference is detached.

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.

    Returns:
        Similarities (...) in (-2, 1].
    """
    overlap = iou(pred, target)
    # First, so that gradients are summed in the order that old runs were trained with.
    aspect = aspect_penalty(pred, target, overlap)
    return overlap - center_distance(pred, target) - aspect


@full_precision
def center(pred: Tensor, target: Tensor) -> Tensor:
    """Return DIoU's centre term alone (SCALoss Table 6 a).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.

    Returns:
        Similarities (...) in (0, 1].
    """
    return 1 - center_distance(pred, target)
