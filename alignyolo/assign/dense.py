"""Threshold matching of any boxes with the truths of one image, by IoU or GGIoU, in torchvision's convention.

For dense anchors (RetinaNet, SSD, a region proposal network), proposals, and other people's detectors. YOLOv3's heads
cannot reach every box from every anchor: they have assigners of their own (alignyolo/assign/yolo_head.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignyolo.assign.assignment import Assignment, Context, assignment_of
from alignyolo.assign.forcing import DENSE_FORCING, Matching
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import Pairs
from alignyolo.assign.threshold import Thresholds
from alignyolo.choices import require_choice
from alignyolo.gaussian_iou import SIGMAS

BACKGROUND, IGNORED = -1, -2
METRICS = ("iou", "ggiou")
ROWS = 16  # truths at a time: the intermediate tensors stay small with 300 truths and 200,000 anchors


@torch.no_grad()
def match_boxes(
    anchors: Tensor,
    truths: Tensor,
    metric: str = "ggiou",
    positive: float = 0.5,
    negative: float = 0.4,
    forced: str = "best",
    alpha: float = 0.3,
    beta: float = 1 / 6,
    sigma: str = "overlap",
) -> Tensor:
    """Say which truth every anchor answers for, by thresholds on IoU or GGIoU (GGIoU 3.2).

    An anchor belongs to the truth of its largest metric (the first of equals): positive from `positive` on, background
    below `negative`, ignored between. Then every truth's best anchor is positive too, whatever its metric, as `forced`
    says. A truth without any overlap forces nothing.

    Args:
        anchors: Boxes, xyxy (A, 4).
        truths: Objects' boxes, xyxy (T, 4).
        metric: `iou` or `ggiou`.
        positive: The metric from which on an anchor is positive.
        negative: The metric below which an anchor is background.
        forced: `best` = it answers for the truth that suits it best (torchvision's RetinaNet and RPN; equals all
            count), `claim` = for the truth that forces it, the last of several (SSD), `none` = not at all.
        alpha: GGIoU's share of the centres' distance.
        beta: GGIoU's width of the Gaussian.
        sigma: `overlap` or `truth`, as for `log_ggiou`.

    Returns:
        Numbers of truths (A,) int64; BACKGROUND, -1, or IGNORED, -2, where there is none.

    Raises:
        ValueError: `metric`, `forced` or `sigma` is unknown.
    """
    require_choice("metric", metric, METRICS)
    require_choice("forced", forced, DENSE_FORCING)
    measure = Metric(alpha if metric == "ggiou" else 0.0, beta, sigma)
    if len(truths) == 0 or len(anchors) == 0:
        return anchors.new_full((len(anchors),), BACKGROUND, dtype=torch.long)
    thresholds = Thresholds(positive, negative)
    ranking = torch.cat([measure.ranking(anchors, part[:, None]) for part in truths.split(ROWS)])
    best, owner = ranking.max(0)
    value = measure.of_ranking(best)
    otherwise = torch.where(thresholds.is_negative(value), BACKGROUND, IGNORED)
    matches = torch.where(thresholds.is_positive(value), owner, otherwise)
    return DENSE_FORCING[forced](Matching(ranking, owner), matches)


@dataclass(frozen=True)
class DenseThreshold:
    """`match_boxes` over a batch, its settings bound: the assigner of detectors whose anchors reach any box."""

    metric: str = "ggiou"
    positive: float = 0.5
    negative: float = 0.4
    forced: str = "best"
    alpha: float = 0.3
    beta: float = 1 / 6
    sigma: str = "overlap"

    needs_predictions = False

    def __post_init__(self) -> None:
        require_choice("metric", self.metric, METRICS)
        require_choice("forced", self.forced, DENSE_FORCING)
        require_choice("sigma", self.sigma, SIGMAS)

    def match(self, anchors: Tensor, truths: Tensor) -> Tensor:
        """Return the matches (A,) of one image's anchors (A, 4) and truths (T, 4)."""
        thresholds = (self.metric, self.positive, self.negative, self.forced)
        return match_boxes(anchors, truths, *thresholds, self.alpha, self.beta, self.sigma)

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets to anchors that are the same in every image; the metric given is IoU."""
        anchors, targets = context.anchors.boxes, context.targets
        boxes = targets.boxes.to(anchors.dtype)
        pairs = [Pairs.none(anchors.device)]
        ignored = torch.zeros(context.batch_size, len(anchors), dtype=torch.bool, device=anchors.device)
        for image in range(context.batch_size):
            truths = (targets.image == image).nonzero().flatten()
            matches = self.match(anchors, boxes[truths])
            row = (matches >= 0).nonzero().flatten()
            pairs.append(Pairs(truths[matches[row]], row))
            ignored[image] = matches == IGNORED
        return assignment_of(context, Pairs.join(pairs), ignored)
