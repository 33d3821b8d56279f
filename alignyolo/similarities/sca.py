"""Side overlap and corner distance (SCALoss): pure functions of xyxy boxes, 1 for identical boxes.

Shapes: pred (..., 4), target (..., 4) -> (...), broadcasting, so that (T, 1, 4) x (A, 4) gives the (T, A) matrix.
Boxes are in pixels. Every function computes in float32 or wider with autocast off, and has a finite value and gradient
on any pair of float32, float64 or bfloat16 with coordinates up to 1e9; areas of sides such as 1e20 overflow. float16
holds nothing above 65504, where gradients of boxes of nearly no size overflow.
"""

from torch import Tensor

from alignyolo.choices import require_choice
from alignyolo.similarities.geometry import EPSILON, full_precision, spans
from alignyolo.similarities.iou import iou


def side_overlap(pred: Tensor, target: Tensor) -> Tensor:
    """Return SO of SCALoss Eq. 1: w_min / w_max + h_min / h_max with signed minima, in (-2, 2]."""
    overlap, enclosing = spans(pred, target)
    return ((overlap + EPSILON) / (enclosing + EPSILON)).sum(-1)


def corner_distance(pred: Tensor, target: Tensor, corner: str) -> Tensor:
    """Return CD of SCALoss Eq. 3 in [0, 2), or its squared form, with which the paper's Figure 1 was drawn."""
    _, enclosing = spans(pred, target)
    diagonal = enclosing.square().sum(-1)
    distances = (pred - target).square().unflatten(-1, (2, 2)).sum(-1)
    if corner == "squared":
        return distances.sum(-1) / (diagonal + EPSILON)
    require_choice("corner", corner, ("euclidean", "squared"))
    # The epsilon under the root keeps the gradient finite, and zero, where the corners meet.
    return ((distances + EPSILON**2).sqrt() - EPSILON).sum(-1) / (diagonal + EPSILON).sqrt()


@full_precision
def sca(pred: Tensor, target: Tensor, alpha: float = 0.5, corner: str = "euclidean") -> Tensor:
    """Return side overlap and corner distance, SO - alpha CD - 1 (SCALoss Eq. 4).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.
        alpha: Weight of the corner distance.
        corner: `euclidean`, or `squared` distances as in the paper's Figure 1.

    Returns:
        Similarities (...) in (-3 - 2 alpha, 1].

    Raises:
        ValueError: `corner` is neither of the two.
    """
    return side_overlap(pred, target) - alpha * corner_distance(pred, target, corner) - 1


@full_precision
def so(pred: Tensor, target: Tensor) -> Tensor:
    """Return the side overlap alone, SO - 1 (SCALoss Eq. 1, Table 6 f).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.

    Returns:
        Similarities (...) in (-3, 1].
    """
    return side_overlap(pred, target) - 1


@full_precision
def cd(pred: Tensor, target: Tensor, corner: str = "euclidean") -> Tensor:
    """Return the corner distance alone, 1 - CD (SCALoss Eq. 3, Table 6 b).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.
        corner: `euclidean`, or `squared` distances as in the paper's Figure 1.

    Returns:
        Similarities (...) in (-1, 1].

    Raises:
        ValueError: `corner` is neither of the two.
    """
    return 1 - corner_distance(pred, target, corner)


@full_precision
def iou_cd(pred: Tensor, target: Tensor, alpha: float = 0.5, corner: str = "euclidean") -> Tensor:
    """Return IoU - alpha CD (SCALoss Table 6 e).

    Args:
        pred: Predicted boxes, xyxy (..., 4).
        target: Their objects' boxes, xyxy (..., 4); the leading dimensions broadcast.
        alpha: As of `sca`.
        corner: As of `sca`.

    Returns:
        Similarities (...) in (-2 alpha, 1].

    Raises:
        ValueError: `corner` is neither of the two.
    """
    return iou(pred, target) - alpha * corner_distance(pred, target, corner)
