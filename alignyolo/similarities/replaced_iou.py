"""Inner-IoU and Focaler-IoU over any similarity: they put another IoU in the place of its plain one.

Both papers define it so: L_Inner-X = L_X + IoU - IoU_inner, L_Focaler-X = L_X + IoU - IoU_focaler, whatever X is; the
penalties of X are those of the boxes as they are. A similarity without an IoU of its own, such as SCA, is corrected by
the same difference. Over one that falls more slowly than IoU, such as `center` or `alpha_iou`, the sum may rise above 1
or fall on the way to the truth (on up to 4 % of random pairs).
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from alignyolo.registry import SIMILARITIES
from alignyolo.similarities.bound import Similarity
from alignyolo.similarities.geometry import prepared
from alignyolo.similarities.pair import inner_iou, inner_iou_excess


class Replaced(ABC):
    """A similarity `over` (a registered name) with another IoU in the place of its plain one."""

    def __init__(self, over: str, **settings: Any) -> None:
        self.base = Similarity(SIMILARITIES[over], **settings)
        self.alone = over == "iou"

    @abstractmethod
    def replacement(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return what stands for the IoU (...) of boxes (..., 4)."""

    @abstractmethod
    def excess(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return `replacement` less the IoU: (...)."""

    def __call__(self, pred: Tensor, target: Tensor, **around: Any) -> Tensor:
        """Return the similarity (...) of boxes (..., 4)."""
        # Once for both parts.
        pred, target = prepared(pred, target)
        if self.alone:
            return self.replacement(pred, target)
        return self.base(pred, target, **around) + self.excess(pred, target)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the running statistics of the similarity below."""
        return self.base.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up the running statistics of the similarity below."""
        self.base.load_state_dict(state)


class Inner(Replaced):
    """IoU of both boxes scaled by `ratio` about their own centres (Zhang et al. 2023, arXiv 2311.02877).

    Below 1 for small boxes that overlap much (steeper there, and without gradient on some that overlap little), above 1
    for boxes that hardly overlap. The paper tries .5 to 1.5; .7 is the authors' default.
    """

    def __init__(self, over: str, ratio: float = 0.7, **settings: Any) -> None:
        super().__init__(over, **settings)
        self.ratio = ratio

    def replacement(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the inner IoU, in [0, 1]."""
        return inner_iou(pred, target, self.ratio)

    def excess(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the inner IoU less the IoU, in [-1, 1]."""
        return inner_iou_excess(pred, target, self.ratio)


class Focaler(Replaced):
    """IoU stretched from [low, high] to [0, 1] (Zhang and Zhang 2024, arXiv 2401.10525).

    No gradient of it outside: above `high` a pair counts as perfect, below `low` as hopeless. The authors' code has 0
    and .95.
    """

    def __init__(self, over: str, low: float = 0.0, high: float = 0.95, **settings: Any) -> None:
        super().__init__(over, **settings)
        self.low, self.high = low, high

    def replacement(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the stretched IoU, in [0, 1]."""
        return self.stretched(inner_iou(pred, target, 1.0))

    def excess(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the stretched IoU less the IoU, in [-1, 1]."""
        plain = inner_iou(pred, target, 1.0)
        return self.stretched(plain) - plain

    def stretched(self, plain: Tensor) -> Tensor:
        """Stretch IoUs from [low, high] to [0, 1]."""
        return ((plain - self.low) / (self.high - self.low)).clamp(0, 1)
