"""SIoU: IoU less half of a distance, cheaper along one axis, and of a difference of sides.

Gevorgyan 2022, arXiv 2205.12740.
"""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, full_precision, offset, side_difference, spans
from alignyolo.similarities.iou import iou


@full_precision
def siou(pred: Tensor, target: Tensor) -> Tensor:
    """SCYLLA-IoU, IoU - (D + O) / 2, in about (-1.02, 1].

    D = 2 - exp(-g (dx / cw)^2) - exp(-g (dy / ch)^2) with g = 2 - sin 2a, a the angle of the line between the centres:
    sin 2a = 2 |dx dy| / (dx^2 + dy^2), 0 where the centres meet. O sums (1 - exp(-|w - W| / max(w, W)))^4 over the
    sides. mmdetection's default has exp(+g ...), which rewards distance; this is YOLOv6's, and the paper's.
    """
    _, enclosing = spans(pred, target)
    squares = offset(pred, target).square()
    across, down = offset(pred, target).abs().unbind(-1)
    angle = 2 * across * down / (squares.sum(-1) + EPSILON**2)
    distance = 1 - (-(2 - angle)[..., None] * squares / (enclosing.square() + EPSILON)).exp()
    shape = (1 - (-side_difference(pred, target)).exp()) ** 4
    return iou(pred, target) - (distance + shape).sum(-1) / 2
