"""GGIoU, a metric of anchors and truths that favours anchors centred on their truth (Gaussian Guided IoU)."""

import math

import torch
from torch import Tensor

from alignyolo.similarities.geometry import full_precision
from alignyolo.similarities.iou import iou


@torch.no_grad()
@full_precision
def log_ggiou(
    anchors: Tensor, truths: Tensor, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap"
) -> Tensor:
    """Return the logarithm of GGIoU, -inf without overlap: (..., 4), (..., 4) -> (...) (GGIoU Eq. 2 to 4).

    sigma is beta times the sides of the `overlap` box, or of the `truth` box (GGIoU Table 1).
    """
    (anchor_low, anchor_high), (low, high) = anchors.split(2, dim=-1), truths.split(2, dim=-1)
    overlap = torch.minimum(anchor_high, high) - torch.maximum(anchor_low, low)
    spread = beta * (overlap if sigma == "overlap" else high - low)
    offset = (anchor_low + anchor_high - low - high) / 2
    gaussian = (offset / spread).square().sum(-1)
    log = (1 - alpha) * iou(anchors, truths).log()
    if alpha > 0:
        log = log - alpha / 2 * gaussian
    return torch.where((overlap > 0).all(-1), log, -math.inf)


def ggiou(anchors: Tensor, truths: Tensor, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap") -> Tensor:
    """Return IoU^(1 - alpha) Dc^alpha in [0, 1], without gradient: (..., 4), (..., 4) -> (...) (GGIoU Eq. 4)."""
    if alpha == 0:
        return iou(anchors, truths).detach()
    return log_ggiou(anchors, truths, alpha, beta, sigma).exp()
