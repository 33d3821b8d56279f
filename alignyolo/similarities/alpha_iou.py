"""Alpha-IoU: the terms of an IoU similarity raised to a power (He et al. 2021, arXiv 2110.13675).

Gradients of overlapping boxes are of about power IoU^(power - 1): small where the overlap is. Other people's code takes
IoU^power in the trade-off weight of alpha-CIoU, too; here it is IoU, as in the authors'.
"""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, area, full_precision, intersection_and_union, spans
from alignyolo.similarities.iou import aspect_penalty, center_distance, iou

BASE = 1e-9  # keeps the gradient of a power below 1 finite at 0


def raised(base: Tensor, power: float) -> Tensor:
    """Raise numbers from 0 on to a power, with a finite gradient at 0."""
    return (base + BASE) ** power - BASE**power


@full_precision
def alpha_iou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """IoU^power, in [0, 1]; no gradient for disjoint boxes."""
    return raised(iou(pred, target), power)


@full_precision
def alpha_giou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """IoU^power less the power of the empty share of the enclosing box, in [-1, 1]."""
    _, union = intersection_and_union(pred, target)
    enclosing = area(spans(pred, target)[1])
    empty = (enclosing - union).clamp(min=0) / (enclosing + EPSILON)
    return raised(iou(pred, target), power) - raised(empty, power)


@full_precision
def alpha_diou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """IoU^power less the power of DIoU's centre term, in (-1, 1]."""
    return raised(iou(pred, target), power) - raised(center_distance(pred, target), power)


@full_precision
def alpha_ciou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """Alpha-DIoU less the power of CIoU's aspect term, its trade-off weight detached, in (-2, 1]."""
    overlap = iou(pred, target)
    distance, aspect = center_distance(pred, target), aspect_penalty(pred, target, overlap)
    return raised(overlap, power) - raised(distance, power) - raised(aspect, power)
