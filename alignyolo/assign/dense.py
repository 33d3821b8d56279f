"""Threshold matching of any boxes with the truths of one image, by IoU or GGIoU, in torchvision's convention.

For dense anchors (RetinaNet, SSD, a region proposal network), proposals, and other people's detectors. YOLOv3's heads
cannot reach every box from every anchor: they have assigners of their own (alignyolo/assign/threshold.py).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from alignyolo.assign.threshold import Assignment, log_ggiou
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets

BACKGROUND, IGNORED = -1, -2
FORCED = ("best", "claim", "none")
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
    """The truth that every anchor answers for, BACKGROUND -1 or IGNORED -2: (A, 4), (T, 4) -> (A,) (GGIoU 3.2).

    An anchor belongs to the truth of its largest metric (the first of equals): positive from `positive` on, background
    below `negative`, ignored between. Then every truth's best anchor is positive too, whatever its metric, as `forced`:
    `best` = it answers for the truth that suits it best (torchvision's RetinaNet and RPN; equals all count), `claim` =
    for the truth that forces it, the last of several (SSD), `none` = not at all. A truth without any overlap forces
    nothing. Raises ValueError for an unknown metric or `forced`.
    """
    if metric not in ("iou", "ggiou") or forced not in FORCED:
        raise ValueError(f"expected metric iou or ggiou and forced {', '.join(FORCED)}: {metric!r}, {forced!r}")
    if len(truths) == 0 or len(anchors) == 0:
        return anchors.new_full((len(anchors),), BACKGROUND, dtype=torch.long)
    logarithmic = metric == "ggiou" and alpha > 0
    parts = truths.split(ROWS)
    if logarithmic:
        # Logarithms tell a tiny truth's anchors apart where GGIoU itself is rounded to 0.
        quality = torch.cat([log_ggiou(anchors, part[:, None], alpha, beta, sigma) for part in parts])
    else:
        quality = torch.cat([box_iou(part, anchors) for part in parts])
    best, owner = quality.max(0)
    value = best.exp() if logarithmic else best
    matches = torch.where(value >= positive, owner, torch.where(value < negative, BACKGROUND, IGNORED))
    highest, favourite = quality.max(1)
    overlaps = highest > (-torch.inf if logarithmic else 0)
    if forced == "best":
        favourites = ((quality == highest[:, None]) & overlaps[:, None]).any(0)
        matches = torch.where(favourites, owner, matches)
    elif forced == "claim":
        claiming = overlaps.nonzero().flatten()
        claims = torch.full_like(matches, BACKGROUND).scatter_reduce_(0, favourite[claiming], claiming, "amax")
        matches = torch.where(claims >= 0, claims, matches)
    return matches


@dataclass(frozen=True)
class BoxMatcher:
    """`match_boxes` over a batch, its settings bound: the assigner of detectors with anchors of any kind."""

    metric: str = "ggiou"
    positive: float = 0.5
    negative: float = 0.4
    forced: str = "best"
    alpha: float = 0.3
    beta: float = 1 / 6
    sigma: str = "overlap"

    def match(self, anchors: Tensor, truths: Tensor) -> Tensor:
        """The matches (A,) of one image's anchors (A, 4) and truths (T, 4)."""
        thresholds = (self.metric, self.positive, self.negative, self.forced)
        return match_boxes(anchors, truths, *thresholds, self.alpha, self.beta, self.sigma)

    @torch.no_grad()
    def __call__(self, anchors: Tensor, targets: Targets, batch_size: int) -> Assignment:
        """Assigns a batch's targets to anchors (A, 4) that are the same in every image; the metric given is IoU."""
        boxes = targets.boxes.to(anchors.dtype)
        rows, images, owners, ignored = [], [], [], []
        for image in range(batch_size):
            truths = (targets.image == image).nonzero().flatten()
            matches = self.match(anchors, boxes[truths])
            row = (matches >= 0).nonzero().flatten()
            rows.append(row)
            images.append(torch.full_like(row, image))
            owners.append(truths[matches[row]])
            ignored.append(matches == IGNORED)
        anchor, image, target = torch.cat(rows), torch.cat(images), torch.cat(owners)
        unmatched = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
        unmatched[target] = False
        overlap = iou(anchors[anchor], boxes[target])
        return Assignment(anchor, image, target, overlap, torch.stack(ignored), unmatched)
