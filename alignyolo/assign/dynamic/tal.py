"""Task-aligned assignment: the anchors whose predictions have both the right class and the right box.

Feng et al. 2021 (TOOD, arXiv 2108.07755), in the form of ultralytics' trainers: CIoU for IoU, the best ones among the
anchors whose centre lies in the truth, and small truths enlarged so that there is one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignyolo.assign.assignment import Assignment, Context, assignment_of, predictions_of, strides_of
from alignyolo.assign.dynamic.candidates import pairs_around
from alignyolo.assign.dynamic.ranking import best_of_each, largest_of_each
from alignyolo.assign.dynamic.serve import served
from alignyolo.assign.pairs import Pairs, center_and_size
from alignyolo.choices import SWITCH, require_choice
from alignyolo.gaussian_iou import SIGMAS, ggiou
from alignyolo.similarities.iou import ciou


@dataclass(frozen=True)
class TaskAligned:
    """Give every truth the `topk` anchors of the largest score^alpha overlap^beta among those in it.

    `overlap` is `ciou`, or `ggiou` with its settings `gaussian_alpha`, `gaussian_beta` and `gaussian_sigma`. An anchor
    that several truths chose goes to the one that its box overlaps most. With `enlarge`, sides below the second stride
    count as that long. `final` keeps the best of each truth's anchors after that (1 for a head without NMS). The
    metric given is ultralytics' target of the score. `serve` gives truths without an anchor their best one.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    enlarge: str = "on"
    overlap: str = "ciou"
    gaussian_alpha: float = 0.3
    gaussian_beta: float = 1 / 6
    gaussian_sigma: str = "overlap"
    serve: str = "off"
    final: int = 0
    reach: float = math.inf

    needs_predictions = True

    def __post_init__(self) -> None:
        require_choice("enlarge", self.enlarge, SWITCH)
        require_choice("overlap", self.overlap, ("ciou", "ggiou"))
        require_choice("gaussian_sigma", self.gaussian_sigma, SIGMAS)
        require_choice("serve", self.serve, SWITCH)

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets."""
        targets, predictions = context.targets, predictions_of(context, "task-aligned assignment")
        boxes = targets.boxes.to(predictions.boxes.dtype)
        pairs = pairs_around(context, self.enlarged(context, boxes), self.reach)
        image = targets.image[pairs.truth]
        overlap = self.overlaps(predictions.boxes[image, pairs.anchor], boxes[pairs.truth])
        score = predictions.scores[image, pairs.anchor, targets.labels[pairs.truth]]
        if predictions.objectness is not None:
            score = score * predictions.objectness[image, pairs.anchor]
        aligned = score**self.alpha * overlap**self.beta

        everywhere = image * predictions.boxes.shape[1] + pairs.anchor
        chosen = self.choose(pairs, everywhere, aligned, overlap)
        positives = pairs.where(chosen)
        metric = target_scores(positives.truth, aligned[chosen], overlap[chosen], len(boxes))
        before = None
        if self.serve == "on":
            positives, before = served(context, positives, self.reach), positives
            metric = with_zeros(before, metric, positives, predictions.boxes.shape[1])
        return assignment_of(context, positives, metric=metric, before=before)

    def choose(self, pairs: Pairs, everywhere: Tensor, aligned: Tensor, overlap: Tensor) -> Tensor:
        """Mark the pairs (N,) that become positive; `everywhere` numbers the anchors of all images."""
        chosen = best_of_each(pairs.truth, aligned, self.topk) & (aligned > 0)
        # An anchor that was chosen more than once goes to the truth it overlaps most, be that one of those or not.
        _, number = torch.unique(everywhere, return_inverse=True)
        times = torch.zeros_like(number).index_add_(0, number, chosen.long())
        chosen = torch.where(times[number] > 1, best_of_each(number, overlap, 1), chosen)
        if self.final and self.final != self.topk:
            chosen &= best_of_each(pairs.truth, aligned * chosen, self.final)
        return chosen

    def enlarged(self, context: Context, boxes: Tensor) -> Tensor:
        """Return the boxes (T, 4) in which anchors are looked for."""
        strides = strides_of(context.anchors)
        if self.enlarge == "off" or not strides:
            return boxes
        center, size = center_and_size(boxes)
        half = size.clamp(min=strides[min(1, len(strides) - 1)]) / 2
        return torch.where((size < 2 * half).repeat(1, 2), torch.cat([center - half, center + half], dim=-1), boxes)

    def overlaps(self, predicted: Tensor, truths: Tensor) -> Tensor:
        """Return the overlap (N,) of predicted boxes (N, 4) and truths (N, 4), in [0, 1]."""
        if self.overlap == "ciou":
            return ciou(truths, predicted).clamp(min=0)
        return ggiou(predicted, truths, self.gaussian_alpha, self.gaussian_beta, self.gaussian_sigma)


def target_scores(truth: Tensor, aligned: Tensor, overlap: Tensor, truths: int) -> Tensor:
    """Scale the alignment (P,) of each truth's positives so that its best one has the truth's best overlap: (P,)."""
    best, highest = largest_of_each(truth, aligned, truths), largest_of_each(truth, overlap, truths)
    return aligned * highest[truth] / (best[truth] + 1e-9)


def with_zeros(before: Pairs, metric: Tensor, after: Pairs, anchors: int) -> Tensor:
    """Carry the metric (P,) of pairs over to a list that has more of them, 0 for those: (Q,)."""
    known, order = (before.truth * anchors + before.anchor).sort()
    wanted = after.truth * anchors + after.anchor
    place = torch.searchsorted(known, wanted).clamp(max=max(len(known) - 1, 0))
    if len(known) == 0:
        return metric.new_zeros(len(wanted))
    return torch.where(known[place] == wanted, metric[order][place], 0.0)
