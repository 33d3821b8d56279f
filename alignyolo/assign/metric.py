"""The metric of an assignment: GGIoU of anchors and truths, or plain IoU."""

import math
from dataclasses import dataclass

from torch import Tensor

from alignyolo.choices import require_choice
from alignyolo.gaussian_iou import SIGMAS, ggiou, log_ggiou
from alignyolo.similarities.geometry import full_precision, intersection_and_union


@full_precision
def plain_iou(anchors: Tensor, truths: Tensor) -> Tensor:
    """Return IoU as torchvision.ops.box_iou computes it, to the bit, but -inf without overlap.

    The similarity `iou` adds an epsilon to the union, which breaks ties between boxes of unlike size.
    """
    intersection, union = intersection_and_union(anchors, truths)
    return (intersection / union).masked_fill(intersection <= 0, -math.inf)


@dataclass(frozen=True)
class Metric:
    """IoU^(1 - alpha) Dc^alpha of anchors (..., 4) and truths (..., 4); alpha = 0 is plain IoU (GGIoU Eq. 4)."""

    alpha: float = 0.3
    beta: float = 1 / 6
    sigma: str = "overlap"

    def __post_init__(self) -> None:
        require_choice("sigma", self.sigma, SIGMAS)

    def values(self, anchors: Tensor, truths: Tensor) -> Tensor:
        """Return the metric in [0, 1]."""
        return ggiou(anchors, truths, self.alpha, self.beta, self.sigma)

    def logarithms(self, anchors: Tensor, truths: Tensor) -> Tensor:
        """Return the metric's logarithm, which tells pairs apart whose metric is rounded to 0; -inf without overlap."""
        return log_ggiou(anchors, truths, self.alpha, self.beta, self.sigma)

    def values_and_logarithms(self, anchors: Tensor, truths: Tensor) -> tuple[Tensor, Tensor]:
        """Return `values` and `logarithms`, computed once where one follows from the other."""
        logarithms = self.logarithms(anchors, truths)
        return (logarithms.exp() if self.alpha > 0 else self.values(anchors, truths)), logarithms

    def ranking(self, anchors: Tensor, truths: Tensor) -> Tensor:
        """Return numbers in the metric's order, -inf without overlap; `of_ranking` turns them into the metric."""
        if self.alpha > 0:
            # Logarithms tell a tiny truth's anchors apart where GGIoU itself is rounded to 0.
            return self.logarithms(anchors, truths)
        return plain_iou(anchors, truths)

    def of_ranking(self, ranking: Tensor) -> Tensor:
        """Return the metric of numbers that `ranking` gave."""
        return ranking.exp() if self.alpha > 0 else ranking.clamp(min=0)

    def least_iou(self, lowest: float) -> float:
        """Return the IoU below which the metric is below `lowest`, above 0; 0 for alpha 1, a metric without IoU."""
        return lowest ** (1 / (1 - self.alpha)) if self.alpha < 1 else 0.0

    def largest_offset(self, lowest: float) -> float:
        """Return the distance of the centres per axis, in sides of the sigma box, above which it is below `lowest`."""
        return self.beta * math.sqrt(-2 * math.log(lowest) / self.alpha) if self.alpha > 0 else math.inf
