"""Alpha-IoU: the terms of an IoU similarity raised to a power (He et al. 2021, arXiv 2110.13675).

Gradients of overlapping boxes are of about power IoU^(power - 1): small where the overlap is. Other people's code takes
IoU^power in the trade-off weight of alpha-CIoU, too; here it is IoU, as in the authors'.
"""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, area, full_precision
from alignyolo.similarities.iou import aspect_penalty
from alignyolo.similarities.pair import Pair

BASE = 1e-9  # keeps the gradient of a power below 1 finite at 0


def raised(base: Tensor, power: float) -> Tensor:
    """Raise numbers from 0 on to a power, with a finite gradient at 0."""
    return (base + BASE) ** power - BASE**power


@full_precision
def alpha_iou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """Return IoU^power, in [0, 1]; no gradient for disjoint boxes."""
    return raised(Pair(pred, target).iou, power)


@full_precision
def alpha_giou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """Return IoU^power less the power of the empty share of the enclosing box, in [-1, 1]."""
    pair = Pair(pred, target)
    enclosing = area(pair.enclosing)
    # The union, of the areas and IoU: I = IoU (A + B) / (1 + IoU).
    union = (area(pair.sides) + area(pair.wanted)) / (1 + pair.iou)
    empty = (enclosing - union).clamp(min=0) / (enclosing + EPSILON)
    return raised(pair.iou, power) - raised(empty, power)


@full_precision
def alpha_diou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """Return IoU^power less the power of DIoU's centre term, in (-1, 1]."""
    pair = Pair(pred, target)
    return raised(pair.iou, power) - raised(pair.center_distance, power)


@full_precision
def alpha_ciou(pred: Tensor, target: Tensor, power: float = 3.0) -> Tensor:
    """Return Alpha-DIoU less the power of CIoU's aspect term, its trade-off weight detached, in (-2, 1]."""
    pair = Pair(pred, target)
    aspect = aspect_penalty(pred, target, pair.iou)
    return raised(pair.iou, power) - raised(pair.center_distance, power) - raised(aspect, power)
