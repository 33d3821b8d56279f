"""YOLOv3's own assignment: one anchor for each truth."""

from dataclasses import dataclass

import torch

from alignyolo.assign.assignment import Assignment, Context, assignment_of, grid_of, marked
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import Pairs, center_and_size, near_pairs, shape_iou, within
from alignyolo.similarities.iou import iou


@dataclass(frozen=True)
class BestAnchor:
    """YOLOv3's own rule: for each truth the one anchor with the best shape IoU, on the truth's cell.

    Every other anchor whose IoU with a truth exceeds `ignore_iou` is ignored.
    """

    ignore_iou: float = 0.7

    needs_predictions = False

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets."""
        anchors, targets = grid_of(context), context.targets
        center, size = center_and_size(targets.boxes)
        shapes = torch.cat([level.sizes for level in anchors.levels])
        best = shape_iou(size[:, None], shapes).argmax(1)
        parts, first = [], 0
        for level in anchors.levels:
            truth = (within(best - first, len(level.sizes))).nonzero().flatten()
            column, row = (center[truth] / level.stride).long().unbind(-1)
            column, row = column.clamp(0, level.columns - 1), row.clamp(0, level.rows - 1)
            parts.append(Pairs(truth, level.index(best[truth] - first, row, column)))
            first += len(level.sizes)
        near = near_pairs(anchors, targets.boxes, self.ignore_iou, Metric(alpha=0.0))
        overlap = iou(anchors.boxes[near.anchor], targets.boxes[near.truth])
        ignored = marked(context, near.where(overlap > self.ignore_iou))
        return assignment_of(context, Pairs.join(parts), ignored)
