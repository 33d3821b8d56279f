"""The detection loss: box, objectness and class terms over an assignment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from alignyolo.anchors import Anchors, take
from alignyolo.assign.assignment import Assigner, Assignment, Context, LogitScores, Predictions
from alignyolo.balance import Balance
from alignyolo.derivatives import first_derivatives_only
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets, occurrences
from models.yolov3.decoding import Decoding

FOCAL_ALPHA = 0.25


class Gather(torch.autograd.Function):
    """Pick raw[image, anchor] (P, 5 + C) and the objectness logits (B, A) from raw (B, A, 5 + C), in float32 or wider.

    As two indexing operations, the backward pass would fill and add two gradients of raw's size, nearly all zeros: more
    than half of the time of the whole loss on a CPU. Only what is picked is widened, for the same reason.
    """

    @staticmethod
    def forward(ctx: Any, raw: Tensor, image: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return both parts."""
        row = image * raw.shape[1] + anchor
        ctx.save_for_backward(row)
        ctx.shape, ctx.dtype = raw.shape, raw.dtype
        wide = torch.promote_types(raw.dtype, torch.float32)
        # Whole rows at once: in a quarter of the time of raw[image, anchor].
        return raw.flatten(0, 1).index_select(0, row).to(wide), raw[..., 4].to(wide, copy=True)

    @staticmethod
    def backward(ctx: Any, of_positives: Tensor, of_logits: Tensor) -> tuple[Tensor, None, None]:
        """Return one gradient for both; where truths share an anchor theirs add up."""
        (row,) = ctx.saved_tensors
        gradient = of_logits.new_zeros(ctx.shape, dtype=ctx.dtype)
        gradient[..., 4] = of_logits
        rows = gradient.flatten(0, 1)
        if gradient.dtype == of_positives.dtype:
            add_rows(rows, row, of_positives)
        else:
            # Round sums, not their parts: they are made beside the gradient, under the number of one of the truths.
            one = row.new_empty(len(rows)).scatter_(0, row, torch.arange(len(row), device=row.device))[row]
            total = add_rows(torch.zeros_like(of_positives), one, of_positives).index_select(0, one)
            total[:, 4] += of_logits.flatten()[row]
            rows.index_copy_(0, row, total.to(rows.dtype))
        return gradient, None, None


def add_rows(rows: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Add values (P, D) to rows[index] (N, D) in place, always in the same order, and return the rows.

    torch's own indexing adds in an order that depends on threads on a CPU; its `index_add_` does so on a GPU.
    """
    if rows.device.type == "cpu":
        return rows.index_add_(0, index, values)
    # As torch's own indexing does it: index_put_ would read the indices back from a GPU to check them.
    return torch._index_put_impl_(rows, (index,), values, accumulate=True, unsafe=True)


class Gains(NamedTuple):
    """The factors of the three terms."""

    box: float = 0.05
    objectness: float = 1.0
    classes: float = 0.5


class SigmoidEntropy(torch.autograd.Function):
    """Compute the binary cross entropy with logits on a CPU in a third of torch's time.

    Torch takes log(1 + exp(-|x|)) by log1p, which is ten times slower there than log. Here the same is -log of
    sigmoid(|x|), a number from .5 to 1, off by at most 1e-7 in float32. The gradient is torch's: sigmoid(x) - target.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every element."""
        probability = logits.sigmoid()
        certainty = torch.maximum(probability, 1 - probability)
        loss = logits.relu().addcmul_(logits, target, value=-1).sub_(certainty.log_())
        ctx.save_for_backward(probability.sub_(target))
        return loss

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the logits; the target has none."""
        (slope,) = ctx.saved_tensors
        return gradient * slope, None


@dataclass(frozen=True)
class CrossEntropy:
    """Elementwise binary cross entropy with logits, focal where `gamma` > 0 (Lin et al. 2017).

    `by_log` computes it as SigmoidEntropy does, on a CPU and without a weight.
    """

    positive_weight: float = 1.0
    gamma: float = 0.0
    by_log: bool = False

    @property
    def takes_log(self) -> bool:
        """Return whether SigmoidEntropy serves on a CPU."""
        return self.by_log and self.positive_weight == 1

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of every element."""
        if self.takes_log and logits.device.type == "cpu":
            loss = SigmoidEntropy.apply(logits, target)
        else:
            weight = None if self.positive_weight == 1 else logits.new_full((), self.positive_weight)
            loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=weight)
        if self.gamma == 0:
            return loss
        probability = logits.sigmoid()
        hit = target * probability + (1 - target) * (1 - probability)
        alpha = target * FOCAL_ALPHA + (1 - target) * (1 - FOCAL_ALPHA)
        return loss * alpha * (1 - hit) ** self.gamma


@dataclass(frozen=True)
class ClassTerm:
    """Mean cross entropy over the classes of every positive, towards smoothed labels; zero with a single class."""

    entropy: Callable[[Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)
    smoothing: float = 0.0

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the losses (P,) of logits (P, C) with labels (P,)."""
        if logits.shape[1] == 1:
            return logits.sum(1) * 0
        off, on = 0.5 * self.smoothing, 1 - 0.5 * self.smoothing
        target = torch.full_like(logits, off).scatter_(1, labels[:, None], on)
        return self.entropy(logits, target).mean(1)


def overlap_target(overlap: Tensor, similarity: Tensor) -> Tensor:
    """Let the objectness of a positive learn the IoU of its box, whatever the box loss is."""
    return overlap.clamp(0, 1)


def similarity_target(overlap: Tensor, similarity: Tensor) -> Tensor:
    """Let the objectness of a positive learn the chosen similarity (ultralytics/yolov3, SCALoss's authors)."""
    return similarity.clamp(0, 1)


def certain_target(overlap: Tensor, similarity: Tensor) -> Tensor:
    """Let the objectness of a positive learn 1."""
    return torch.ones_like(overlap)


OBJECTNESS_TARGETS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": overlap_target,
    "similarity": similarity_target,
    "one": certain_target,
}


@dataclass(frozen=True)
class Processes:
    """The processes whose gradients are averaged: how many, and a function that sums a tensor over them."""

    count: int = 1
    over_ranks: Callable[[Tensor], Tensor] = lambda values: values


@dataclass(frozen=True)
class DetectionLoss:
    """Weighted box, objectness and class losses; every part is a callable with its settings bound (DESIGN 2.4).

    Each level averages over its own positives (box, class) or anchors (objectness), and the levels are summed,
    as in ultralytics/yolov3. The means are those of all processes' batches together. `observe` gets (assignment,
    targets, ious (P,), similarities (P,)), all detached.
    """

    similarity: Callable[..., Tensor]
    assigner: Assigner
    level_balance: Sequence[float]
    gains: Gains = Gains()
    weight: Callable[..., Tensor | float] = field(default_factory=Balance)
    quality: Callable[[Tensor, Tensor], Tensor] = overlap_target
    obj_entropy: Callable[[Tensor, Tensor], Tensor] = field(default_factory=CrossEntropy)
    class_term: Callable[[Tensor, Tensor], Tensor] = field(default_factory=ClassTerm)
    decoding: Decoding = Decoding()
    observe: Callable[[Assignment, Targets, Tensor, Tensor], None] | None = None
    processes: Processes = Processes()

    @property
    def by_log(self) -> bool:
        """Return whether a cross entropy of this loss is computed by SigmoidEntropy on a CPU."""
        entropies = self.obj_entropy, getattr(self.class_term, "entropy", None)
        return any(getattr(each, "takes_log", False) for each in entropies)

    def __call__(
        self, raw: Tensor, anchors: Anchors, targets: Targets, assignment: Assignment | None = None
    ) -> dict[str, Tensor]:
        """Turn raw outputs (B, A, 5 + C) and the truths of the batch into scalar losses {box, objectness, class}.

        All on one device. The truths are assigned here unless that has been done.
        """
        if assignment is None:
            assignment = self.assign(anchors, targets, len(raw), raw)
        with torch.autocast(raw.device.type, enabled=False):
            return self.forward(raw, anchors, targets, assignment)

    def assign(self, anchors: Anchors, targets: Targets, batch_size: int, raw: Tensor | None = None) -> Assignment:
        """Assign a batch's truths in full precision, on their device.

        `raw` (B, A, 5 + C), on the same device, is looked at only if the assigner needs predictions.
        """
        with torch.autocast(targets.boxes.device.type, enabled=False):
            predictions = None
            if self.assigner.needs_predictions and raw is not None:
                predictions = self.predictions(raw.detach().float(), anchors)
            return self.assigner(Context(anchors, targets, batch_size, predictions))

    def predictions(self, raw: Tensor, anchors: Anchors) -> Predictions:
        """Decode raw outputs (B, A, 5 + C) for an assigner that looks at predictions."""
        boxes = self.decoding.boxes(raw[..., :4], anchors)
        return Predictions(boxes, LogitScores(raw[..., 5:]), raw[..., 4].sigmoid())

    def forward(self, raw: Tensor, anchors: Anchors, targets: Targets, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the losses in full precision: decode the positives, compare them with their truths.

        Nothing here reads a value back or has a shape that depends on one, which would make the host wait for a GPU.
        """
        positives, logits = Gather.apply(raw, assignment.image, assignment.anchor)
        truths = targets.boxes[assignment.target].to(positives.dtype)
        labels = targets.labels[assignment.target]
        around = {
            "image_size": anchors.image_size,
            "over_ranks": self.processes.over_ranks,
            "training": torch.is_grad_enabled(),
        }

        boxes = self.decoding.boxes(positives[:, :4], take(anchors, assignment.anchor))
        similarity = self.similarity(boxes, truths, **around)
        overlap = iou(boxes.detach(), truths)
        share = self.level_share(anchors, assignment)

        box = (share * self.weight(boxes.detach(), truths, **around) * (1 - similarity)).sum()
        objectness = self.objectness(logits, anchors, assignment, self.quality(overlap, similarity.detach()))
        classes = (share * self.class_term(positives[:, 5:], labels)).sum()

        if self.observe is not None:
            self.observe(assignment, targets, overlap, similarity.detach())
        gains = self.gains
        return {"box": box * gains.box, "objectness": objectness * gains.objectness, "class": classes * gains.classes}

    def level_share(self, anchors: Anchors, assignment: Assignment) -> Tensor:
        """Return each positive's weight in the mean of its level (P,)."""
        level = torch.zeros_like(assignment.anchor)
        for each in anchors.levels[1:]:
            level += assignment.anchor >= each.start
        counts = self.processes.over_ranks(occurrences(level, len(anchors.levels)))
        return self.processes.count / counts[level].to(anchors.centers.dtype)

    def objectness(self, logits: Tensor, anchors: Anchors, assignment: Assignment, quality: Tensor) -> Tensor:
        """Average over each level's anchors the cross entropy towards the quality of its box; ignored ones count as 0.

        Where two truths share an anchor the larger quality is the target.
        """
        target = torch.zeros_like(logits)
        flat = assignment.image * logits.shape[1] + assignment.anchor
        target.view(-1).scatter_reduce_(0, flat, quality.to(logits.dtype), "amax")
        loss = self.obj_entropy(logits, target).masked_fill(assignment.ignored, 0)
        parts = loss.split([level.count for level in anchors.levels], dim=1)
        return sum(balance * part.mean() for balance, part in zip(self.level_balance, parts, strict=True))
