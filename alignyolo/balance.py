"""GGIoU-balanced and IoU-balanced weights of the box loss (GGIoU 3.3)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from alignyolo.choices import look_up
from alignyolo.registry import METRICS
from alignyolo.similarities.bound import Similarity


def balanced_weight(
    value: Tensor,
    gamma: float,
    wloc: float | str = "auto",
    over_ranks: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor | float:
    """Weigh every predicted box by wloc metric^gamma (GGIoU Eq. 6).

    Args:
        value: The metric (P,) of each box with its truth.
        gamma: Exponent; 0 switches the weight off.
        wloc: A factor, or `auto` to divide by the mean over the batch.
        over_ranks: A function that sums a tensor over the processes that share the batch.

    Returns:
        Weights (P,), or 1 with `gamma` 0.

    Raises:
        ValueError: `wloc` is a word other than `auto`, or a number that is not above 0.
    """
    require_wloc(wloc)
    if gamma == 0:
        return 1.0
    weight = value**gamma
    if isinstance(wloc, str):
        # The floors keep an empty batch, and one whose boxes all miss, from dividing by zero.
        total, count = over_ranks(torch.stack([weight.sum(), weight.new_full((), len(weight))]))
        return weight / (total / count.clamp(min=1)).clamp(min=1e-6)
    return weight * wloc


def require_wloc(wloc: float | str) -> None:
    """Refuse a word other than `auto`, and what would switch the box loss off or turn it round: ValueError."""
    if wloc != "auto" if isinstance(wloc, str) else not wloc > 0:
        raise ValueError(f"wloc must be a number above 0 or 'auto', not {wloc!r}")


@dataclass(frozen=True)
class Balance:
    """The weight of the box loss with its settings bound, called as `balance(boxes, truths, **around)`.

    `metric` is a similarity of (boxes, truths), for which `around` is as alignyolo/similarities/bound.py says.
    """

    gamma: float = 0.0
    wloc: float | str = "auto"
    metric: Similarity = field(default_factory=lambda: metric("ggiou"))

    def __post_init__(self) -> None:
        require_wloc(self.wloc)

    def __call__(self, boxes: Tensor, truths: Tensor, **around: Any) -> Tensor | float:
        """Return the weights (P,) of boxes (P, 4) without gradient, or 1 where the balance is off."""
        if self.gamma == 0:
            return 1.0
        over_ranks = around.get("over_ranks", lambda values: values)
        return balanced_weight(self.metric(boxes.detach(), truths, **around), self.gamma, self.wloc, over_ranks)


def metric(name: str, **settings: Any) -> Similarity:
    """Bind settings to a registered metric, as in `metric("ggiou", alpha=0.5)`; ValueError for an unknown name."""
    return Similarity(look_up("metric", name, METRICS), **settings)
