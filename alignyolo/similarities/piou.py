"""Powerful-IoU: a penalty by the sides of the truth alone, which growing cannot lower (Liu et al. 2024).

Neural Networks 170, 10.1016/j.neunet.2023.11.041; not Pixels-IoU of rotated boxes. The authors' function returns the
loss; some forks return 1 less it.
"""

from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, full_precision, size
from alignyolo.similarities.pair import Pair

FAR = 1e4  # exp(-P^2) is 0 from P = 11 on


def corner_penalty(pred: Tensor, target: Tensor) -> Tensor:
    """Return P: the mean distance of the four sides from the truth's, each over the truth's width or height.

    From 0 on.
    """
    sides = (pred - target).abs().unflatten(-1, (2, 2)).sum(-2)
    return ((sides / (size(target) + EPSILON)).sum(-1) / 4).clamp(max=FAR)


@full_precision
def piou(pred: Tensor, target: Tensor) -> Tensor:
    """Return IoU + exp(-P^2) - 1, in [-1, 1]; next to no gradient for a third of disjoint pairs, whose P is above 3."""
    return Pair(pred, target).iou + (-corner_penalty(pred, target).square()).exp() - 1


@full_precision
def piou_v2(pred: Tensor, target: Tensor, sharpness: float = 1.3) -> Tensor:
    """Return 1 - 3 x exp(-x^2) (1 - PIoU) with x = sharpness exp(-P), the paper's lambda; in about (-1.6, 1].

    x is not detached, neither in the paper nor in the authors' code: for hopeless pairs the loss falls to 0, and a
    straight step towards the truth raises it on three of four disjoint pairs, a third of all random ones.
    """
    penalty = corner_penalty(pred, target)
    focus = sharpness * (-penalty).exp()
    loss = 2 - Pair(pred, target).iou - (-penalty.square()).exp()
    return 1 - 3 * focus * (-focus.square()).exp() * loss
