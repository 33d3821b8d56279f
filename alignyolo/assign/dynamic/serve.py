"""Serving truths that a rule leaves without any anchor: an option of the rules whose papers do not ask for it."""

import torch

from alignyolo.assign.assignment import Context, grid_of
from alignyolo.assign.dynamic.candidates import nearest_pairs
from alignyolo.assign.forcing import candidates_of, force_at_least
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import Pairs, reachable_pairs

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
    force_at_least(candidates_of(context, pairs, Metric(alpha=0.0)), chosen, counts, 1)
    return pairs.where(chosen.to(pairs.truth.device))
