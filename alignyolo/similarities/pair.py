"""A predicted and a true box with all that similarities compare of them, each term computed once.

The gradients of the terms are written out here: through autograd their dozens of small operations cost twice as
much, and every similarity has them. `iou`, `giou`, `diou`, `ciou` and the SCA family keep autograd's, whose rounding
old runs were trained with.
"""

from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignyolo.derivatives import first_derivatives_only
from alignyolo.similarities.geometry import EPSILON, prepared


class Pair:
    """Boxes pred (..., 4) and target (..., 4), in full precision, and their terms (...) or (..., 2).

    - `iou`: intersection over union, in [0, 1];
    - `enclosing`: width and height of the enclosing box;
    - `sides`, `wanted`: width and height of the prediction, and of the truth;
    - `twice_offset`: twice the difference of the centres, x and y, in pixels; exactly 0 for identical boxes.
    """

    def __init__(self, pred: Tensor, target: Tensor) -> None:
        self.pred, self.target = pred, target
        self.iou, self.enclosing, self.twice_offset, self.sides, self.wanted = _Terms.apply(pred, target)

    @cached_property
    def offset(self) -> Tensor:
        """Difference of the centres (..., 2), x and y, in pixels."""
        return self.twice_offset / 2

    @cached_property
    def less_side_difference(self) -> Tensor:
        """-|w - W| / max(w, W), which is min / max - 1, and its like for the height, in (-1, 0]: (..., 2)."""
        # Through logarithms: the gradients of a minimum and a maximum take longer.
        ratio = (_at_least_0(self.sides) + EPSILON) / (_at_least_0(self.wanted) + EPSILON)
        return (-ratio.log().abs()).expm1()

    @cached_property
    def squared_diagonal(self) -> Tensor:
        """Squared diagonal of the enclosing box (...)."""
        return self.enclosing.square().sum(-1)

    @cached_property
    def center_distance(self) -> Tensor:
        """Squared distance of the centres over the squared diagonal of the enclosing box, in [0, 1): (...)."""
        return self.twice_offset.square().sum(-1) / (4 * (self.squared_diagonal + EPSILON))


def inner_iou(pred: Tensor, target: Tensor, ratio: float) -> Tensor:
    """Return the IoU of boxes (..., 4) scaled by `ratio` about their own centres, in [0, 1]: (...)."""
    return _WeightedIoUs.apply(*prepared(pred, target), (ratio,), (1.0,))


def inner_iou_excess(pred: Tensor, target: Tensor, ratio: float) -> Tensor:
    """Return `inner_iou` less the IoU of the boxes as they are, at little more than the price of one: (...)."""
    return _WeightedIoUs.apply(*prepared(pred, target), (ratio, 1.0), (1.0, -1.0))


class Corners(NamedTuple):
    """Corners (R, 2, 2, 2, ...) of two boxes, -low and high by x and y, and the sides (R, 2, 2, ...) between them.

    The overlap's corners are then the smaller ones of both boxes, the enclosing box's the larger ones, and their sides
    the sums. Every operation runs over numbers that lie side by side. R are copies of the boxes, scaled.
    """

    corners: Tensor
    sides: Tensor

    @staticmethod
    def of(pred: Tensor, target: Tensor, insets: Tensor | None = None) -> "Corners":
        """Split boxes (..., 4), each corner moved inwards by a share `insets` (R, ...) of the sides."""
        if pred.shape != target.shape:
            pred, target = torch.broadcast_tensors(pred, target)
        boxes = torch.stack((pred.movedim(-1, 0), target.movedim(-1, 0)))
        corners = boxes.mul_(_signs(pred.dim(), pred.dtype, pred.device)).unflatten(1, (2, 2))[None]
        if insets is None:
            return Corners(corners, corners.sum(2))
        # The sides of the corners as they are rounded: identical boxes have exactly their area in common.
        corners = corners - insets * corners.sum(2, keepdim=True)
        return Corners(corners, corners.sum(2))


class Overlap(NamedTuple):
    """Signed sides (R, 2, ...) of the overlap of two boxes, their union + 1e-7 (R, ...) and their IoU (R, ...)."""

    sides: Tensor
    union: Tensor
    iou: Tensor

    @staticmethod
    def of(boxes: Corners) -> "Overlap":
        """Measure the overlap."""
        sides = boxes.corners.amin(1).sum(1)
        intersection = sides.clamp(min=0).prod(1)
        union = boxes.sides.prod(2).sum(1).sub_(intersection).add_(EPSILON)
        return Overlap(sides, union, intersection.div_(union))

    def slopes(self, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Turn the gradient (R, ...) of IoU into half of that by the sides (R, 2, ...), and that by -area (R, ...)."""
        by_intersection = slope / self.union
        by_area = by_intersection * self.iou
        by_sides = by_intersection.add_(by_area).div_(2)[:, None] * self.sides.clamp(min=0).flip(1)
        return torch.ops.aten.threshold_backward(by_sides, self.sides, 0), by_area


class _Terms(torch.autograd.Function):
    """IoU, enclosing sides, twice the offset, predicted and true sides of boxes (..., 4); no second derivatives."""

    @staticmethod
    def forward(context: Any, pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the terms (...), (..., 2), (..., 2), (..., 2), (..., 2)."""
        context.set_materialize_grads(False)
        context.shapes = pred.shape, target.shape
        boxes = Corners.of(pred, target)
        overlap = Overlap.of(boxes)
        (first, second), (sides, wanted) = boxes.corners[0], boxes.sides[0].movedim(1, -1)
        enclosing = torch.maximum(first, second).sum(0)
        # Of differences, so that identical boxes have exactly 0.
        low, high = first - second
        context.save_for_backward(*boxes, *overlap)
        return overlap.iou[0], enclosing.movedim(0, -1), (high - low).movedim(0, -1), sides, wanted

    @staticmethod
    @first_derivatives_only
    def backward(context: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of both boxes; of equal corners each has half."""
        boxes, overlap = Corners(*context.saved_tensors[:2]), Overlap(*context.saved_tensors[2:])
        by_iou = None if slopes[0] is None else overlap.slopes(slopes[0][None])
        by_enclosing, by_offset, *by_lengths = (None if each is None else each.movedim(-1, 0) for each in slopes[1:])
        nearer = _nearer(boxes)[0]
        found: list[Tensor | None] = [None, None]
        for number, (sign, by_length) in enumerate(zip((1, -1), by_lengths, strict=True)):
            if not context.needs_input_grad[number]:
                continue
            slope = torch.zeros_like(nearer)
            if by_length is not None:
                slope += by_length
            if by_iou is not None:
                slope += torch.addcmul(by_iou[0], by_iou[0], nearer, value=sign)
                slope -= by_iou[1] * boxes.sides[0, number].flip(0)
            if by_enclosing is not None:
                slope += torch.addcmul(by_enclosing, by_enclosing, nearer, value=-sign).div_(2)
            if by_offset is not None:
                slope[1].add_(by_offset, alpha=sign)
                slope[0].sub_(by_offset, alpha=sign)
            found[number] = _of_boxes(slope, context.shapes[number])
        return tuple(found)


class _WeightedIoUs(torch.autograd.Function):
    """Weighted sum of the IoUs of boxes scaled about their own centres by R ratios; no second derivatives."""

    @staticmethod
    def forward(
        context: Any, pred: Tensor, target: Tensor, ratios: tuple[float, ...], weights: tuple[float, ...]
    ) -> Tensor:
        """Return the sum (...) of boxes (..., 4)."""
        context.shapes = pred.shape, target.shape
        dims = max(pred.dim(), target.dim())
        context.columns = insets, column = _columns(ratios, weights, dims, pred.dtype, pred.device)
        boxes = Corners.of(pred, target, insets)
        overlap = Overlap.of(boxes)
        context.save_for_backward(*boxes, *overlap)
        return (column * overlap.iou).sum(0)

    @staticmethod
    @first_derivatives_only
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both boxes; of equal corners each has half."""
        boxes, overlap = Corners(*context.saved_tensors[:2]), Overlap(*context.saved_tensors[2:])
        insets, column = context.columns
        by_sides, by_area = overlap.slopes(column * slopes[0])
        nearer = _nearer(boxes)
        found: list[Tensor | None] = [None, None]
        by_sides = by_sides[:, None]
        for number, sign in ((0, 1), (1, -1)):
            if not context.needs_input_grad[number]:
                continue
            slope = torch.addcmul(by_sides, by_sides, nearer, value=sign)
            slope -= (by_area[:, None] * boxes.sides[:, number].flip(1))[:, None]
            if insets is not None:
                # Scaled corners move with both: high' = high - inset (high - low).
                slope -= insets.squeeze(1) * slope.sum(1, keepdim=True)
            found[number] = _of_boxes(slope.sum(0), context.shapes[number])
        return *found, None, None


def _at_least_0(sides: Tensor) -> Tensor:
    """Count the negative sides of a box whose corners have crossed as 0, with the gradient that 0 has."""
    return sides - sides.detach().clamp(max=0)


def _of_boxes(slope: Tensor, shape: torch.Size) -> Tensor:
    """Turn the gradient (2, 2, ...) of -low and high into that of boxes (..., 4), which were broadcast from a shape."""
    boxes = slope.flatten(0, 1) * _signs(slope.dim() - 1, slope.dtype, slope.device)
    return boxes.movedim(0, -1).sum_to_size(shape)


def _nearer(boxes: Corners) -> Tensor:
    """Return (R, 2, 2, ...) 1 where the smaller corner is the first box's, -1 where the second's, 0 for equals."""
    first, second = boxes.corners.unbind(1)
    return torch.sub(second, first).sign_()


@lru_cache
def _signs(dims: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return what turns coordinates (4, ...) into -low and high. Made once, since a GPU would wait for every copy."""
    return torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=dtype, device=device).view(4, *[1] * (dims - 1))


@lru_cache
def _columns(
    ratios: tuple[float, ...], weights: tuple[float, ...], dims: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, Tensor]:
    """Return insets (R, 1, 1, 1, ...), None for boxes as they are, and weights (R, ...) for so many dimensions.

    Made once, like the signs.
    """
    column = torch.tensor(weights, dtype=dtype, device=device).view(-1, *[1] * (dims - 1))
    if all(ratio == 1 for ratio in ratios):
        return None, column
    insets = torch.tensor([(1 - ratio) / 2 for ratio in ratios], dtype=dtype, device=device)
    return insets.view(-1, *[1] * (dims + 2)), column
