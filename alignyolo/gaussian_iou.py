"""GGIoU, a metric of anchors and truths that favours anchors centred on their truth (Gaussian Guided IoU)."""

import math

import torch
from torch import Tensor

from alignyolo.choices import require_choice
from alignyolo.similarities.geometry import full_precision
from alignyolo.similarities.iou import iou

SIGMAS = ("overlap", "truth")
"""Whose sides the width of the Gaussian is a part of."""


@torch.no_grad()
@full_precision
def log_ggiou(
    anchors: Tensor, truths: Tensor, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap"
) -> Tensor:
    """Return the logarithm of GGIoU, without gradient (GGIoU Eq. 2 to 4).

    Args:
        anchors: Boxes, xyxy (..., 4).
        truths: Objects' boxes, xyxy (..., 4); the leading dimensions broadcast.
        alpha: Share of the Gaussian of the centres' distance, 0 (IoU) to 1.
        beta: Width of the Gaussian, as a part of the sides that `sigma` names.
        sigma: `overlap` for the sides of the overlap, `truth` for those of the truth (GGIoU Table 1).

    Returns:
        Logarithms (...), at most 0; -inf without overlap.

    Raises:
        ValueError: `sigma` is neither of the two.
    """
    require_choice("sigma", sigma, SIGMAS)
    (anchor_low, anchor_high), (low, high) = anchors.split(2, dim=-1), truths.split(2, dim=-1)
    overlap = torch.minimum(anchor_high, high) - torch.maximum(anchor_low, low)
    spread = beta * (overlap if sigma == "overlap" else high - low)
    offset = (anchor_low + anchor_high - low - high) / 2
    gaussian = (offset / spread).square().sum(-1)
    log = torch.zeros_like(gaussian)
    if alpha != 1:  # 0 times the -inf of boxes whose area is rounded to 0 would be NaN
        log = (1 - alpha) * iou(anchors, truths).log()
    if alpha > 0:
        log = log - alpha / 2 * gaussian
    return torch.where((overlap > 0).all(-1), log, -math.inf)


def ggiou(anchors: Tensor, truths: Tensor, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap") -> Tensor:
    """Return GGIoU, IoU^(1 - alpha) Dc^alpha, without gradient (GGIoU Eq. 4).

    Args:
        anchors: Boxes, xyxy (..., 4).
        truths: Objects' boxes, xyxy (..., 4); the leading dimensions broadcast.
        alpha: Share of Dc, the Gaussian of the centres' distance; 0 gives IoU.
        beta: Width of the Gaussian, as a part of the sides that `sigma` names.
        sigma: `overlap` or `truth`, as for `log_ggiou`.

    Returns:
        Metrics (...) in [0, 1]; 0 without overlap.

    Raises:
        ValueError: `sigma` is neither of the two.
    """
    require_choice("sigma", sigma, SIGMAS)
    if alpha == 0:
        return iou(anchors, truths).detach()
    return log_ggiou(anchors, truths, alpha, beta, sigma).exp()
