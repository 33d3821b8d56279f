"""Target assignment: which anchors answer for which truths, and which are left out of the objectness loss.

An assigner is built from plain settings and called as `assign(anchors, targets, batch_size) -> Assignment`.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignyolo.anchors import Anchors, Level
from alignyolo.similarities.iou import full_precision, iou
from alignyolo.targets import Targets, sent

# The decoded side is at most (2 sigmoid)^2 = 4 anchor sides.
MAX_SIDE_RATIO = 4.0


class Assignment(NamedTuple):
    """Positive pairs as indices anchor, image, target (P,) with their metric (P,); ignored (B, A); unmatched (T,)."""

    anchor: Tensor
    image: Tensor
    target: Tensor
    metric: Tensor
    ignored: Tensor
    unmatched: Tensor

    def to(self, device: torch.device) -> "Assignment":
        """The same on another device, which nobody waits for."""
        return Assignment(*(sent(part, device) for part in self))


@torch.no_grad()
@full_precision
def log_ggiou(
    anchors: Tensor, truths: Tensor, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap"
) -> Tensor:
    """Logarithm of GGIoU, -inf without overlap: (..., 4), (..., 4) -> (...) (GGIoU Eq. 2 to 4).

    sigma is beta times the sides of the `overlap` box, or of the `truth` box (GGIoU Table 1).
    """
    (anchor_low, anchor_high), (low, high) = anchors.split(2, dim=-1), truths.split(2, dim=-1)
    overlap = torch.minimum(anchor_high, high) - torch.maximum(anchor_low, low)
    spread = beta * (overlap if sigma == "overlap" else high - low)
    offset = (anchor_low + anchor_high - low - high) / 2
    gaussian = (offset / spread).square().sum(-1)
    log = (1 - alpha) * iou(anchors, truths).log()
    if alpha > 0:
        log = log - alpha / 2 * gaussian
    return torch.where((overlap > 0).all(-1), log, -math.inf)


def ggiou(anchors: Tensor, truths: Tensor, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap") -> Tensor:
    """GGIoU = IoU^(1 - alpha) Dc^alpha in [0, 1], no gradient: (..., 4), (..., 4) -> (...) (GGIoU Eq. 4)."""
    if alpha == 0:
        return iou(anchors, truths).detach()
    return log_ggiou(anchors, truths, alpha, beta, sigma).exp()


class Pairs(NamedTuple):
    """Candidate pairs: truth (N,) index into the targets, anchor (N,) index into the anchors of one image."""

    truth: Tensor
    anchor: Tensor

    @staticmethod
    def join(parts: list["Pairs"]) -> "Pairs":
        """The pairs of every level in one list."""
        return Pairs(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def where(self, keep: Tensor) -> "Pairs":
        """The pairs that a mask (N,) keeps."""
        return Pairs(self.truth[keep], self.anchor[keep])


def _center_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centres (..., 2) and sides (..., 2)."""
    low, high = boxes.split(2, dim=-1)
    return (low + high) / 2, high - low


def reachable_pairs(anchors: Anchors, boxes: Tensor, reach: float) -> Pairs:
    """Pairs that the head can decode: centres below (.5 + reach) strides apart, truth below 4 anchor sides."""
    center, size = _center_and_size(boxes)
    steps = torch.arange(math.ceil(1 + 2 * reach) + 1, device=boxes.device)
    parts = []
    for level in anchors.levels:
        first = (center / level.stride - 1 - reach).floor().long()
        column, row = first[:, None, 0] + steps, first[:, None, 1] + steps
        inside = _within(column, level.columns)[:, None] & _within(row, level.rows)[:, :, None]
        fits = (size[:, None] < MAX_SIDE_RATIO * level.sizes).all(-1)
        truth, anchor, i, j = (inside[:, None] & fits[:, :, None, None]).nonzero(as_tuple=True)
        parts.append(Pairs(truth, level.index(anchor, row[truth, i], column[truth, j])))
    pairs = Pairs.join(parts)
    distance = (anchors.centers[pairs.anchor] - center[pairs.truth]).abs()
    limit = (0.5 + reach) * anchors.strides[pairs.anchor]
    return pairs.where((distance < limit[:, None]).all(-1))


def _within(cells: Tensor, count: int) -> Tensor:
    """Whether cell numbers lie on a grid side of `count` cells."""
    return (cells >= 0) & (cells < count)


def near_pairs(anchors: Anchors, boxes: Tensor, lowest: float, alpha: float, beta: float, sigma: str) -> Pairs:
    """All pairs whose metric can be `lowest` or more, found in a window of cells around each truth, with few others.

    IoU >= u = lowest^(1 / (1 - alpha)) asks for an overlap of u max(areas) / min(heights) in x, hence bounds |dx|;
    the Gaussian factor bounds |dx| by beta sqrt(-2 ln lowest / alpha) sigma widths.
    """
    center, size = _center_and_size(boxes)
    least_iou = lowest ** (1 / (1 - alpha))
    spread = beta * math.sqrt(-2 * math.log(lowest) / alpha) if alpha > 0 else math.inf
    parts = []
    for level in anchors.levels:
        smaller = torch.minimum(size[:, None], level.sizes)  # (T, K, 2)
        largest_area = torch.maximum(size.prod(-1)[:, None], level.sizes.prod(-1))
        least_overlap = least_iou * largest_area[..., None] / smaller.flip(-1)
        radius = (size[:, None] + level.sizes) / 2 - least_overlap
        radius = torch.minimum(radius, spread * (smaller if sigma == "overlap" else size[:, None]))
        # Rounding may not lose a pair at the edge of the window.
        radius = torch.where(least_overlap <= smaller * 1.001, radius + 1e-3 * size[:, None] + 1e-3, -math.inf)
        parts.append(_cells_within(level, center, radius))
    return Pairs.join(parts)


def _cells_within(level: Level, center: Tensor, radius: Tensor) -> Pairs:
    """Pairs of truths, centre (T, 2), and cells at most radius (T, K, 2) pixels away; none where it is negative."""
    grid = torch.tensor([level.columns, level.rows], device=center.device)
    reach = radius.clamp(min=0) / level.stride
    middle = center[:, None] / level.stride - 0.5
    first = (middle - reach).ceil().clamp(min=0).long()
    last = torch.minimum((middle + reach).floor().long(), grid - 1)
    spans = (last - first + 1).clamp(min=0) * (radius >= 0)
    first, spans = first.flatten(0, 1), spans.flatten(0, 1)
    counts = spans.prod(-1)
    window = torch.repeat_interleave(counts)
    rank = torch.arange(len(window), device=center.device) - (counts.cumsum(0) - counts)[window]
    columns = spans[window, 0]
    row = first[window, 1] + rank // columns
    column = first[window, 0] + rank % columns
    shapes = len(level.sizes)
    return Pairs(window // shapes, level.index(window % shapes, row, column))


@dataclass(frozen=True)
class AnchorRatio:
    """ultralytics' rule: anchors within a side ratio `anchor_t`, on the truth's cell and the nearest one per axis.

    One anchor may answer for several truths. `reach` is accepted for a common signature: the rule has its own.
    """

    anchor_t: float = 4.0
    reach: float = 0.5

    @torch.no_grad()
    def __call__(self, anchors: Anchors, targets: Targets, batch_size: int) -> Assignment:
        """Assigns a batch's targets; nothing is ignored."""
        center, size = _center_and_size(targets.boxes)
        parts = []
        for level in anchors.levels:
            ratio = size[:, None] / level.sizes
            truth, anchor = (torch.maximum(ratio, 1 / ratio).amax(-1) < self.anchor_t).nonzero(as_tuple=True)
            x, y = (center[truth] / level.stride).unbind(-1)
            column, beside = _cell_and_neighbour(x, level.columns)
            row, above = _cell_and_neighbour(y, level.rows)
            has_beside, has_above = beside != column, above != row
            parts += [
                Pairs(truth, level.index(anchor, row, column)),
                Pairs(truth, level.index(anchor, row, beside)).where(has_beside),
                Pairs(truth, level.index(anchor, above, column)).where(has_above),
            ]
        pairs = Pairs.join(parts)
        return _assignment(anchors, targets, batch_size, pairs)


def _cell_and_neighbour(position: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The cell of a position in cells and its nearer neighbour (itself at the border or dead centre)."""
    cell = position.floor().clamp(0, count - 1)
    fraction = position - cell
    before = (fraction < 0.5) & (position > 1)
    after = (fraction > 0.5) & (count - position > 1)
    return cell.long(), (cell - before.to(cell.dtype) + after.to(cell.dtype)).long()


@dataclass(frozen=True)
class BestAnchor:
    """YOLOv3's own rule: for each truth the one anchor with the best shape IoU, on the truth's cell.

    Every other anchor whose IoU with a truth exceeds `ignore_iou` is ignored.
    """

    ignore_iou: float = 0.7
    reach: float = 0.5

    @torch.no_grad()
    def __call__(self, anchors: Anchors, targets: Targets, batch_size: int) -> Assignment:
        """Assigns a batch's targets."""
        center, size = _center_and_size(targets.boxes)
        shapes = torch.cat([level.sizes for level in anchors.levels])
        best = shape_iou(size[:, None], shapes).argmax(1)
        parts, first = [], 0
        for level in anchors.levels:
            truth = (_within(best - first, len(level.sizes))).nonzero().flatten()
            column, row = (center[truth] / level.stride).long().unbind(-1)
            column, row = column.clamp(0, level.columns - 1), row.clamp(0, level.rows - 1)
            parts.append(Pairs(truth, level.index(best[truth] - first, row, column)))
            first += len(level.sizes)
        near = near_pairs(anchors, targets.boxes, self.ignore_iou, alpha=0.0, beta=1.0, sigma="overlap")
        overlap = iou(anchors.boxes[near.anchor], targets.boxes[near.truth])
        return _assignment(anchors, targets, batch_size, Pairs.join(parts), near.where(overlap > self.ignore_iou))


@full_precision
def shape_iou(size: Tensor, other: Tensor) -> Tensor:
    """IoU of two concentric boxes given by their sides: (..., 2), (..., 2) -> (...)."""
    intersection = torch.minimum(size, other).prod(-1)
    return intersection / (size.prod(-1) + other.prod(-1) - intersection)


def _assignment(
    anchors: Anchors, targets: Targets, batch_size: int, pairs: Pairs, ignored_pairs: Pairs | None = None
) -> Assignment:
    """Completes positive pairs to an Assignment; their metric is the plain IoU."""
    image = targets.image[pairs.truth]
    metric = iou(anchors.boxes[pairs.anchor], targets.boxes[pairs.truth])
    ignored = torch.zeros(batch_size, len(anchors.centers), dtype=torch.bool, device=image.device)
    if ignored_pairs is not None:
        ignored[targets.image[ignored_pairs.truth], ignored_pairs.anchor] = True
        ignored[image, pairs.anchor] = False
    unmatched = torch.ones(len(targets.boxes), dtype=torch.bool, device=image.device)
    unmatched[pairs.truth] = False
    return Assignment(pairs.anchor, image, pairs.truth, metric, ignored, unmatched)


@dataclass(frozen=True)
class MetricThreshold:
    """GGIoU's assignment: positive at metric >= `positive`, negative below `negative`, ignored between (GGIoU 3.2).

    Only reachable pairs can be positive; truths with fewer than `min_positives` get their best reachable anchors.
    alpha = 0 makes the metric plain IoU.
    """

    positive: float = 0.5
    negative: float = 0.4
    min_positives: int = 1
    alpha: float = 0.3
    beta: float = 1 / 6
    sigma: str = "overlap"
    reach: float = 0.5

    @torch.no_grad()
    def __call__(self, anchors: Anchors, targets: Targets, batch_size: int) -> Assignment:
        """Assigns a batch's targets: negatives by all pairs, positives and forced by reachable ones, rest ignored."""
        boxes, total = anchors.boxes, len(anchors.centers)
        metric = functools.partial(ggiou, alpha=self.alpha, beta=self.beta, sigma=self.sigma)

        near = near_pairs(anchors, targets.boxes, self.negative, self.alpha, self.beta, self.sigma)
        near = near.where(metric(boxes[near.anchor], targets.boxes[near.truth]) >= self.negative)
        ignored = torch.zeros(batch_size, total, dtype=torch.bool, device=boxes.device)
        ignored[targets.image[near.truth], near.anchor] = True

        reachable = reachable_pairs(anchors, targets.boxes, self.reach)
        chosen = self._match(anchors, targets, reachable, metric)
        positives = reachable.where(chosen)
        image = targets.image[positives.truth]
        ignored[image, positives.anchor] = False
        unmatched = torch.ones(len(targets.boxes), dtype=torch.bool, device=boxes.device)
        unmatched[positives.truth] = False
        values = metric(boxes[positives.anchor], targets.boxes[positives.truth])
        return Assignment(positives.anchor, image, positives.truth, values, ignored, unmatched)

    def _match(self, anchors: Anchors, targets: Targets, pairs: Pairs, metric: Callable) -> Tensor:
        """Which of the reachable pairs (N,) become positive."""
        anchor_boxes, truth_boxes = anchors.boxes[pairs.anchor], targets.boxes[pairs.truth]
        offset = anchors.centers[pairs.anchor] - _center_and_size(truth_boxes)[0]
        size = _center_and_size(truth_boxes)[1]
        candidates = Candidates(
            truth=pairs.truth.numpy(force=True),
            anchor=(targets.image[pairs.truth] * len(anchors.centers) + pairs.anchor).numpy(force=True),
            metric=metric(anchor_boxes, truth_boxes).numpy(force=True),
            log_metric=log_ggiou(anchor_boxes, truth_boxes, self.alpha, self.beta, self.sigma).numpy(force=True),
            shape_iou=shape_iou(size, anchors.sizes[pairs.anchor]).numpy(force=True),
            distance=offset.square().sum(-1).numpy(force=True),
            area=size.prod(-1).numpy(force=True),
        )
        chosen = match(candidates, len(targets.boxes), self.positive, self.min_positives)
        return torch.from_numpy(chosen).to(pairs.truth.device)


class Candidates(NamedTuple):
    """Reachable pairs as arrays (N,); an anchor here is its index among all anchors of the whole batch."""

    truth: np.ndarray
    anchor: np.ndarray
    metric: np.ndarray
    log_metric: np.ndarray
    shape_iou: np.ndarray
    distance: np.ndarray
    area: np.ndarray


def match(candidates: Candidates, num_truths: int, positive: float, min_positives: int) -> np.ndarray:
    """Chosen pairs as a mask (N,): the threshold's, each anchor to its best truth, then the forced ones."""
    above = np.flatnonzero(candidates.metric >= positive)
    order = above[
        np.lexsort(
            (candidates.truth[above], candidates.area[above], -candidates.metric[above], candidates.anchor[above])
        )
    ]
    anchor = candidates.anchor[order]
    winners = order[np.concatenate([[True], anchor[1:] != anchor[:-1]])] if len(order) else order
    chosen = np.zeros(len(candidates.truth), dtype=bool)
    chosen[winners] = True
    counts = np.bincount(candidates.truth[winners], minlength=num_truths)
    if (counts < min_positives).any():
        force(candidates, chosen, counts, min_positives)
    return chosen


def force(candidates: Candidates, chosen: np.ndarray, counts: np.ndarray, min_positives: int) -> None:
    """Gives truths with fewer than `min_positives` anchors their best reachable ones, in place.

    Truths with the fewest come first. Free anchors are taken first. A truth left with none takes one whose owner keeps
    another, or one whose owner can move to a further anchor of its own: no truth's last anchor is ever taken.
    """
    preference = preferred(candidates)
    truth = candidates.truth[preference]
    starts = np.searchsorted(truth, np.arange(len(counts) + 1))
    best = np.full(len(counts), -np.inf)
    reachable = starts[:-1] < starts[1:]
    best[reachable] = candidates.log_metric[preference[starts[:-1][reachable]]]
    deficient = np.flatnonzero((counts < min_positives) & reachable)
    deficient = deficient[np.lexsort((deficient, -best[deficient], counts[deficient]))].tolist()

    holders = Holders(
        preference=preference,
        starts=starts.tolist(),
        truth=candidates.truth,
        anchor=candidates.anchor,
        counts=counts.tolist(),
        owner={int(candidates.anchor[pair]): int(pair) for pair in np.flatnonzero(chosen)},
    )
    for truth_index in deficient:
        holders.take_free(truth_index, min_positives)
        if not holders.counts[truth_index]:
            holders.take_spare(truth_index)
    for truth_index in deficient:
        if not holders.counts[truth_index]:
            holders.take_by_moving(truth_index)
    chosen[:] = False
    chosen[list(holders.owner.values())] = True


def preferred(candidates: Candidates) -> np.ndarray:
    """The pairs (N,) truth by truth, each one's best first: by metric, then shape IoU, distance and anchor.

    What np.lexsort makes of these five, in a sixth of the time: the last three decide among equal metrics alone.
    """
    order = np.argsort(-candidates.log_metric)
    # Up to two bytes NumPy sorts in linear time.
    truth = candidates.truth.astype(np.uint16) if candidates.truth.max(initial=0) < 1 << 16 else candidates.truth
    order = order[np.argsort(truth[order], kind="stable")]
    values = candidates.truth[order], candidates.log_metric[order]
    same = np.logical_and(*(each[1:] == each[:-1] for each in values))
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
    among = order[tied]
    truth, anchor, _, log_metric, overlap, distance, _ = (each[among] for each in candidates)
    order[tied] = among[np.lexsort((anchor, distance, -overlap, -log_metric, truth))]
    return order


@dataclass
class Holders:
    """Who holds which anchor: `owner` maps it to the pair that holds it.

    `preference` has the pairs truth by truth, each one's best first; those of truth i begin at starts[i].
    """

    preference: np.ndarray
    starts: list[int]
    truth: np.ndarray
    anchor: np.ndarray
    counts: list[int]
    owner: dict[int, int] = field(default_factory=dict)

    def pairs(self, truth: int) -> list[int]:
        """A truth's pairs, best first."""
        return self.preference[self.starts[truth] : self.starts[truth + 1]].tolist()

    def give(self, pair: int) -> None:
        """Hands the pair's anchor to its truth, away from its holder if it has one."""
        anchor = int(self.anchor[pair])
        holder = self.owner.get(anchor)
        if holder is not None:
            self.counts[self.truth[holder]] -= 1
        self.owner[anchor] = pair
        self.counts[self.truth[pair]] += 1

    def take_free(self, truth: int, wanted: int) -> None:
        """Takes free anchors, best first, until the truth holds `wanted`."""
        for pair in self.pairs(truth):
            if self.counts[truth] >= wanted:
                return
            if int(self.anchor[pair]) not in self.owner:
                self.give(pair)

    def take_spare(self, truth: int) -> None:
        """Takes the best anchor whose owner keeps another one."""
        for pair in self.pairs(truth):
            holder = self.owner[int(self.anchor[pair])]
            if self.counts[self.truth[holder]] > 1:
                self.give(pair)
                return

    def take_by_moving(self, truth: int) -> None:
        """Takes an anchor that is free, spare, or whose owner can move to another one in the same way.

        Depth first with a stack of its own: in a crowd the chain of moves can be longer than Python's.
        """
        visited: set[int] = set()
        moves: list[int] = []
        waiting = [iter(self.pairs(truth))]
        while waiting:
            pair = next((each for each in waiting[-1] if int(self.anchor[each]) not in visited), None)
            if pair is None:
                waiting.pop()
                if moves:
                    moves.pop()
                continue
            anchor = int(self.anchor[pair])
            visited.add(anchor)
            moves.append(pair)
            holder = self.owner.get(anchor)
            if holder is None or self.counts[self.truth[holder]] > 1:
                for move in reversed(moves):
                    self.give(move)
                return
            waiting.append(iter(self.pairs(int(self.truth[holder]))))


ASSIGNERS: dict[str, Callable[..., Callable[[Anchors, Targets, int], Assignment]]] = {
    "anchor_ratio": AnchorRatio,
    "best_anchor": BestAnchor,
    "iou": functools.partial(MetricThreshold, alpha=0.0),
    "ggiou": MetricThreshold,
}
