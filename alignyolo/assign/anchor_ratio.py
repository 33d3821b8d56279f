"""ultralytics' assignment: anchors of similar sides in the truth's cell and its nearest neighbour per axis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from alignyolo.assign.assignment import Assignment, Context, assignment_of, grid_of
from alignyolo.assign.pairs import Pairs, center_and_size


@dataclass(frozen=True)
class AnchorRatio:
    """ultralytics' rule: anchors within a side ratio `anchor_t`, on the truth's cell and the nearest one per axis.

    One anchor may answer for several truths.
    """

    anchor_t: float = 4.0

    needs_predictions = False

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets; nothing is ignored."""
        anchors, (center, size) = grid_of(context), center_and_size(context.targets.boxes)
        parts = []
        for level in anchors.levels:
            ratio = size[:, None] / level.sizes
            truth, anchor = (torch.maximum(ratio, 1 / ratio).amax(-1) < self.anchor_t).nonzero(as_tuple=True)
            cell, neighbour = _cell_and_neighbour(center[truth] / level.stride, (level.columns, level.rows))
            (column, row), (beside, above) = cell.unbind(-1), neighbour.unbind(-1)
            has_beside, has_above = (neighbour != cell).unbind(-1)
            parts += [
                Pairs(truth, level.index(anchor, row, column)),
                Pairs(truth, level.index(anchor, row, beside)).where(has_beside),
                Pairs(truth, level.index(anchor, above, column)).where(has_above),
            ]
        return assignment_of(context, Pairs.join(parts))


def _cell_and_neighbour(position: Tensor, counts: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the cells of positions (..., 2) in cells and their nearer neighbours, axis by axis.

    The neighbour at the border, or of a position dead in the middle, is the cell itself.
    """
    count = position.new_tensor(counts)
    cell = position.floor().clamp(min=0).minimum(count - 1)
    fraction = position - cell
    before = (fraction < 0.5) & (position > 1)
    after = (fraction > 0.5) & (count - position > 1)
    return cell.long(), (cell - before.to(cell.dtype) + after.to(cell.dtype)).long()
