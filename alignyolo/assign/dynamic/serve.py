"""Serving truths that a rule leaves without any anchor: an option of the rules whose papers do not ask for it."""

import torch

from alignyolo.assign.assignment import Context, grid_of
from alignyolo.assign.dynamic.candidates import nearest_pairs
from alignyolo.assign.forcing import Candidates, force_at_least
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import Pairs, center_and_size, reachable_pairs, shape_iou

NEAREST = 9  # anchors of every level that a truth may be served with where all reach it


def served(context: Context, positives: Pairs, reach: float) -> Pairs:
    """Add the best anchor, by IoU, of every truth without one, as `force_at_least` shares them out.

    It comes from those that reach the truth; where all do, from the nearest ones of every level.
    """
    boxes = context.targets.boxes
    counts = torch.bincount(positives.truth, minlength=len(boxes)).cpu()
    if len(boxes) == 0 or counts.min() > 0:
        return positives
    offered = nearest_pairs(context, NEAREST) if reach == torch.inf else reachable_pairs(grid_of(context), boxes, reach)
    pairs = Pairs.join([positives, offered])
    total = len(context.anchors.boxes)
    number = pairs.truth * total + pairs.anchor
    # Each pair once; a stable sort has the positives first.
    order = number.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = number[order][1:] != number[order][:-1]
    kept = order[first]
    chosen = (kept < len(positives.truth)).cpu()
    pairs = Pairs(pairs.truth[kept], pairs.anchor[kept])
    force_at_least(_described(context, pairs), chosen, counts, 1)
    return pairs.where(chosen.to(pairs.truth.device))


def _described(context: Context, pairs: Pairs) -> Candidates:
    """Gather on the host what decides between pairs: IoU, then shape IoU and distance."""
    anchors, targets, iou = context.anchors, context.targets, Metric(alpha=0.0)
    anchor_boxes, truth_boxes = anchors.boxes[pairs.anchor], targets.boxes[pairs.truth]
    center, size = center_and_size(truth_boxes)
    parts = (
        pairs.truth,
        targets.image[pairs.truth] * len(anchors.boxes) + pairs.anchor,
        iou.values(anchor_boxes, truth_boxes),
        iou.logarithms(anchor_boxes, truth_boxes),
        shape_iou(size, anchors.sizes[pairs.anchor]),
        (anchors.centers[pairs.anchor] - center).square().sum(-1),
        size.prod(-1),
    )
    return Candidates(*(part.cpu() for part in parts))
