"""ATSS: thresholds from each truth's own candidates (Zhang et al. 2020, arXiv 1912.02424)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignyolo.assign.assignment import Assignment, Context, assignment_of, marked
from alignyolo.assign.dynamic.candidates import inside, nearest_pairs, reaches
from alignyolo.assign.dynamic.ranking import best_of_each, sum_of_each
from alignyolo.assign.dynamic.serve import served
from alignyolo.assign.metric import Metric
from alignyolo.choices import SWITCH, require_choice
from alignyolo.gaussian_iou import SIGMAS

MARGIN = 0.01  # pixels by which an anchor's centre lies inside its truth


@dataclass(frozen=True)
class ATSS:
    """Positive from the mean and deviation of the metric of a truth's `topk` nearest anchors of every level on.

    An anchor's centre must lie in the truth; one that several truths want goes to the largest metric. alpha 0 makes the
    metric plain IoU, the paper's. Anchors that cannot reach their truth (`reach` in cells, inf for dense anchors) are
    ignored instead. The paper leaves truths without an anchor: `serve` gives them their best one.
    """

    topk: int = 9
    alpha: float = 0.0
    beta: float = 1 / 6
    sigma: str = "overlap"
    serve: str = "off"
    reach: float = math.inf

    needs_predictions = False

    def __post_init__(self) -> None:
        require_choice("sigma", self.sigma, SIGMAS)
        require_choice("serve", self.serve, SWITCH)

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets."""
        anchors, targets, measure = context.anchors, context.targets, Metric(self.alpha, self.beta, self.sigma)
        boxes = targets.boxes
        pairs = nearest_pairs(context, self.topk)
        metric = measure.of_ranking(measure.ranking(anchors.boxes[pairs.anchor], boxes[pairs.truth]))
        limit = mean_and_deviation(pairs.truth, metric, len(boxes))[pairs.truth]
        centred = inside(anchors.centers[pairs.anchor], boxes[pairs.truth], MARGIN)
        wanted = (metric >= limit) & centred & (metric > 0)

        can = reaches(anchors, boxes, pairs, self.reach)
        ignored = marked(context, pairs.where(wanted & ~can))
        pairs, metric = pairs.where(wanted & can), metric[wanted & can]
        everywhere = targets.image[pairs.truth] * len(anchors.boxes) + pairs.anchor
        positives, before = pairs.where(best_of_each(everywhere, metric, 1)), None
        if self.serve == "on":
            positives, before = served(context, positives, self.reach), positives
        values = measure.values(anchors.boxes[positives.anchor], boxes[positives.truth])
        return assignment_of(context, positives, ignored, values, before)


def mean_and_deviation(group: Tensor, value: Tensor, groups: int) -> Tensor:
    """Return every group's mean plus its sample deviation (n - 1), of values (N,): (groups,)."""
    count = sum_of_each(group, torch.ones_like(value), groups)
    mean = sum_of_each(group, value, groups) / count.clamp(min=1)
    squares = sum_of_each(group, (value - mean[group]).square(), groups)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()
