"""Wise-IoU: an IoU loss that looks more at boxes of ordinary quality (Tong et al. 2023, arXiv 2301.10051)."""

from collections.abc import Callable

import torch
from torch import Tensor

from alignyolo.similarities.geometry import EPSILON, full_precision
from alignyolo.similarities.pair import Pair


@full_precision
def wiou_v1(pred: Tensor, target: Tensor) -> Tensor:
    """Return 1 - exp(r^2 / c^2) (1 - IoU), in (1 - e, 1]: r the centres' distance, c the enclosing diagonal.

    c is detached, as in the paper and the authors' code; the copy in many forks of YOLO forgot that.
    """
    return 1 - losses(pred, target)[0]


@full_precision
def losses(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss exp(r^2 / c^2) (1 - IoU) of v1, and 1 - IoU, detached: (..., 4), (..., 4) -> (...), (...)."""
    pair = Pair(pred, target)
    distance = pair.offset.square().sum(-1) / (pair.squared_diagonal.detach() + EPSILON)
    missing = 1 - pair.iou
    return distance.exp() * missing, missing.detach()


class WiseIoU:
    """WIoU v3: the loss of v1 times b / (delta alpha^(b - delta)), b the IoU loss over its running mean, detached.

    It is 1 for identical boxes and has no limit below that holds for every running mean. The mean moves in training
    steps alone, before it is used, by `momentum` towards the batch's, over all processes; it starts at 1. alpha 1.9 and
    delta 3 are those of the authors' code for the paper's experiments (their later default is 1.7 and 2.7). `momentum`
    is their code's; the paper takes one that forgets the start by the middle of a run.
    """

    def __init__(self, alpha: float = 1.9, delta: float = 3.0, momentum: float = 0.01) -> None:
        self.alpha, self.delta, self.momentum = alpha, delta, momentum
        self.mean = torch.ones(())

    def __call__(self, pred: Tensor, target: Tensor, over_ranks: Callable[[Tensor], Tensor], training: bool) -> Tensor:
        """Return the similarity (...) of boxes (..., 4); in `training` the running mean moves first."""
        value, loss = losses(pred, target)
        with torch.no_grad():
            if training:
                self.move(loss, over_ranks)
            outlying = loss / self.mean.to(loss).clamp(min=EPSILON)
            weight = outlying / (self.delta * self.alpha ** (outlying - self.delta))
        return 1 - weight * value

    def move(self, loss: Tensor, over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Move the running mean; a batch without boxes, or of values that are not finite, leaves it where it is."""
        total, count = over_ranks(torch.stack([loss.sum(), loss.new_full((), loss.numel())]))
        mean = self.mean.to(loss, non_blocking=True)
        moved = (1 - self.momentum) * mean + self.momentum * total / count
        self.mean = torch.where(moved.isfinite(), moved, mean)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running mean."""
        return {"mean": self.mean.cpu()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a running mean."""
        self.mean = state["mean"].clone()
