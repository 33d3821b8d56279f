"""What an assigner is asked, and what it answers."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from alignyolo.anchors import Anchors, DenseAnchors
from alignyolo.assign.pairs import Pairs
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets, sent


class LogitScores:
    """Class probabilities (B, A, C) of logits, computed where they are looked at alone: `scores[image, anchor]`.

    An assigner asks for a few hundred of the tens of thousands of anchors.
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def __getitem__(self, index: tuple[Tensor, ...]) -> Tensor:
        return self.logits[index].sigmoid()


class Predictions(NamedTuple):
    """What the network says of every anchor, without gradient: boxes (B, A, 4) xyxy pixels of the network input.

    `scores` (B, A, C) are class probabilities; `objectness` (B, A) is a probability, None where a detector has none.
    """

    boxes: Tensor
    scores: Tensor | LogitScores
    objectness: Tensor | None = None


class Context(NamedTuple):
    """A batch to assign: its anchors, its truths, and the predictions for an assigner that says it needs them."""

    anchors: Anchors | DenseAnchors
    targets: Targets
    batch_size: int
    predictions: Predictions | None = None


class Assignment(NamedTuple):
    """Positive pairs as indices anchor, image, target (P,) with their metric (P,); ignored (B, A); unmatched (T,).

    `served` (T,) marks the truths that a rule had left without an anchor and that were given one (the setting `serve`);
    None where the rule serves none.
    """

    anchor: Tensor
    image: Tensor
    target: Tensor
    metric: Tensor
    ignored: Tensor
    unmatched: Tensor
    served: Tensor | None = None

    def to(self, device: torch.device | str) -> "Assignment":
        """Copy the assignment to `device` without blocking."""
        return Assignment._make(None if part is None else sent(part, device) for part in self)


class Assigner(Protocol):
    """A choice of which anchors answer for which truths.

    One that reads `context.predictions` sets `needs_predictions`; the others are called before the network is done.
    """

    @property
    def needs_predictions(self) -> bool:
        """Return whether the assigner reads `context.predictions`."""
        ...

    def __call__(self, context: Context) -> Assignment:
        """Assign the truths of a batch."""
        ...


def predictions_of(context: Context, assigner: str) -> Predictions:
    """Return the predictions that an assigner needs; TypeError that names it where there are none."""
    if context.predictions is None:
        raise TypeError(f"{assigner} needs predictions: Context(..., predictions)")
    return context.predictions


def grid_of(context: Context) -> Anchors:
    """Return the anchors of a YOLO head; TypeError for anchors that lie on no grid."""
    if not isinstance(context.anchors, Anchors):
        raise TypeError("expected the anchors of a YOLO head (alignyolo.build_anchors), which lie on a grid")
    return context.anchors


def strides_of(anchors: Anchors | DenseAnchors) -> tuple[float, ...]:
    """Return every level's stride in pixels, none where dense anchors do not say theirs."""
    if isinstance(anchors, Anchors):
        return tuple(float(level.stride) for level in anchors.levels)
    return anchors.level_strides


def assignment_of(
    context: Context,
    pairs: Pairs,
    ignored: Tensor | None = None,
    metric: Tensor | None = None,
    before: Pairs | None = None,
) -> Assignment:
    """Complete positive pairs of truth and anchor to an Assignment.

    `ignored` (B, A) marks the anchors that are left out unless they are positive, none by default; `metric` (P,) is
    the plain IoU by default; `before` are the pairs of the rule, where truths without any were
    served.
    """
    targets = context.targets
    image = targets.image[pairs.truth]
    if metric is None:
        metric = iou(context.anchors.boxes[pairs.anchor], targets.boxes[pairs.truth])
    if ignored is None:
        count = sum(context.anchors.counts)
        ignored = torch.zeros(context.batch_size, count, dtype=torch.bool, device=image.device)
    else:
        ignored[image, pairs.anchor] = False
    unmatched = without_anchor(context, pairs)
    served = None if before is None else without_anchor(context, before) & ~unmatched
    return Assignment(pairs.anchor, image, pairs.truth, metric, ignored, unmatched, served)


def without_anchor(context: Context, pairs: Pairs) -> Tensor:
    """Return a mask (T,) of the truths that are in none of the pairs."""
    missing = torch.ones(len(context.targets.boxes), dtype=torch.bool, device=context.targets.boxes.device)
    missing[pairs.truth] = False
    return missing


def marked(context: Context, pairs: Pairs) -> Tensor:
    """Return a mask (B, A) that is true at the anchors of the given pairs."""
    count = sum(context.anchors.counts)
    mask = torch.zeros(context.batch_size, count, dtype=torch.bool, device=context.targets.boxes.device)
    mask[context.targets.image[pairs.truth], pairs.anchor] = True
    return mask
