"""Assignment by a metric's thresholds for the heads of YOLOv3, which cannot reach every box from every anchor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignyolo.assign.assignment import Assignment, Context, assignment_of, grid_of, marked
from alignyolo.assign.forcing import Candidates, candidates_of, force_at_least, sorted_by
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import near_pairs, reachable_pairs
from alignyolo.assign.threshold import Thresholds
from alignyolo.choices import require_choice
from alignyolo.gaussian_iou import SIGMAS


@dataclass(frozen=True)
class MetricThreshold:
    """GGIoU's assignment: positive at metric >= `positive`, negative below `negative`, ignored between (GGIoU 3.2).

    Only reachable pairs can be positive; truths with fewer than `min_positives` get their best reachable anchors.
    alpha = 0 makes the metric plain IoU. `reach` is the head's: cells by which a centre can leave its cell.
    """

    positive: float = 0.5
    negative: float = 0.4
    min_positives: int = 1
    alpha: float = 0.3
    beta: float = 1 / 6
    sigma: str = "overlap"
    reach: float = 0.5

    needs_predictions = False

    def __post_init__(self) -> None:
        require_choice("sigma", self.sigma, SIGMAS)

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets: negatives by all pairs, positives and forced by reachable ones, rest ignored."""
        metric, thresholds = Metric(self.alpha, self.beta, self.sigma), Thresholds(self.positive, self.negative)
        anchors, targets = grid_of(context), context.targets
        boxes = anchors.boxes

        near = near_pairs(anchors, targets.boxes, self.negative, metric)
        low = thresholds.is_negative(metric.values(boxes[near.anchor], targets.boxes[near.truth]))
        ignored = marked(context, near.where(~low))

        reachable = reachable_pairs(anchors, targets.boxes, self.reach)
        candidates = candidates_of(context, reachable, metric)
        chosen = match(candidates, len(targets.boxes), thresholds, self.min_positives)
        positives = reachable.where(chosen.to(boxes.device))
        return assignment_of(context, positives, ignored, candidates.metric[chosen].to(boxes.device))


def match(candidates: Candidates, num_truths: int, thresholds: Thresholds, min_positives: int) -> Tensor:
    """Choose pairs as a mask (N,): the threshold's, each anchor to its best truth, then the forced ones.

    Of equal truths the smaller has the anchor, then the one of the lower index.
    """
    above = thresholds.is_positive(candidates.metric).nonzero().flatten()
    order = sorted_by(above, (candidates.truth, candidates.area, -candidates.metric, candidates.anchor))
    anchor = candidates.anchor[order]
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = anchor[1:] != anchor[:-1]
    winners = order[first]
    chosen = torch.zeros(len(candidates.truth), dtype=torch.bool)
    chosen[winners] = True
    counts = torch.bincount(candidates.truth[winners], minlength=num_truths)
    if (counts < min_positives).any():
        force_at_least(candidates, chosen, counts, min_positives)
    return chosen
