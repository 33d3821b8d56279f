"""Slow twins of the assigners and of the detection loss: dense, one image at a time, straight from DESIGN 2."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from alignyolo.anchors import Anchors
from alignyolo.gaussian_iou import ggiou, log_ggiou
from alignyolo.targets import Targets


class Answer(NamedTuple):
    """What an assigner must say: positives {(image, anchor, target)}, ignored {(image, anchor)}, unmatched {target}."""

    positives: set[tuple[int, int, int]]
    ignored: set[tuple[int, int]]
    unmatched: set[int]


class Pairs(NamedTuple):
    """All pairs of one image's truths and anchors: (T, A) arrays, and each truth's area (T,)."""

    metric: np.ndarray
    log_metric: np.ndarray
    reachable: np.ndarray
    shape_iou: np.ndarray
    distance: np.ndarray
    area: np.ndarray


def scalar_iou(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """IoU of two xyxy boxes in plain Python; 0 where the union has no area."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    overlap = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - overlap
    return overlap / union if union > 0 else 0.0


def scalar_ggiou(anchor, truth, alpha: float = 0.3, beta: float = 1 / 6, sigma: str = "overlap") -> float:
    """GGIoU of two xyxy boxes in plain Python, as the paper writes it."""
    width = min(anchor[2], truth[2]) - max(anchor[0], truth[0])
    height = min(anchor[3], truth[3]) - max(anchor[1], truth[1])
    if width <= 0 or height <= 0:
        return 0.0
    if sigma == "truth":
        width, height = truth[2] - truth[0], truth[3] - truth[1]
    dx = (anchor[0] + anchor[2] - truth[0] - truth[2]) / 2
    dy = (anchor[1] + anchor[3] - truth[1] - truth[3]) / 2
    closeness = math.exp(-0.5 * ((dx / (beta * width)) ** 2 + (dy / (beta * height)) ** 2))
    return scalar_iou(anchor, truth) ** (1 - alpha) * closeness**alpha


def reachable(anchors: Anchors, boxes: np.ndarray, reach: float) -> np.ndarray:
    """(T, A) whether the head can place anchor a's box on truth t."""
    centers, sizes, strides = (part.numpy() for part in (anchors.centers, anchors.sizes, anchors.strides))
    answer = np.ones((len(boxes), len(centers)), dtype=bool)
    for axis in range(2):
        low, high = boxes[:, axis, None], boxes[:, axis + 2, None]
        answer &= np.abs((low + high) / np.float32(2) - centers[:, axis]) < (0.5 + reach) * strides
        answer &= (high - low) < 4 * sizes[:, axis]
    return answer


def dense_pairs(anchors: Anchors, boxes: Tensor, reach: float, **metric: object) -> Pairs:
    """Every number that the threshold assigners look at, for all anchors and the truths (T, 4) of one image."""
    low, high = boxes[:, None, :2].numpy(), boxes[:, None, 2:].numpy()
    sides, anchor_sides, offsets = high - low, anchors.sizes.numpy(), (low + high) / 2 - anchors.centers.numpy()
    overlap = np.minimum(sides[..., 0], anchor_sides[:, 0]) * np.minimum(sides[..., 1], anchor_sides[:, 1])
    areas, anchor_areas = sides[..., 0] * sides[..., 1], anchor_sides[:, 0] * anchor_sides[:, 1]
    return Pairs(
        ggiou(anchors.boxes, boxes[:, None], **metric).numpy(),
        log_ggiou(anchors.boxes, boxes[:, None], **metric).numpy(),
        reachable(anchors, boxes.numpy(), reach),
        overlap / (areas + anchor_areas - overlap),
        offsets[..., 0] ** 2 + offsets[..., 1] ** 2,
        areas[:, 0],
    )


def first_owners(pairs: Pairs, positive: float) -> dict[int, int]:
    """Step 2: anchor -> the truth of largest metric >= positive that reaches it (tie: smaller, then lower index)."""
    best: dict[int, tuple[float, float, int]] = {}
    for truth, anchor in np.argwhere(pairs.reachable & (pairs.metric >= positive)).tolist():
        rank = (-float(pairs.metric[truth, anchor]), float(pairs.area[truth]), truth)
        if anchor not in best or rank < best[anchor]:
            best[anchor] = rank
    return {anchor: rank[2] for anchor, rank in best.items()}


def preferences(pairs: Pairs) -> list[list[int]]:
    """Every truth's reachable anchors, the most wanted first."""
    orders = []
    for truth in range(len(pairs.area)):
        log_metric, shape_iou, distance = (part[truth] for part in (pairs.log_metric, pairs.shape_iou, pairs.distance))
        keys = [(-log_metric[a], -shape_iou[a], distance[a], a) for a in np.flatnonzero(pairs.reachable[truth])]
        orders.append([int(key[-1]) for key in sorted(keys)])
    return orders


def force(owners: dict[int, int], wanted: list[list[int]], pairs: Pairs, least: int) -> None:
    """Step 3: gives truths with fewer than `least` anchors more of them, in place; never a truth's last one."""
    held = Counter(owners.values())
    best = [max((pairs.log_metric[t, a] for a in wanted[t]), default=-math.inf) for t in range(len(wanted))]
    order = sorted((t for t in range(len(wanted)) if held[t] < least), key=lambda t: (held[t], -best[t], t))

    def take(truth: int, anchor: int) -> None:
        if anchor in owners:
            held[owners[anchor]] -= 1
        owners[anchor] = truth
        held[truth] += 1

    for truth in order:
        for anchor in wanted[truth]:
            if held[truth] < least and anchor not in owners:
                take(truth, anchor)
        for anchor in wanted[truth]:
            if held[truth] == 0 and held[owners[anchor]] >= 2:
                take(truth, anchor)

    def move(truth: int, seen: set[int]) -> bool:
        for anchor in wanted[truth]:
            if anchor in seen:
                continue
            seen.add(anchor)
            if anchor not in owners or held[owners[anchor]] >= 2 or move(owners[anchor], seen):
                take(truth, anchor)
                return True
        return False

    for truth in order:
        if held[truth] == 0:
            move(truth, set())


def threshold_oracle(
    anchors: Anchors,
    targets: Targets,
    batch_size: int,
    positive=0.5,
    negative=0.4,
    min_positives=1,
    reach=0.5,
    **metric,
) -> Answer:
    """DESIGN 2.3 steps 1 to 4 for the whole batch; `metric` holds ggiou's own settings."""
    answer = Answer(set(), set(), set())
    for image in range(batch_size):
        rows = torch.nonzero(targets.image == image).flatten().tolist()
        if not rows:
            continue
        pairs = dense_pairs(anchors, targets.boxes[rows], reach, **metric)
        owners, wanted = first_owners(pairs, positive), preferences(pairs)
        force(owners, wanted, pairs, min_positives)
        answer.positives.update((image, anchor, rows[truth]) for anchor, truth in owners.items())
        high = np.flatnonzero(pairs.metric.max(axis=0) >= negative).tolist()
        answer.ignored.update((image, anchor) for anchor in high if anchor not in owners)
        answer.unmatched.update(set(rows) - {rows[truth] for truth in owners.values()})
    return answer


def anchor_ratio_oracle(anchors: Anchors, targets: Targets, anchor_t: float = 4.0) -> Answer:
    """ultralytics' rule with scalars: anchors of similar sides, in the own cell and its nearest neighbour per axis."""
    answer = Answer(set(), set(), set(range(len(targets.image))))
    for truth, (box, image) in enumerate(zip(targets.boxes.numpy(), targets.image.tolist(), strict=True)):
        center, size = (box[:2] + box[2:]) / np.float32(2), box[2:] - box[:2]
        for level in anchors.levels:
            grid = (level.columns, level.rows)
            columns, rows = (own_and_neighbour(float(center[i]) / level.stride, grid[i]) for i in range(2))
            cells = {(columns[0], rows[0])} | {(x, rows[0]) for x in columns} | {(columns[0], y) for y in rows}
            for k, sides in enumerate(np.asarray(level.sizes, dtype=np.float32)):
                if not all(size[i] > 0 and max(size[i] / sides[i], sides[i] / size[i]) < anchor_t for i in range(2)):
                    continue
                for x, y in cells:
                    answer.positives.add((image, level.start + (k * level.rows + y) * level.columns + x, truth))
                answer.unmatched.discard(truth)
    return answer


def own_and_neighbour(position: float, cells: int) -> list[int]:
    """The cell that holds a position (in cells), clamped to the grid, and its nearest neighbour where there is one."""
    own = min(int(position), cells - 1)
    fraction = position - int(position)
    if fraction < 0.5 and position > 1:
        return [own, min(int(position - 0.5), cells - 1)]
    if fraction > 0.5 and cells - position > 1:
        return [own, own + 1]
    return [own]


def best_anchor_oracle(anchors: Anchors, targets: Targets, batch_size: int, ignore_iou: float = 0.7) -> Answer:
    """YOLOv3's own rule with scalars: one anchor by shape IoU at the own cell; others of high IoU are ignored."""
    answer = Answer(set(), set(), set())
    for truth, (box, image) in enumerate(zip(targets.boxes.numpy(), targets.image.tolist(), strict=True)):
        center, size = (box[:2] + box[2:]) / np.float32(2), box[2:] - box[:2]
        choices = [(level, k, sides) for level in anchors.levels for k, sides in enumerate(level.sizes.tolist())]
        shapes = [scalar_iou((0, 0, *size.tolist()), (0, 0, *sides)) for *_, sides in choices]
        level, k, _ = choices[shapes.index(max(shapes))]
        x = min(int(center[0] / level.stride), level.columns - 1)
        y = min(int(center[1] / level.stride), level.rows - 1)
        answer.positives.add((image, level.start + (k * level.rows + y) * level.columns + x, truth))
    taken = {(image, anchor) for image, anchor, _ in answer.positives}
    for image in range(batch_size):
        boxes = targets.boxes[targets.image == image]
        if len(boxes):
            overlap = ggiou(anchors.boxes, boxes[:, None], alpha=0.0).amax(0)
            answer.ignored.update((image, a) for a in torch.nonzero(overlap > ignore_iou).flatten().tolist())
    answer.ignored.difference_update(taken)
    return answer


def largest_matching(wanted: list[list[int]]) -> int:
    """The most truths that can have an anchor of their own at once (breadth-first augmenting paths)."""
    holder: dict[int, int] = {}
    for start in range(len(wanted)):
        came_from: dict[int, int] = {}
        queue, end = [start], None
        while queue and end is None:
            truth = queue.pop(0)
            for anchor in wanted[truth]:
                if anchor in came_from:
                    continue
                came_from[anchor] = truth
                if anchor not in holder:
                    end = anchor
                    break
                queue.append(holder[anchor])
        while end is not None:
            truth = came_from[end]
            previous = next((anchor for anchor, who in holder.items() if who == truth), None)
            if previous is not None:
                del holder[previous]
            holder[end] = truth
            end = previous
    return len(holder)


def scalar_decode(
    raw: Tensor, anchors: Anchors, index: int, decode: str = "bounded", reach: float = 0.5
) -> list[float]:
    """The xyxy box that a raw row (5 + C,) means at anchor `index`, in plain Python."""
    x, y, w, h = raw[:4].tolist()
    (cx, cy), (width, height) = anchors.centers[index].tolist(), anchors.sizes[index].tolist()
    stride = float(anchors.strides[index])

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    if decode == "darknet":
        reach, width, height = 0.0, width * math.exp(w), height * math.exp(h)
    else:
        width, height = width * (2 * sigmoid(w)) ** 2, height * (2 * sigmoid(h)) ** 2
    cx, cy = (c - stride / 2 + stride * ((1 + 2 * reach) * sigmoid(v) - reach) for c, v in ((cx, x), (cy, y)))
    return [cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2]


def binary_cross_entropy(logit: float, target: float, positive_weight: float = 1.0) -> float:
    """BCE of one logit, in plain Python."""
    return positive_weight * target * math.log1p(math.exp(-logit)) + (1 - target) * (
        logit + math.log1p(math.exp(-logit))
    )


def focal_cross_entropy(logits: Tensor, targets: Tensor, gamma: float, share: float = 0.25) -> Tensor:
    """Focal loss per element with ultralytics' meaning: BCE times (1 - p_t)^gamma and the class share."""
    probability = logits.sigmoid()
    hit = targets * probability + (1 - targets) * (1 - probability)
    weight = (targets * share + (1 - targets) * (1 - share)) * (1 - hit) ** gamma
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weight
