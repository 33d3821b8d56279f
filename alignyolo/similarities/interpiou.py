"""InterpIoU: IoU of the prediction and of a box between it and the truth (arXiv 2507.12420)."""

from torch import Tensor

from alignyolo.similarities.geometry import full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def interpiou(pred: Tensor, target: Tensor, alpha: float = 0.98) -> Tensor:
    """Return IoU + IoU of the box (1 - alpha) pred + alpha target with the truth - 1, in [-1, 1].

    The box between overlaps the truth unless the prediction is many truths away: there is no gradient there (311 of
    4,000 pairs of the reference numbers), other than some pages say.
    """
    between = target + (1 - alpha) * (pred - target)
    return Pair(pred, target).iou + Pair(between, target).iou - 1
