"""Shape-IoU: IoU less centre and side differences, weighted by the truth's own shape (Zhang 2023, arXiv 2312.17663)."""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def shape_iou(pred: Tensor, target: Tensor, scale: float = 0.0) -> Tensor:
    """Return IoU - (hh dx^2 + ww dy^2) / c^2 - half of (1 - exp(-hh |w - W| / max))^4 and its like for h.

    ww = 2 W^scale / (W^scale + H^scale), hh its like for H; the paper takes scale 0 (both 1) up to 1.5 by data set.
    A side of zero counts as 1e-7.
    """
    pair = Pair(pred, target)
    powers = pair.wanted.clamp(min=EPSILON) ** scale
    other = (2 * powers / powers.sum(-1, keepdim=True)).flip(-1)  # (hh, ww)
    distance = (other * pair.offset.square()).sum(-1) / (pair.squared_diagonal + EPSILON)
    shape = (other * pair.less_side_difference).expm1() ** 4
    return pair.iou - distance - shape.mean(-1)
