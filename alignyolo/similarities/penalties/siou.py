"""SIoU: IoU less half of a distance, cheaper along one axis, and of a difference of sides.

Gevorgyan 2022, arXiv 2205.12740.
"""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, area, full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def siou(pred: Tensor, target: Tensor) -> Tensor:
    """Return SCYLLA-IoU, IoU - (D + O) / 2, in about (-1.02, 1].

    D = 2 - exp(-g (dx / cw)^2) - exp(-g (dy / ch)^2) with g = 2 - sin 2a, a the angle of the line between the centres:
    sin 2a = 2 |dx dy| / (dx^2 + dy^2), 0 where the centres meet. O sums (1 - exp(-|w - W| / max(w, W)))^4 over the
    sides. mmdetection's default has exp(+g ...), which rewards distance; this is YOLOv6's, and the paper's.
    """
    pair = Pair(pred, target)
    squares = pair.twice_offset.square()
    half_angle = area(pair.twice_offset).abs() / (squares.sum(-1) + EPSILON**2)
    exponents = (half_angle - 1)[..., None] * squares / (2 * pair.enclosing.square() + EPSILON)
    return pair.iou + (exponents.expm1() - pair.less_side_difference.expm1() ** 4).mean(-1)
