"""Bounded IoU: the best IoU that each coordinate alone allows (Tychsen-Smith and Petersson 2018, arXiv 1711.00164)."""

import torch
from torch import Tensor

from alignyolo.similarities.geometry import full_precision
from alignyolo.similarities.pair import Pair

PIXEL = 1e-3  # mmdetection's epsilon in pixels, with which results were published


@full_precision
def bounded_iou(pred: Tensor, target: Tensor, beta: float = 0.2) -> Tensor:
    """Return 1 less the four coordinates' Huber losses of 1 - their bound, in [1 - 4 (1 - beta / 2), 1].

    The bounds are max(0, (W - 2 |dx|) / (W + 2 |dx|)) and min(w / W, W / w), and their like for y and h. Without
    gradient in x where the centre is W / 2 away. mmdetection returns the four terms; the loss is their sum.
    """
    pair = Pair(pred, target)
    twice, sides, wanted = 2 * pair.offset.abs(), pair.sides, pair.wanted
    centers = ((wanted - twice) / (wanted + twice + PIXEL)).clamp(min=0)
    shapes = torch.minimum(sides / (wanted + PIXEL), wanted / (sides + PIXEL))
    short = 1 - torch.cat([centers, shapes], dim=-1)
    return 1 - torch.where(short < beta, short.square() / (2 * beta), short - beta / 2).sum(-1)
