"""Threshold matching of arbitrary boxes: a double loop, torchvision's matchers, and truths that float32 cannot see."""

import math

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import Matcher, SSDMatcher
from torchvision.ops import box_iou

from alignyolo.anchors import DenseAnchors
from alignyolo.assign.assignment import Context
from alignyolo.assign.dense import BACKGROUND, IGNORED, DenseThreshold, match_boxes
from alignyolo.gaussian_iou import ggiou, log_ggiou
from alignyolo.targets import Targets
from tests.alignyolo.oracles import scalar_iou
from tests.alignyolo.scenes import random_boxes


def dense_anchors(height=128, width=160, stride=16):
    """RetinaNet's kind: nine shapes on every cell, many of them beyond the image's border."""
    boxes = []
    for y in range(stride // 2, height, stride):
        for x in range(stride // 2, width, stride):
            for size in (32, 40.3, 50.8):
                for ratio in (0.5, 1, 2):
                    w, h = size / math.sqrt(ratio), size * math.sqrt(ratio)
                    boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(boxes, dtype=torch.float64)


def scalar_log(anchor, truth, metric, alpha=0.3, beta=1 / 6, sigma="overlap"):
    """Logarithm of IoU or GGIoU in plain Python; -inf without overlap."""
    width = min(anchor[2], truth[2]) - max(anchor[0], truth[0])
    height = min(anchor[3], truth[3]) - max(anchor[1], truth[1])
    if width <= 0 or height <= 0:
        return -math.inf
    log_iou = math.log(scalar_iou(anchor, truth))
    if metric == "iou":
        return log_iou
    if sigma == "truth":
        width, height = truth[2] - truth[0], truth[3] - truth[1]
    dx = (anchor[0] + anchor[2] - truth[0] - truth[2]) / 2
    dy = (anchor[1] + anchor[3] - truth[1] - truth[3]) / 2
    return (1 - alpha) * log_iou - alpha / 2 * ((dx / (beta * width)) ** 2 + (dy / (beta * height)) ** 2)


def double_loop(anchors, truths, metric, positive, negative, forced, **settings):
    """Every anchor with every truth, as the docstring of match_boxes says.

    A truth inside several anchors of equal area has several best ones, but for rounding: the table is torch's.
    """
    if metric == "ggiou":
        table = checked = log_ggiou(anchors, truths[:, None], **settings)
        value_of, nothing = math.exp, -math.inf
    else:
        table = box_iou(truths, anchors)
        checked, value_of, nothing = table.log(), float, 0.0
    slow = [[scalar_log(a, t, metric, **settings) for a in anchors.tolist()] for t in truths.tolist()]
    torch.testing.assert_close(checked, torch.tensor(slow, dtype=table.dtype), rtol=1e-8, atol=1e-8)
    table = table.tolist()
    answer, owners = [], []
    for column in range(len(anchors)):
        values = [row[column] for row in table]
        owner = max(range(len(values)), key=lambda truth: values[truth])  # the first of equals
        value = value_of(values[owner])
        owners.append(owner)
        answer.append(owner if value >= positive else BACKGROUND if value < negative else IGNORED)
    for truth, row in enumerate(table):
        highest = max(row)
        if highest == nothing or forced == "none":
            continue
        if forced == "claim":
            answer[row.index(highest)] = truth
        else:
            for anchor, value in enumerate(row):
                if value == highest:
                    answer[anchor] = owners[anchor]
    return answer


@pytest.mark.parametrize("forced", ["best", "claim", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {"metric": "iou"},
        {"metric": "ggiou"},
        {"metric": "ggiou", "alpha": 0.4, "beta": 1 / 7, "sigma": "truth"},
        {"metric": "ggiou", "positive": 0.5, "negative": 0.5},
    ],
    ids=str,
)
def test_matching_is_the_double_loop(settings, forced):
    anchors = dense_anchors()
    settings = {"positive": 0.5, "negative": 0.4, **settings}
    seen = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        truths = torch.from_numpy(random_boxes(rng, 128, 160, int(rng.integers(1, 12)))).double()
        expected = double_loop(anchors, truths, forced=forced, **settings)
        assert match_boxes(anchors, truths, forced=forced, **settings).tolist() == expected
        seen |= set(np.sign(expected).tolist()) | ({IGNORED} & set(expected))
    assert {1, BACKGROUND} <= seen


@pytest.mark.parametrize("thresholds", [(0.5, 0.4), (0.7, 0.3)])
def test_iou_is_torchvisions_matcher(thresholds):
    anchors = dense_anchors().float()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        truths = torch.from_numpy(random_boxes(rng, 128, 160, int(rng.integers(1, 40))))
        truths = truths[((truths[:, 2:] - truths[:, :2]) > 0).all(1)]  # torchvision refuses boxes without area
        truths = truths[(box_iou(truths, anchors) > 0).any(1)]
        if not len(truths):
            continue
        stock = Matcher(*thresholds, allow_low_quality_matches=True)(box_iou(truths, anchors))
        assert torch.equal(match_boxes(anchors, truths, "iou", *thresholds), stock)
        stock = SSDMatcher(0.5)(box_iou(truths, anchors))
        assert torch.equal(match_boxes(anchors, truths, "iou", 0.5, 0.5, "claim"), stock)


def test_a_tiny_truth_gets_the_anchors_nearest_to_it_and_not_all():
    """GGIoU of a 1 px truth is rounded to 0 for every anchor; torchvision's matcher would call all of them best."""
    anchors, truth = dense_anchors().float(), torch.tensor([[64.0, 65, 65, 66]])
    assert (ggiou(anchors, truth) == 0).all()
    chosen = anchors[match_boxes(anchors, truth) >= 0]
    assert 1 <= len(chosen) <= 3  # the smallest three of a cell have equal areas
    torch.testing.assert_close((chosen[:, :2] + chosen[:, 2:]) / 2, torch.tensor([[72.0, 72.0]]).expand(len(chosen), 2))
    stock = Matcher(0.5, 0.4, allow_low_quality_matches=True)(torch.zeros(1, len(anchors)))
    assert (stock >= 0).all()


@pytest.mark.parametrize("metric", ["iou", "ggiou"])
@pytest.mark.parametrize("forced", ["best", "claim"])
def test_a_truth_that_no_anchor_touches_forces_nothing(metric, forced):
    truths = torch.tensor([[900.0, 900, 950, 950], [40, 40, 40, 60]])
    assert (match_boxes(dense_anchors().float(), truths, metric, forced=forced) == BACKGROUND).all()


def test_without_truths_all_is_background():
    assert (match_boxes(dense_anchors(), torch.zeros(0, 4)) == BACKGROUND).all()
    assert match_boxes(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0,)


@pytest.mark.parametrize("wrong", [{"metric": "giou"}, {"forced": "all"}])
def test_unknown_words_are_refused(wrong):
    with pytest.raises(ValueError, match="(metric|forced) must be '"):
        match_boxes(torch.zeros(1, 4), torch.zeros(1, 4), **wrong)


def test_a_batch_is_its_images_one_by_one():
    anchors, rng = dense_anchors().float(), np.random.default_rng(3)
    boxes = [torch.from_numpy(random_boxes(rng, 128, 160, count)) for count in (4, 0, 7)]
    targets = Targets.stack(boxes, [torch.zeros(len(part)) for part in boxes])
    shuffled = Targets(*(part[torch.randperm(11, generator=torch.Generator().manual_seed(0))] for part in targets))
    assignment = DenseThreshold()(Context(DenseAnchors(anchors, (len(anchors),), (320, 320)), shuffled, 3))
    pairs = set(zip(assignment.image.tolist(), assignment.anchor.tolist(), strict=True))
    for image in range(3):
        truths = shuffled.boxes[shuffled.image == image]
        matches = match_boxes(anchors, truths)
        assert {anchor for number, anchor in pairs if number == image} == set((matches >= 0).nonzero()[:, 0].tolist())
        assert torch.equal(assignment.ignored[image], matches == IGNORED)
        mine = assignment.image == image
        expected = truths[matches[assignment.anchor[mine]]]
        assert torch.equal(shuffled.boxes[assignment.target[mine]], expected)
    assert set(assignment.target.tolist()) == set((~assignment.unmatched).nonzero()[:, 0].tolist())
