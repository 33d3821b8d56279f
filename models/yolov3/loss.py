"""The detection loss: box, objectness and class terms over an assignment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from alignyolo.anchors import Anchors, decode, take
from alignyolo.assign.threshold import Assignment
from alignyolo.balance import balanced_weight
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets, occurrences

FOCAL_ALPHA = 0.25


class Gather(torch.autograd.Function):
    """raw (B, A, 5 + C), image (P,), anchor (P,) -> raw[image, anchor] (P, 5 + C) and the objectness logits (B, A).

    As two indexing operations, the backward pass would fill and add two gradients of raw's size, nearly all zeros: more
    than half of the time of the whole loss on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, image: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts."""
        ctx.save_for_backward(image, anchor)
        ctx.shape = raw.shape
        return raw[image, anchor], raw[..., 4].clone()

    @staticmethod
    def backward(ctx: Any, of_positives: Tensor, of_logits: Tensor) -> tuple[Tensor, None, None]:
        """One gradient for both; where truths share an anchor theirs add up."""
        gradient = of_logits.new_zeros(ctx.shape)
        gradient[..., 4] = of_logits
        # As torch's own indexing does it: index_put_ would read the indices back from a GPU to check them.
        torch._index_put_impl_(gradient, ctx.saved_tensors, of_positives, accumulate=True, unsafe=True)
        return gradient, None, None


@dataclass(frozen=True)
class DetectionLoss:
    """Weighted box, objectness and class losses; every setting is a plain value (DESIGN 2.4).

    Each level averages over its own positives (box, class) or anchors (objectness), and the levels are summed,
    as in ultralytics/yolov3. `observe` gets (assignment, targets, ious (P,), similarities (P,)), all detached.
    With `ranks` processes, whose gradients are averaged, `over_ranks` sums a tensor over them, so that the means are
    those of all ranks' batches together.
    """

    similarity: Callable[[Tensor, Tensor], Tensor]
    assigner: Callable[[Anchors, Targets, int], Assignment]
    num_classes: int
    box_gain: float
    obj_gain: float
    cls_gain: float
    level_balance: Sequence[float]
    obj_target: str = "iou"
    cls_pw: float = 1.0
    obj_pw: float = 1.0
    label_smoothing: float = 0.0
    fl_gamma: float = 0.0
    ggiou_gamma: float = 0.0
    ggiou_wloc: float | str = "auto"
    balance_metric: str = "ggiou"
    ggiou_alpha: float = 0.3
    ggiou_beta: float = 1 / 6
    ggiou_sigma: str = "overlap"
    decode: str = "bounded"
    xy_reach: float = 0.5
    observe: Callable[[Assignment, Targets, Tensor, Tensor], None] | None = None
    ranks: int = 1
    over_ranks: Callable[[Tensor], Tensor] = lambda values: values

    def __call__(
        self, raw: Tensor, anchors: Anchors, targets: Targets, assignment: Assignment | None = None
    ) -> dict[str, Tensor]:
        """Raw outputs (B, A, 5 + C) and the truths of the batch -> scalar losses {box, objectness, class}.

        All on one device. The truths are assigned here unless that has been done.
        """
        if assignment is None:
            assignment = self.assign(anchors, targets, len(raw))
        with torch.autocast(raw.device.type, enabled=False):
            raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
            return self.forward(raw, anchors, targets, assignment)

    def assign(self, anchors: Anchors, targets: Targets, batch_size: int) -> Assignment:
        """The assignment of a batch's truths in full precision, on their device; it depends on no prediction."""
        with torch.autocast(targets.boxes.device.type, enabled=False):
            return self.assigner(anchors, targets, batch_size)

    def forward(self, raw: Tensor, anchors: Anchors, targets: Targets, assignment: Assignment) -> dict[str, Tensor]:
        """The losses in full precision: decode the positives, compare them with their truths.

        Nothing here reads a value back or has a shape that depends on one, which would make the host wait for a GPU.
        """
        positives, logits = Gather.apply(raw, assignment.image, assignment.anchor)
        truths = targets.boxes[assignment.target].to(raw.dtype)
        labels = targets.labels[assignment.target]

        boxes = decode(positives[:, :4], take(anchors, assignment.anchor), self.decode, self.xy_reach)
        similarity = self.similarity(boxes, truths)
        overlap = iou(boxes, truths).detach()
        share = self.level_share(anchors, assignment)

        box = (share * self.box_weight(boxes.detach(), truths) * (1 - similarity)).sum()
        objectness = self.objectness(logits, anchors, assignment, self.quality(overlap, similarity.detach()))
        classes = (share * self.class_loss(positives[:, 5:], labels)).sum()

        if self.observe is not None:
            self.observe(assignment, targets, overlap, similarity.detach())
        return {"box": box * self.box_gain, "objectness": objectness * self.obj_gain, "class": classes * self.cls_gain}

    def level_share(self, anchors: Anchors, assignment: Assignment) -> Tensor:
        """Each positive's weight in the mean of its level (P,)."""
        level = torch.zeros_like(assignment.anchor)
        for each in anchors.levels[1:]:
            level += assignment.anchor >= each.start
        counts = self.over_ranks(occurrences(level, len(anchors.levels)))
        return self.ranks / counts[level].to(anchors.centers.dtype)

    def quality(self, overlap: Tensor, similarity: Tensor) -> Tensor:
        """Objectness target of every positive (P,), in [0, 1]."""
        if self.obj_target == "one":
            return torch.ones_like(overlap)
        return (overlap if self.obj_target == "iou" else similarity).clamp(0, 1)

    def box_weight(self, boxes: Tensor, truths: Tensor) -> Tensor | float:
        """GGIoU-balanced (or IoU-balanced) weight of every positive (P,), 1 with gamma 0 (GGIoU Eq. 6)."""
        gaussian = (self.ggiou_alpha, self.ggiou_beta, self.ggiou_sigma)
        balance = (self.ggiou_gamma, self.ggiou_wloc, self.balance_metric)
        return balanced_weight(boxes, truths, *balance, *gaussian, over_ranks=self.over_ranks)

    def objectness(self, logits: Tensor, anchors: Anchors, assignment: Assignment, quality: Tensor) -> Tensor:
        """Mean over each level's anchors of the BCE towards the quality of its box; ignored anchors count as zero loss.

        Where two truths share an anchor the larger quality is the target.
        """
        target = torch.zeros_like(logits)
        flat = assignment.image * logits.shape[1] + assignment.anchor
        target.view(-1).scatter_reduce_(0, flat, quality.to(logits.dtype), "amax")
        loss = self.bce(logits, target, self.obj_pw).masked_fill(assignment.ignored, 0)
        parts = loss.split([level.count for level in anchors.levels], dim=1)
        return sum(balance * part.mean() for balance, part in zip(self.level_balance, parts, strict=True))

    def class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean BCE over the classes of every positive: (P, C), (P,) -> (P,); zero with a single class."""
        if self.num_classes == 1:
            return logits.sum(1) * 0
        off, on = 0.5 * self.label_smoothing, 1 - 0.5 * self.label_smoothing
        target = torch.full_like(logits, off).scatter_(1, labels[:, None], on)
        return self.bce(logits, target, self.cls_pw).mean(1)

    def bce(self, logits: Tensor, target: Tensor, positive_weight: float) -> Tensor:
        """Elementwise binary cross entropy with logits, focal where fl_gamma > 0 (Lin et al. 2017)."""
        weight = None if positive_weight == 1 else logits.new_full((), positive_weight)
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)
        if self.fl_gamma == 0:
            return loss
        probability = logits.sigmoid()
        hit = target * probability + (1 - target) * (1 - probability)
        alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
        return loss * alpha * (1 - hit) ** self.fl_gamma
