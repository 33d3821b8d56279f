"""SimOTA: each truth takes as many of its cheapest anchors as its predictions deserve (Ge et al. 2021, YOLOX)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignyolo.anchors import Anchors, DenseAnchors
from alignyolo.assign.assignment import Assignment, Context, Predictions, assignment_of, grid_of, predictions_of
from alignyolo.assign.dynamic.candidates import inside
from alignyolo.assign.dynamic.ranking import best_of_each, sum_of_each
from alignyolo.assign.dynamic.serve import served
from alignyolo.assign.metric import plain_iou
from alignyolo.assign.pairs import Pairs, center_and_size, reachable_pairs
from alignyolo.choices import SWITCH, require_choice

OUTSIDE = 1e5  # cost of an anchor outside of the truth or of its centre's square
LEAST_LOGARITHM = -100.0  # as torch's binary cross entropy


@dataclass(frozen=True)
class SimOTA:
    """Give every truth its k anchors of the least cost, k the sum of its `topk` best IoUs, at least 1.

    Candidates lie in any truth of the image or within `radius` strides of any centre. The cost is the classes' cross
    entropy + `iou_weight` x -log(IoU), and 1e5 outside of either the truth or its centre's square (mmdetection's form
    of YOLOX). An anchor that several truths chose goes to the cheapest of all; a truth may lose its last one so:
    `serve` gives it another. Where there is an objectness, a score is the root of class x objectness, as in YOLOX.
    """

    radius: float = 2.5
    topk: int = 10
    iou_weight: float = 3.0
    serve: str = "off"
    reach: float = math.inf

    needs_predictions = True

    def __post_init__(self) -> None:
        require_choice("serve", self.serve, SWITCH)

    @torch.no_grad()
    def __call__(self, context: Context) -> Assignment:
        """Assign a batch's targets."""
        targets, predictions = context.targets, predictions_of(context, "SimOTA")
        boxes, image = targets.boxes.to(predictions.boxes.dtype), targets.image
        pairs, good = self.candidates(context, boxes)
        row = image[pairs.truth]
        iou = plain_iou(predictions.boxes[row, pairs.anchor], boxes[pairs.truth]).clamp(min=0)
        cost = entropies(predictions, row, pairs.anchor, targets.labels[pairs.truth])
        cost = cost + self.iou_weight * -(iou + 1e-7).log() + OUTSIDE * ~good

        best = best_of_each(pairs.truth, iou, self.topk)
        wanted = sum_of_each(pairs.truth[best], iou[best], len(boxes)).int().clamp(min=1)
        chosen = best_of_each(pairs.truth, -cost, wanted[pairs.truth])
        _, number = torch.unique(row * predictions.boxes.shape[1] + pairs.anchor, return_inverse=True)
        times = torch.zeros_like(number).index_add_(0, number, chosen.long())
        chosen = torch.where(times[number] > 1, best_of_each(number, -cost, 1), chosen)
        positives, before = pairs.where(chosen), None
        if self.serve == "on":
            positives, before = served(context, positives, self.reach), positives
        found = predictions.boxes[image[positives.truth], positives.anchor]
        metric = plain_iou(found, boxes[positives.truth]).clamp(min=0)
        return assignment_of(context, positives, metric=metric, before=before)

    def candidates(self, context: Context, boxes: Tensor) -> tuple[Pairs, Tensor]:
        """Return the pairs that come into question, and which lie both in the truth and in its centre's square."""
        anchors, image = context.anchors, context.targets.image
        strides = anchor_strides(anchors)
        if not math.isinf(self.reach):
            pairs = reachable_pairs(grid_of(context), context.targets.boxes, self.reach)
            centers, stride = anchors.centers[pairs.anchor], strides[pairs.anchor]
            in_box, in_square = self.near(centers, stride, boxes[pairs.truth])
            return pairs.where(in_box | in_square), (in_box & in_square)[in_box | in_square]
        parts, good = [Pairs.none(image.device)], [image.new_zeros(0, dtype=torch.bool)]
        for each in range(context.batch_size):
            rows = (image == each).nonzero().flatten()
            in_box, in_square = self.near(anchors.centers, strides, boxes[rows, None])
            valid = (in_box | in_square).any(0).nonzero().flatten()
            parts.append(Pairs(rows.repeat_interleave(len(valid)), valid.repeat(len(rows))))
            good.append((in_box & in_square)[:, valid].flatten())
        return Pairs.join(parts), torch.cat(good)

    def near(self, centers: Tensor, stride: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Return whether points (..., 2) lie in boxes (..., 4), and in the squares around their centres."""
        middle = center_and_size(boxes)[0]
        square = ((centers - middle).abs() < self.radius * stride[..., None]).all(-1)
        return inside(centers, boxes, 0.0), square


def anchor_strides(anchors: Anchors | DenseAnchors) -> Tensor:
    """Return every anchor's stride (A,) in pixels; TypeError for dense anchors that do not say theirs."""
    if isinstance(anchors, Anchors):
        return anchors.strides
    if len(anchors.level_strides) != len(anchors.counts):
        raise TypeError("SimOTA needs the strides of dense anchors: DenseAnchors(..., level_strides)")
    device = anchors.boxes.device
    counts = torch.tensor(anchors.counts, device=device)
    return torch.tensor(anchors.level_strides, dtype=anchors.boxes.dtype, device=device).repeat_interleave(counts)


def entropies(predictions: Predictions, image: Tensor, anchor: Tensor, label: Tensor) -> Tensor:
    """Return the binary cross entropy, summed over the classes, of pairs of an anchor and a label (N,)."""
    total = predictions.boxes.shape[1]
    # Only anchors in question, each once: all classes of all anchors would take longer than everything else.
    number, place = torch.unique(image * total + anchor, return_inverse=True)
    scores = predictions.scores[number // total, number % total]
    if predictions.objectness is not None:
        scores = (scores * predictions.objectness[number // total, number % total][:, None]).sqrt()
    of_no_class = -(1 - scores).log().clamp(min=LEAST_LOGARITHM).sum(-1)
    score = scores[place, label]
    change = (1 - score).log().clamp(min=LEAST_LOGARITHM) - score.log().clamp(min=LEAST_LOGARITHM)
    return of_no_class[place] + change
