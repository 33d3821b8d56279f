"""Box similarities: pure functions of xyxy boxes, 1 for identical boxes; the box loss is `1 - similarity`.

Shapes: pred (..., 4), target (..., 4) -> (...), broadcasting, so that (T, 1, 4) x (A, 4) gives the (T, A) matrix.
Every function computes in float32 or wider with autocast off, and has a finite value and gradient on any finite pair.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

EPSILON = 1e-7


def full_precision(function: Callable) -> Callable:
    """Runs a function of two box tensors in float32 or wider, whatever autocast says: areas overflow in float16."""

    @functools.wraps(function)
    def wrapper(pred: Tensor, target: Tensor, *args, **kwargs) -> Tensor:
        dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        with torch.autocast(pred.device.type, enabled=False):
            return function(pred.to(dtype), target.to(dtype), *args, **kwargs)

    return wrapper


def _spans(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Signed width and height of the overlap, and of the enclosing box: (..., 2), (..., 2)."""
    pred_low, pred_high = pred.split(2, dim=-1)
    target_low, target_high = target.split(2, dim=-1)
    overlap = torch.minimum(pred_high, target_high) - torch.maximum(pred_low, target_low)
    enclosing = torch.maximum(pred_high, target_high) - torch.minimum(pred_low, target_low)
    return overlap, enclosing


def _size(boxes: Tensor) -> Tensor:
    """Width and height (..., 2)."""
    low, high = boxes.split(2, dim=-1)
    return high - low


def _area(extent: Tensor) -> Tensor:
    """Product of the last axis (..., 2) -> (...)."""
    width, height = extent.unbind(-1)
    return width * height


def _intersection_and_union(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Areas of the intersection and of the union: (...), (...)."""
    overlap, _ = _spans(pred, target)
    intersection = _area(overlap.clamp(min=0))
    return intersection, _area(_size(pred)) + _area(_size(target)) - intersection


@full_precision
def iou(pred: Tensor, target: Tensor) -> Tensor:
    """Intersection over union, in [0, 1]."""
    intersection, union = _intersection_and_union(pred, target)
    return intersection / (union + EPSILON)


@full_precision
def giou(pred: Tensor, target: Tensor) -> Tensor:
    """Generalized IoU, in [-1, 1] (Rezatofighi et al. 2019)."""
    intersection, union = _intersection_and_union(pred, target)
    _, enclosing = _spans(pred, target)
    enclosing_area = _area(enclosing)
    # Never negative but by rounding; the clamp also keeps the gradient of boxes without area from exploding.
    empty = (enclosing_area - union).clamp(min=0)
    return intersection / (union + EPSILON) - empty / (enclosing_area + EPSILON)


def _center_distance(pred: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the enclosing box, in [0, 1)."""
    _, enclosing = _spans(pred, target)
    pred_low, pred_high = pred.split(2, dim=-1)
    target_low, target_high = target.split(2, dim=-1)
    offset = (pred_low + pred_high - target_low - target_high) / 2
    return offset.square().sum(-1) / (enclosing.square().sum(-1) + EPSILON)


@full_precision
def diou(pred: Tensor, target: Tensor) -> Tensor:
    """Distance IoU, in (-1, 1] (Zheng et al. 2020)."""
    return iou(pred, target) - _center_distance(pred, target)


@full_precision
def ciou(pred: Tensor, target: Tensor) -> Tensor:
    """Complete IoU, in (-2, 1], its trade-off weight detached (Zheng et al. 2020)."""
    overlap = iou(pred, target)
    # A side of zero has no angle: the clamp gives it one, and no gradient.
    (pred_width, pred_height), (width, height) = (
        _size(boxes).clamp(min=EPSILON).unbind(-1) for boxes in (pred, target)
    )
    angle = torch.atan(width / height) - torch.atan(pred_width / pred_height)
    aspect = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = aspect / (1 - overlap + aspect + EPSILON)
    return overlap - _center_distance(pred, target) - weight * aspect


def _side_overlap(pred: Tensor, target: Tensor) -> Tensor:
    """SO of SCALoss Eq. 1: w_min / w_max + h_min / h_max with signed minima, in (-2, 2]."""
    overlap, enclosing = _spans(pred, target)
    return ((overlap + EPSILON) / (enclosing + EPSILON)).sum(-1)


def _corner_distance(pred: Tensor, target: Tensor, corner: str) -> Tensor:
    """CD of SCALoss Eq. 3 in [0, 2), or its squared form, with which the paper's Figure 1 was drawn."""
    _, enclosing = _spans(pred, target)
    diagonal = enclosing.square().sum(-1)
    distances = (pred - target).square().unflatten(-1, (2, 2)).sum(-1)
    if corner == "squared":
        return distances.sum(-1) / (diagonal + EPSILON)
    if corner != "euclidean":
        raise ValueError(f"corner must be 'euclidean' or 'squared', not {corner!r}")
    # The epsilon under the root keeps the gradient finite, and zero, where the corners meet.
    return ((distances + EPSILON**2).sqrt() - EPSILON).sum(-1) / (diagonal + EPSILON).sqrt()


@full_precision
def sca(pred: Tensor, target: Tensor, alpha: float = 0.5, corner: str = "euclidean") -> Tensor:
    """Side overlap and corner distance, SO - alpha CD - 1, in (-3 - 2 alpha, 1] (SCALoss Eq. 4, alpha .5)."""
    return _side_overlap(pred, target) - alpha * _corner_distance(pred, target, corner) - 1


@full_precision
def so(pred: Tensor, target: Tensor) -> Tensor:
    """Side overlap alone, SO - 1, in (-3, 1] (SCALoss Eq. 1, Table 6 f)."""
    return _side_overlap(pred, target) - 1


@full_precision
def cd(pred: Tensor, target: Tensor, corner: str = "euclidean") -> Tensor:
    """Corner distance alone, 1 - CD, in (-1, 1] (SCALoss Eq. 3, Table 6 b)."""
    return 1 - _corner_distance(pred, target, corner)


@full_precision
def center(pred: Tensor, target: Tensor) -> Tensor:
    """DIoU's centre term alone, in (0, 1] (SCALoss Table 6 a)."""
    return 1 - _center_distance(pred, target)


@full_precision
def iou_cd(pred: Tensor, target: Tensor, alpha: float = 0.5, corner: str = "euclidean") -> Tensor:
    """IoU - alpha CD, in (-2 alpha, 1] (SCALoss Table 6 e)."""
    return iou(pred, target) - alpha * _corner_distance(pred, target, corner)


BOX_SIMILARITIES: dict[str, Callable[..., Tensor]] = {
    "iou": iou,
    "giou": giou,
    "diou": diou,
    "ciou": ciou,
    "sca": sca,
    "so": so,
    "cd": cd,
    "center": center,
    "iou_cd": iou_cd,
}
