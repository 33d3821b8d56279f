"""EIoU and Focal-EIoU (Zhang et al. 2021, arXiv 2101.08158): IoU less centre, width and height differences.

Two other losses of this name are in circulation: mmdetection's EIoULoss is Extended-IoU, and the code of WIoU's authors
has centre offsets where the paper has differences of sides.
"""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def eiou(pred: Tensor, target: Tensor) -> Tensor:
    """Return the efficient IoU, in (-3, 1]: IoU - DIoU's centre term - (w - W)^2 / cw^2 - (h - H)^2 / ch^2.

    cw and ch are the sides of the enclosing box; where that has none, the term is 0.
    """
    return _eiou(Pair(pred, target))


def _eiou(pair: Pair) -> Tensor:
    """Return the Efficient IoU (...) of a pair."""
    sides = (pair.sides - pair.wanted).square() / (pair.enclosing.square() + EPSILON)
    return pair.iou - pair.center_distance - sides.sum(-1)


@full_precision
def focal_eiou(pred: Tensor, target: Tensor, gamma: float = 0.5) -> Tensor:
    """Return 1 - IoU^gamma (1 - EIoU), in (0, 1], its weight IoU^gamma detached.

    The paper marks no detached term, but without that every pair of IoU 0 has a gradient of NaN. Disjoint boxes have
    loss 0 and no gradient, as good as a perfect match: the paper's own weight. A step against the gradient raises the
    loss on 3 % of random pairs, which overlap little: the weight that grows is not in the gradient.
    """
    pair = Pair(pred, target)
    return 1 - pair.iou.detach() ** gamma * (1 - _eiou(pair))
