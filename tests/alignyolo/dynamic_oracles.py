"""Slow twins of ATSS, SimOTA and task-aligned assignment: one truth and one anchor at a time, as the papers say it."""

import math

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy

from alignyolo.assign.metric import Metric, plain_iou
from alignyolo.gaussian_iou import ggiou
from alignyolo.similarities.iou import ciou
from tests.alignyolo.oracles import Answer, reachable


def can_reach(context, reach):
    """(T, A) whether the head can place an anchor's box on a truth; always where its reach is inf."""
    boxes = context.targets.boxes.numpy()
    if math.isinf(reach):
        return np.ones((len(boxes), len(context.anchors.boxes)), dtype=bool)
    return reachable(context.anchors, boxes, reach)


def answer(context, positives, ignored=()):
    """The pairs {(image, anchor, truth)} as an answer."""
    unmatched = set(range(len(context.targets.boxes))) - {truth for *_, truth in positives}
    taken = {(image, anchor) for image, anchor, _ in positives}
    return Answer(set(positives), set(ignored) - taken, unmatched)


def centre_inside(centre, box, least):
    """Whether a point lies in a box by more than `least` pixels."""
    return min(centre[0] - box[0], centre[1] - box[1], box[2] - centre[0], box[3] - centre[1]) > least


def images_of(context):
    """Every image with its truths' rows."""
    for image in range(context.batch_size):
        yield image, torch.nonzero(context.targets.image == image).flatten().tolist()


def atss_oracle(context, counts, topk=9, reach=math.inf, **metric):
    """The nearest of every level, of `counts` anchors; the threshold; the centre inside; the largest metric."""
    anchors, boxes = context.anchors, context.targets.boxes
    measure, can = Metric(**({"alpha": 0.0} | metric)), can_reach(context, reach)
    positives, ignored = [], set()
    starts = np.cumsum([0, *counts]).tolist()
    for image, rows in images_of(context):
        wanted = {}
        for truth in rows:
            box = boxes[truth]
            centre, near = (box[:2] + box[2:]) / 2, []
            for start, end in zip(starts, starts[1:], strict=False):
                distance = (centre - anchors.centers[start:end]).square().sum(-1)
                near += [start + each for each in np.argsort(distance.numpy(), kind="stable")[:topk].tolist()]
            values = measure.of_ranking(measure.ranking(anchors.boxes[near], box)).double().numpy()
            limit = values.mean() + (values.std(ddof=1) if len(values) > 1 else 0)
            for anchor, value in zip(near, values.tolist(), strict=True):
                if value >= limit and value > 0 and centre_inside(anchors.centers[anchor], box, 0.01):
                    if can[truth, anchor]:
                        wanted.setdefault(anchor, []).append((-value, truth))
                    else:
                        ignored.add((image, anchor))
        positives += [(image, anchor, min(rivals)[1]) for anchor, rivals in wanted.items()]
    return answer(context, positives, ignored)


def simota_oracle(context, strides, radius=2.5, topk=10, iou_weight=3.0, reach=math.inf):
    """Costs of all candidates of an image; k by the best IoUs; the cheapest truth where several want an anchor."""
    anchors, targets, predictions = context.anchors, context.targets, context.predictions
    can, positives = can_reach(context, reach), []
    for image, rows in images_of(context):
        scores = predictions.scores[image]
        if predictions.objectness is not None:
            scores = (scores * predictions.objectness[image][:, None]).sqrt()
        cost, overlap, near = {}, {}, {}
        for truth in rows:
            # In the predictions' precision, as the assigner: an anchor on the edge is in or out by a rounding.
            box = targets.boxes[truth].to(predictions.boxes.dtype)
            middle = (box[:2] + box[2:]) / 2
            for anchor, centre in enumerate(anchors.centers):
                inside = bool(centre_inside(centre, box, 0))
                square = bool(((centre - middle).abs() < radius * strides[anchor]).all())
                near[truth, anchor] = (inside, square)
        valid = {anchor for (_, anchor), where in near.items() if any(where)}
        for truth in rows:
            box = targets.boxes[truth].double()
            for anchor in sorted(valid):
                # A head's own candidates are those it reaches, in this truth's box or square.
                if not can[truth, anchor] or (not math.isinf(reach) and not any(near[truth, anchor])):
                    continue
                iou = max(float(plain_iou(predictions.boxes[image, anchor], box)), 0.0)
                one_hot = torch.eye(scores.shape[1], dtype=scores.dtype)[targets.labels[truth]]
                entropy = float(binary_cross_entropy(scores[anchor], one_hot, reduction="sum"))
                outside = 0 if all(near[truth, anchor]) else 1e5
                cost[truth, anchor] = entropy - iou_weight * math.log(iou + 1e-7) + outside
                overlap[truth, anchor] = iou
        takers = {}
        for truth in rows:
            mine = [anchor for owner, anchor in cost if owner == truth]
            k = max(int(sum(sorted((overlap[truth, anchor] for anchor in mine), reverse=True)[:topk])), 1)
            for anchor in sorted(mine, key=lambda each, truth=truth: cost[truth, each])[:k]:
                takers.setdefault(anchor, []).append(truth)
        for anchor, owners in takers.items():
            rivals = [truth for truth in rows if (truth, anchor) in cost] if len(owners) > 1 else owners
            positives.append((image, anchor, min(rivals, key=lambda truth, anchor=anchor: cost[truth, anchor])))
    return answer(context, positives)


def tal_oracle(context, floor, topk=10, alpha=0.5, beta=6.0, overlap="ciou", reach=math.inf):
    """score^alpha overlap^beta in truths whose sides are at least `floor`; the best; the largest overlap."""
    anchors, targets, predictions = context.anchors, context.targets, context.predictions
    can, positives = can_reach(context, reach), []
    for image, rows in images_of(context):
        overlaps, takers = {}, {}
        for truth in rows:
            # In the predictions' precision, as the assigner: an anchor on the edge is in or out by a rounding.
            box, label = targets.boxes[truth].to(predictions.boxes.dtype), int(targets.labels[truth])
            middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]).clamp(min=floor) / 2
            grown = torch.cat([middle - half, middle + half])
            around = torch.where((box[2:] - box[:2] < floor).repeat(2), grown, box)
            ranked = []
            for anchor in np.flatnonzero(can[truth]).tolist():
                if not centre_inside(anchors.centers[anchor], around, 1e-9):
                    continue
                predicted = predictions.boxes[image, anchor]
                measure = ciou(box.double(), predicted) if overlap == "ciou" else ggiou(predicted, box.double())
                overlaps[truth, anchor] = max(float(measure), 0.0)
                score = float(predictions.scores[image, anchor, label])
                if predictions.objectness is not None:
                    score *= float(predictions.objectness[image, anchor])
                ranked.append((score**alpha * overlaps[truth, anchor] ** beta, anchor))
            for aligned, anchor in sorted(ranked, key=lambda each: -each[0])[:topk]:
                if aligned > 0:
                    takers.setdefault(anchor, []).append(truth)
        for anchor, owners in takers.items():
            rivals = [truth for truth in rows if (truth, anchor) in overlaps] if len(owners) > 1 else owners
            positives.append((image, anchor, max(rivals, key=lambda truth, anchor=anchor: overlaps[truth, anchor])))
    return answer(context, positives)
