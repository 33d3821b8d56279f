"""Forcing: how truths that the thresholds leave with too few anchors get some all the same.

Two policies for two kinds of anchors. Those of a YOLO head reach few truths, and `force_at_least` shares them out so
that no truth loses its last one. Dense anchors reach all, and each truth takes its best ones (`DENSE_FORCING`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from alignyolo.assign.assignment import Context
from alignyolo.assign.metric import Metric
from alignyolo.assign.pairs import Pairs, center_and_size, shape_iou


class Candidates(NamedTuple):
    """Reachable pairs (N,) on the host; an anchor here is its index among all anchors of the whole batch."""

    truth: Tensor
    anchor: Tensor
    metric: Tensor
    log_metric: Tensor
    shape_iou: Tensor
    distance: Tensor
    area: Tensor


def candidates_of(context: Context, pairs: Pairs, metric: Metric) -> Candidates:
    """Gather on the host what decides between the reachable pairs (N,) of a batch."""
    anchors, targets = context.anchors, context.targets
    truth_boxes, anchor_centers, anchor_sizes = (
        targets.boxes[pairs.truth],
        anchors.centers[pairs.anchor],
        anchors.sizes[pairs.anchor],
    )
    anchor_boxes = torch.cat([anchor_centers - anchor_sizes / 2, anchor_centers + anchor_sizes / 2], dim=-1)
    center, size = center_and_size(truth_boxes)
    parts = (
        pairs.truth,
        targets.image[pairs.truth] * sum(anchors.counts) + pairs.anchor,
        *metric.values_and_logarithms(anchor_boxes, truth_boxes),
        shape_iou(size, anchor_sizes),
        (anchor_centers - center).square().sum(-1),
        size.prod(-1),
    )
    return Candidates(*(part.cpu() for part in parts))


def sorted_by(order: Tensor, keys: Iterable[Tensor]) -> Tensor:
    """Sort indices (M,) by keys (N,), the last of which counts most; equal ones keep their order."""
    for key in keys:
        order = order[key[order].argsort(stable=True)]
    return order


def force_at_least(candidates: Candidates, chosen: Tensor, counts: Tensor, least: int) -> None:
    """Give truths with fewer than `least` anchors their best reachable ones, in place.

    `chosen` (N,) marks the pairs that the thresholds made positive, `counts` (T,) says how many each truth has. Truths
    with the fewest come first. Free anchors are taken first. A truth left with none takes one whose owner keeps
    another, or one whose owner can move to a further anchor of its own: no truth's last anchor is ever taken.
    """
    preference = preferred(candidates)
    truth = candidates.truth[preference]
    starts = torch.searchsorted(truth, torch.arange(len(counts) + 1))
    best = candidates.log_metric.new_full((len(counts),), -torch.inf)
    reachable = starts[:-1] < starts[1:]
    best[reachable] = candidates.log_metric[preference[starts[:-1][reachable]]]
    deficient = ((counts < least) & reachable).nonzero().flatten()
    order = sorted_by(deficient, (-best, counts)).tolist()

    held = chosen.nonzero().flatten()
    holders = Holders(
        preference=preference.tolist(),
        starts=starts.tolist(),
        truth=candidates.truth.tolist(),
        anchor=candidates.anchor.tolist(),
        counts=counts.tolist(),
        owner=dict(zip(candidates.anchor[held].tolist(), held.tolist(), strict=True)),
    )
    for each in order:
        holders.take_free(each, least)
        if not holders.counts[each]:
            holders.take_spare(each)
    for each in order:
        if not holders.counts[each]:
            holders.take_by_moving(each)
    chosen[:] = False
    chosen[list(holders.owner.values())] = True


def preferred(candidates: Candidates) -> Tensor:
    """Sort the pairs (N,) truth by truth, each one's best first: by metric, then shape IoU, distance and anchor.

    The last three decide among equal metrics alone, and are looked at there alone.
    """
    order = (-candidates.log_metric).argsort()
    order = order[candidates.truth[order].argsort(stable=True)]
    truth, log_metric = candidates.truth[order], candidates.log_metric[order]
    same = (truth[1:] == truth[:-1]) & (log_metric[1:] == log_metric[:-1])
    edge = same.new_zeros(1)
    tied = (torch.cat([same, edge]) | torch.cat([edge, same])).nonzero().flatten()
    if len(tied):
        keys = (candidates.anchor, candidates.distance, -candidates.shape_iou, -candidates.log_metric, candidates.truth)
        order[tied] = sorted_by(order[tied], keys)
    return order


@dataclass
class Holders:
    """Who holds which anchor: `owner` maps it to the pair that holds it.

    `preference` has the pairs truth by truth, each one's best first; those of truth i begin at starts[i].
    """

    preference: list[int]
    starts: list[int]
    truth: list[int]
    anchor: list[int]
    counts: list[int]
    owner: dict[int, int] = field(default_factory=dict)

    def pairs(self, truth: int) -> list[int]:
        """Return a truth's pairs, best first."""
        return self.preference[self.starts[truth] : self.starts[truth + 1]]

    def give(self, pair: int) -> None:
        """Hand the pair's anchor to its truth, away from its holder if it has one."""
        anchor = self.anchor[pair]
        holder = self.owner.get(anchor)
        if holder is not None:
            self.counts[self.truth[holder]] -= 1
        self.owner[anchor] = pair
        self.counts[self.truth[pair]] += 1

    def take_free(self, truth: int, wanted: int) -> None:
        """Take free anchors, best first, until the truth holds `wanted`."""
        for pair in self.pairs(truth):
            if self.counts[truth] >= wanted:
                return
            if self.anchor[pair] not in self.owner:
                self.give(pair)

    def take_spare(self, truth: int) -> None:
        """Take the best anchor whose owner keeps another one."""
        for pair in self.pairs(truth):
            holder = self.owner[self.anchor[pair]]
            if self.counts[self.truth[holder]] > 1:
                self.give(pair)
                return

    def take_by_moving(self, truth: int) -> None:
        """Take an anchor that is free, spare, or whose owner can move to another one in the same way.

        Depth first with a stack of its own: in a crowd the chain of moves can be longer than Python's.
        """
        visited: set[int] = set()
        moves: list[int] = []
        waiting = [iter(self.pairs(truth))]
        while waiting:
            pair = next((each for each in waiting[-1] if self.anchor[each] not in visited), None)
            if pair is None:
                waiting.pop()
                if moves:
                    moves.pop()
                continue
            anchor = self.anchor[pair]
            visited.add(anchor)
            moves.append(pair)
            holder = self.owner.get(anchor)
            if holder is None or self.counts[self.truth[holder]] > 1:
                for move in reversed(moves):
                    self.give(move)
                return
            waiting.append(iter(self.pairs(self.truth[holder])))


class Matching(NamedTuple):
    """What dense forcing looks at: the metric's ranking (T, A), -inf without overlap, and each anchor's truth (A,)."""

    ranking: Tensor
    owner: Tensor


def best_of_truth(found: Matching, matches: Tensor) -> Tensor:
    """Make every truth's best anchors answer for the truth that suits them best (torchvision's RetinaNet and RPN).

    Of equals all count; a truth without any overlap forces nothing.
    """
    highest = found.ranking.amax(1)
    favourites = ((found.ranking == highest[:, None]) & (highest > -torch.inf)[:, None]).any(0)
    return torch.where(favourites, found.owner, matches)


def claim(found: Matching, matches: Tensor) -> Tensor:
    """Make every truth's best anchor answer for that truth, the last of several (SSD)."""
    highest, favourite = found.ranking.max(1)
    claiming = (highest > -torch.inf).nonzero().flatten()
    claims = torch.full_like(matches, -1).scatter_reduce_(0, favourite[claiming], claiming, "amax")
    return torch.where(claims >= 0, claims, matches)


def force_nothing(found: Matching, matches: Tensor) -> Tensor:
    """Leave the matches as the thresholds made them."""
    return matches


DENSE_FORCING: dict[str, Callable[[Matching, Tensor], Tensor]] = {
    "best": best_of_truth,
    "claim": claim,
    "none": force_nothing,
}
