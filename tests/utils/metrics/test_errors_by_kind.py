"""TIDE's kinds of error against a slow double loop by the definition of its paper (Bolya et al. 2020, section 2.2)."""

import json
import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from utils.metrics.coco_eval import ERROR_KINDS, Boxes, tide_errors
from utils.metrics.coco_metrics import ERROR_COLUMNS, CocoMetrics
from utils.metrics.truths import plain_truths

FOREGROUND, BACKGROUND = 0.5, 0.1


def iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    overlap = max(width, 0) * max(height, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return overlap / (areas - overlap)


def average_precision(found, number):
    """COCO's AP of (score, right) pairs: the mean over 101 recalls of the best precision at that recall or above."""
    right, points = 0, []
    for count, (_, correct) in enumerate(sorted(found, key=lambda pair: -pair[0]), 1):
        right += correct
        points.append((right / number, right / count))
    wanted = np.linspace(0, 1, 101).tolist()
    return sum(max((p for recall, p in points if recall >= r), default=0.0) for r in wanted) / 101


def mean_ap(found, numbers):
    return sum(average_precision(found[label], number) for label, number in numbers.items()) / len(numbers)


def matched(truths, detections):
    """COCO's matching at IoU .5: the truth of each detection, or None."""
    owner = {}
    for d in sorted(range(len(detections)), key=lambda d: -detections[d]["score"]):
        best, place = FOREGROUND, None
        for t, truth in enumerate(truths):
            same = (truth["image"], truth["label"]) == (detections[d]["image"], detections[d]["label"])
            if same and t not in owner.values() and iou(detections[d]["box"], truth["box"]) >= best:
                best, place = iou(detections[d]["box"], truth["box"]), t
        owner[d] = place
    return owner


def kind_of(detection, truths, taken):
    """The kind of a false alarm, and the truth that it would find if it were mended."""
    same = cross = (0.0, None)
    for t, truth in enumerate(truths):
        if truth["image"] == detection["image"]:
            overlap = iou(detection["box"], truth["box"])
            if truth["label"] == detection["label"]:
                same = max(same, (overlap, t), key=lambda pair: pair[0])
            else:
                cross = max(cross, (overlap, t), key=lambda pair: pair[0])
    if BACKGROUND <= same[0] <= FOREGROUND:
        return "localisation", same[1]
    if cross[0] >= FOREGROUND:
        return "classification", cross[1]
    if same[0] > FOREGROUND:
        assert same[1] in taken, "else it would have found it"
        return "duplicate", None
    return ("background", None) if cross[0] <= BACKGROUND else ("both", None)


def by_hand(truths, detections):
    """What each kind costs in AP50, and how many there are."""
    owner = matched(truths, detections)
    taken = {t for t in owner.values() if t is not None}
    numbers = defaultdict(int)
    for truth in truths:
        numbers[truth["label"]] += 1
    kinds = {d: kind_of(detections[d], truths, taken) for d, t in owner.items() if t is None}
    aimed_at = {t for _, t in kinds.values() if t is not None}
    missed = [t for t in range(len(truths)) if t not in taken and t not in aimed_at]

    # Several can aim at one object that nothing has found. As in the authors' program only the surest of them all, of
    # either kind, would find it; the others would be duplicates.
    surest = {}
    for d, (_, t) in kinds.items():
        if t is not None and t not in taken:
            surest[t] = max(surest.get(t, d), d, key=lambda each: detections[each]["score"])

    def found(mended=None):
        """(score, right) of every class, the false alarms of a kind mended."""
        pairs = defaultdict(list)
        for d, t in owner.items():
            score, label = detections[d]["score"], detections[d]["label"]
            if t is not None:
                pairs[label].append((score, True))
            elif kinds[d][0] != mended:
                pairs[label].append((score, False))
            elif surest.get(kinds[d][1]) == d:
                pairs[truths[kinds[d][1]]["label"]].append((score, True))
        return pairs

    base = mean_ap(found(), numbers)
    lost = {kind: mean_ap(found(kind), numbers) - base for kind in ERROR_KINDS.values() if kind != "missed"}
    without = {label: n - sum(truths[t]["label"] == label for t in missed) for label, n in numbers.items()}
    left = {label: n for label, n in without.items() if n}
    total = sum(average_precision(found()[label], n) for label, n in left.items())
    # A class of which all was missed has nothing left to be found, and counts as it did.
    lost["missed"] = total / len(numbers) - base
    counts = {kind: sum(name == kind for name, _ in kinds.values()) for kind in lost} | {"missed": len(missed)}
    return base, lost, counts


def scene(seed, images=12, classes=4):
    """Truths that overlap, and detections of every kind: shaken a little and a lot, of wrong classes, doubled."""
    random = np.random.default_rng(seed)
    truths, detections = [], []
    for image in range(images):
        for _ in range(random.integers(0, 6)):
            corner, sides = random.uniform(0, 120, 2), random.uniform(20, 90, 2)
            truth = {"image": image, "label": int(random.integers(classes - 1)), "box": [*corner, *(corner + sides)]}
            truths.append(truth)
            for _ in range(random.integers(0, 5)):
                move = np.tile(random.normal(0, random.choice([0.03, 0.25]), 2) * sides, 2)
                label = truth["label"] if random.random() < 0.7 else int(random.integers(classes))
                detections.append({"image": image, "label": label, "box": [*(np.array(truth["box"]) + move)]})
        for _ in range(random.integers(0, 4)):
            corner, sides = random.uniform(0, 200, 2), random.uniform(10, 60, 2)
            detections.append(
                {"image": image, "label": int(random.integers(classes)), "box": [*corner, *(corner + sides)]}
            )
    for detection in detections:
        detection["score"] = float(random.random())
    return truths, detections


def as_boxes(rows):
    return Boxes(
        np.array([row["image"] for row in rows], int),
        np.array([row["box"] for row in rows], float).reshape(-1, 4),
        np.array([row["label"] for row in rows], int),
        np.array([row.get("score", 1.0) for row in rows], float),
    )


@pytest.mark.parametrize("seed", range(12))
def test_costs_and_counts_are_those_of_the_papers_definition(seed):
    truths, detections = scene(seed)
    _, lost, counts = by_hand(truths, detections)
    found = tide_errors(as_boxes(truths), as_boxes(detections), 4)
    assert found.counts == counts
    assert found.lost == pytest.approx(lost, abs=1e-9)


def test_the_scenes_hold_every_kind():
    counts = [by_hand(*scene(seed))[2] for seed in range(3)]
    assert all(sum(count[kind] for count in counts) > 5 for kind in ERROR_KINDS.values()), counts


A, B = [10.0, 10, 50, 50], [100.0, 100, 140, 140]


@pytest.mark.parametrize(
    ("detections", "kind"),
    [
        ([(0, A, 0.9), (0, [100.0, 100, 140, 118], 0.8)], "localisation"),
        ([(0, A, 0.9), (1, B, 0.8)], "classification"),
        ([(0, A, 0.9), (0, B, 0.7), (0, A, 0.8)], "duplicate"),
        ([(0, A, 0.5), (0, B, 0.4), (0, [200.0, 200, 220, 220], 0.9)], "background"),
        ([(0, A, 0.9), (0, B, 0.4), (1, [100.0, 100, 140, 115], 0.8)], "both"),
        ([(0, A, 0.9)], "missed"),
    ],
)
def test_one_error_of_each_kind(detections, kind):
    metrics = CocoMetrics([[300, 300]], [0, 2], np.array([A, B]), np.array([0, 0]), ["a", "b"])
    metrics.add(0, [row[1] for row in detections], [row[2] for row in detections], [row[0] for row in detections])
    found = metrics.compute(errors=True)
    assert found.error_counts == {name: int(name == kind) for name in ERROR_KINDS.values()}
    costs = {name: found.overall[f"tide_{name}"] for name in ERROR_KINDS.values()}
    # False alarms of a class without labels cost nothing: that class is in no mean.
    for name, cost in costs.items():
        assert cost == pytest.approx(1 - found.overall["ap50"] if name == kind else 0, abs=1e-9), name
    assert "AP50 lost by error: classification" in found.table()
    assert max(map(len, found.table().splitlines())) <= 120


def test_crowds_and_difficult_objects_take_no_part():
    """What lies on them is neither a false alarm nor a localisation error, and they are not missed."""
    plain = plain_truths(np.array([0, 3]), np.array([A, B, [200.0, 0, 240, 40]]), np.array([0, 0, 0]), 1)
    truths = replace(plain, difficult=np.array([False, True, False]), crowd=np.array([False, False, True]))
    metrics = CocoMetrics.of(truths, ["a"])
    metrics.add(0, [A, B, B, [205.0, 5, 215, 15]], [0.5, 0.9, 0.8, 0.7], [0, 0, 0, 0])
    found = metrics.compute(errors=True)
    assert sum(found.error_counts.values()) == 0
    assert found.overall["ap50"] == pytest.approx(1)
    assert [found.overall[column] for column in ERROR_COLUMNS] == pytest.approx([0] * 6, abs=1e-9)


def test_they_are_columns_of_metrics_json_and_only_where_asked_for():
    metrics = CocoMetrics([[300, 300]], [0, 1], np.array([A]), np.array([0]), ["a"])
    metrics.add(0, [B], [0.5], [0])
    document = metrics.compute(errors=True).to_json()
    assert set(ERROR_COLUMNS) <= set(document)
    assert document["error_counts"] == dict.fromkeys(ERROR_KINDS.values(), 0) | {"background": 1, "missed": 1}
    json.dumps(document, allow_nan=False)
    assert not set(ERROR_COLUMNS) & set(metrics.compute().to_json())


def test_without_labels_costs_are_undefined():
    metrics = CocoMetrics([[300, 300]], [0, 0], np.zeros((0, 4)), np.zeros(0, int), ["a"])
    metrics.add(0, [B], [0.5], [0])
    found = metrics.compute(errors=True)
    assert all(math.isnan(found.overall[column]) for column in ERROR_COLUMNS)
    assert found.error_counts["background"] == 1
    none = CocoMetrics([[300, 300]], [0, 1], np.array([A]), np.array([0]), ["a"]).compute(errors=True)
    assert none.error_counts["missed"] == 1
