"""The losses of torchvision's detectors, over any matching: RetinaNet's and SSD's."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from alignyolo.anchors import DenseAnchors
from alignyolo.assign.assignment import Assigner, Assignment, Context, Predictions
from alignyolo.balance import Balance
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets


class BoxCoder(Protocol):
    """torchvision's BoxCoder: boxes as numbers relative to anchors, and back."""

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """Turn boxes (N, 4) xyxy into codes (N, 4) relative to anchors (N, 4)."""
        ...

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Turn codes (N, 4) relative to anchors (N, 4) into boxes (N, 4) xyxy."""
        ...


class DenseOutput(NamedTuple):
    """What a network says of every anchor: box codes (B, A, 4), class logits (B, A, K), and the anchors."""

    codes: Tensor
    logits: Tensor
    anchors: DenseAnchors


@dataclass(frozen=True)
class BoxTerm:
    """The box loss of single predictions: 1 - similarity of decoded boxes, or `l1` or `smooth_l1` of their codes.

    `weight` gives GGIoU-balanced weights of (boxes, truths), or 1. What a similarity may ask for besides two boxes is
    `around`, as alignyolo/similarities/bound.py says.
    """

    coder: BoxCoder
    similarity: Callable[..., Tensor] | None = None
    encoded: str = "l1"
    beta: float = 1 / 9
    weight: Callable[..., Tensor | float] = field(default_factory=Balance)

    def __call__(self, codes: Tensor, anchors: Tensor, truths: Tensor, **around: Any) -> tuple[Tensor, Tensor]:
        """Compute unweighted losses (P,) and boxes (P, 4) of codes (P, 4) of anchors (P, 4) with truths (P, 4)."""
        boxes = self.coder.decode_single(codes, anchors)
        if self.similarity is not None:
            return 1 - self.similarity(boxes, truths, **around), boxes
        wanted = self.coder.encode_single(truths, anchors)
        if self.encoded == "l1":
            return (codes - wanted).abs().sum(-1), boxes
        return functional.smooth_l1_loss(codes, wanted, reduction="none", beta=self.beta).sum(-1), boxes


@dataclass(frozen=True)
class DenseLoss(ABC):
    """Box and class losses over the positives of a matching; a subclass says how they are averaged and classified.

    `scores` turns class logits into probabilities. `observe` gets (assignment, targets, ious (P,), 1 - losses (P,)),
    all detached. Over `ranks` processes, whose gradients are averaged, `over_ranks` sums a tensor.
    """

    box: BoxTerm
    assigner: Assigner
    scores: Callable[[Tensor], Tensor] = torch.sigmoid
    box_gain: float = 1.0
    cls_gain: float = 1.0
    observe: Callable[[Assignment, Targets, Tensor, Tensor], None] | None = None
    ranks: int = 1
    over_ranks: Callable[[Tensor], Tensor] = lambda values: values

    def __call__(self, output: DenseOutput, targets: Targets) -> dict[str, Tensor]:
        """Turn the network's output and the truths of the batch into scalar losses {box, class}, in full precision."""
        with torch.autocast(output.codes.device.type, enabled=False):
            widened = (output.codes, output.logits, output.anchors.boxes)
            codes, logits, anchors = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in widened)
            return self.forward(codes, logits, output.anchors._replace(boxes=anchors), targets)

    def forward(self, codes: Tensor, logits: Tensor, anchors: DenseAnchors, targets: Targets) -> dict[str, Tensor]:
        """Match, compare the positives with their truths, classify all anchors."""
        assignment = self.assigner(Context(anchors, targets, len(codes), self.predictions(codes, logits, anchors)))
        truths = targets.boxes[assignment.target].to(codes.dtype)
        around = {
            "image_size": anchors.image_size,
            "over_ranks": self.over_ranks,
            "training": torch.is_grad_enabled(),
        }
        chosen = codes[assignment.image, assignment.anchor]
        value, boxes = self.box(chosen, anchors.boxes[assignment.anchor], truths, **around)
        boxes = boxes.detach()

        box = (self.box.weight(boxes, truths, **around) * value / self.divisor(assignment)[assignment.image]).sum()
        classes = self.class_loss(logits, assignment, targets.labels[assignment.target])
        if self.observe is not None:
            self.observe(assignment, targets, iou(boxes, truths), 1 - value.detach())
        return {"box": box * self.box_gain, "class": classes * self.cls_gain}

    def predictions(self, codes: Tensor, logits: Tensor, anchors: DenseAnchors) -> Predictions | None:
        """Decode the output for an assigner that looks at predictions; None for the others."""
        if not self.assigner.needs_predictions:
            return None
        repeated = anchors.boxes.repeat(len(codes), 1)
        boxes = self.box.coder.decode_single(codes.detach().flatten(0, 1), repeated).view_as(codes)
        return Predictions(boxes, self.scores(logits.detach()))

    @abstractmethod
    def divisor(self, assignment: Assignment) -> Tensor:
        """Return what the losses of every image are divided by (B,)."""

    @abstractmethod
    def class_loss(self, logits: Tensor, assignment: Assignment, labels: Tensor) -> Tensor:
        """Compute the class loss of logits (B, A, K) with the labels (P,) of the positives."""


@dataclass(frozen=True)
class RetinaNetLoss(DenseLoss):
    """Means over each image's positives, then over the images; sigmoid focal loss over all but the ignored anchors."""

    focal_alpha: float = 0.25
    focal_gamma: float = 2.0

    def divisor(self, assignment: Assignment) -> Tensor:
        """Return the positives of every image times the images (B,)."""
        positives = torch.bincount(assignment.image, minlength=len(assignment.ignored))
        return positives.clamp(min=1) * len(positives)

    def class_loss(self, logits: Tensor, assignment: Assignment, labels: Tensor) -> Tensor:
        """Compute the focal loss (Lin et al. 2017, Eq. 5)."""
        target = torch.zeros_like(logits)
        target[assignment.image, assignment.anchor, labels] = 1
        loss = sigmoid_focal_loss(logits, target, self.focal_alpha, self.focal_gamma).sum(-1)
        per_image = loss.masked_fill(assignment.ignored, 0).sum(1)
        return (per_image / self.divisor(assignment)).sum()


@dataclass(frozen=True)
class SSDLoss(DenseLoss):
    """Means over the batch's positives; softmax over background and classes, with the hardest negatives alone."""

    negatives_per_positive: float = 3.0

    def divisor(self, assignment: Assignment) -> Tensor:
        """Return the positives of the batch, of which every rank has its part, for every image (B,)."""
        positives = self.over_ranks(torch.tensor(float(len(assignment.image)), device=assignment.image.device))
        return (positives.clamp(min=1) / self.ranks).expand(len(assignment.ignored))

    def class_loss(self, logits: Tensor, assignment: Assignment, labels: Tensor) -> Tensor:
        """Compute the cross entropy of positives and, per image, of three times as many negatives (Liu et al. 2016)."""
        target = torch.zeros(logits.shape[:2], dtype=torch.long, device=logits.device)
        target[assignment.image, assignment.anchor] = labels + 1  # 0 is the background
        loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
        positive = target > 0
        negative = ~positive & ~assignment.ignored
        hardest = loss.masked_fill(~negative, -torch.inf).argsort(1, descending=True).argsort(1)
        wanted = self.negatives_per_positive * positive.sum(1, keepdim=True)
        counted = loss * (positive | (negative & (hardest < wanted)))
        return (counted.sum(1) / self.divisor(assignment)).sum()
