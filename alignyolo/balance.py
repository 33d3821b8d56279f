"""GGIoU-balanced and IoU-balanced weights of the box loss (GGIoU 3.3)."""

from collections.abc import Callable

import torch
from torch import Tensor

from alignyolo.assign.threshold import ggiou
from alignyolo.similarities.iou import iou


def balanced_weight(
    boxes: Tensor,
    truths: Tensor,
    gamma: float,
    wloc: float | str = "auto",
    metric: str = "ggiou",
    alpha: float = 0.3,
    beta: float = 1 / 6,
    sigma: str = "overlap",
    over_ranks: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor | float:
    """Weight wloc metric^gamma of every predicted box (P, 4) -> (P,), 1 with gamma 0 (GGIoU Eq. 6).

    `auto` divides by the mean over the batch; `over_ranks` sums a tensor over the processes that share it.
    """
    if gamma == 0:
        return 1.0
    value = iou(boxes, truths) if metric == "iou" else ggiou(boxes, truths, alpha, beta, sigma)
    weight = value**gamma
    if wloc == "auto":
        # The floors keep an empty batch, and one whose boxes all miss, from dividing by zero.
        total, count = over_ranks(torch.stack([weight.sum(), weight.new_full((), len(weight))]))
        return weight / (total / count.clamp(min=1)).clamp(min=1e-6)
    return weight * wloc
