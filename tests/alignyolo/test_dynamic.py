"""ATSS, SimOTA and task-aligned assignment against public code's matches and against slow twins on random scenes."""

import math

import numpy as np
import pytest
import torch

from alignyolo.anchors import DenseAnchors, build_anchors
from alignyolo.assign.assignment import Context, Predictions
from alignyolo.registry import ASSIGNERS, DENSE_ASSIGNERS, DYNAMIC_ASSIGNERS
from alignyolo.targets import Targets
from tests.alignyolo.dynamic_oracles import atss_oracle, simota_oracle, tal_oracle
from tests.alignyolo.oracles import largest_matching, reachable
from tests.alignyolo.registered import drawn
from tests.alignyolo.scenes import FAMILIES, random_scene
from tests.alignyolo.test_assign import answer_of, assert_same
from tests.paths import SHARED_DATA, needs_shared_data

REFERENCE = SHARED_DATA / "assign" / "assigners-reference.npz"
MATCHES = {
    "atss_match": ("atss", {}, "atss_iou", 1e-6),
    "simota_match": ("simota", {}, "simota_iou", 1e-5),
    "tal_match": ("tal", {}, "tal_scores", 1e-4),
    "tal_plain_match": ("tal", {"enlarge": "off"}, "tal_plain_scores", 1e-4),
}
TRUTHS = 444
# Truths that public code leaves without an anchor: what `serve` is for.
LEFT_OUT = {"atss_match": 113, "simota_match": 1, "tal_match": 0, "tal_plain_match": 83}


def reference_context(data, kind: str) -> Context:
    """The forty scenes as one batch, on the anchors of a YOLO head or on dense ones."""
    anchors = build_anchors((320, 320), *FAMILIES["yolov3-tiny"])
    assert torch.equal(anchors.boxes, torch.from_numpy(data["anchors"]).float())
    if kind == "dense":
        anchors = DenseAnchors(anchors.boxes, (1200, 300), (320, 320), (16.0, 32.0))
    rows = [slice(0, count) for count in data["gt_count"]]
    boxes = [torch.from_numpy(data["gt_boxes"][image, row]).float() for image, row in enumerate(rows)]
    labels = [torch.from_numpy(data["gt_labels"][image, row]) for image, row in enumerate(rows)]
    predictions = Predictions(*(torch.from_numpy(data[key]).float() for key in ("pred_boxes", "pred_scores")))
    return Context(anchors, Targets.stack(boxes, labels), len(rows), predictions)


@needs_shared_data
@pytest.mark.parametrize("kind", ["grid", "dense"])
@pytest.mark.parametrize("key", MATCHES)
def test_matches_equal_public_code(key, kind):
    name, settings, metric, close = MATCHES[key]
    with np.load(REFERENCE) as data:
        context = reference_context(data, kind)
        expected, first = data[key], np.cumsum([0, *data["gt_count"]])
        values = data[metric] if data[metric].ndim == 2 else data[metric].max(-1)
    found = DENSE_ASSIGNERS[name].bind(**settings)(context)
    matches = np.full(expected.shape, -1)
    matches[found.image, found.anchor] = found.target.numpy() - first[found.image]
    np.testing.assert_array_equal(matches, expected)
    np.testing.assert_allclose(found.metric.numpy(), values[found.image, found.anchor], atol=close)
    assert int(found.unmatched.sum()) == LEFT_OUT[key]

    served = DENSE_ASSIGNERS[name].bind(**settings, serve="on")(context)
    assert not served.unmatched.any()
    assert found.served is None
    assert torch.equal(served.served, found.unmatched)
    assert len(served.anchor) == len(found.anchor) + LEFT_OUT[key]
    pairs, more = (set(zip(each.target.tolist(), each.anchor.tolist(), strict=True)) for each in (found, served))
    assert len({truth for truth, _ in more - pairs}) >= LEFT_OUT[key]


def scene_context(rng, family, dense, most=8) -> Context:
    """A small random batch with predictions near the anchors, in float64."""
    anchors, targets, batch_size = random_scene(rng, family, batch_size=2, most=most)
    targets = targets._replace(labels=targets.labels % 3)
    boxes, scores, objectness = (part.double() for part in drawn(anchors, targets, batch_size))
    predictions = Predictions(boxes, scores[..., :3], None if dense else objectness)
    if dense:
        strides = tuple(float(level.stride) for level in anchors.levels)
        anchors = DenseAnchors(anchors.boxes, anchors.counts, anchors.image_size, strides)
    return Context(anchors, targets, batch_size, predictions)


def expected_of(name, context, reach):
    """What the slow twin says, with the same settings as the registered assigner has."""
    anchors = context.anchors
    dense = isinstance(anchors, DenseAnchors)
    if name.startswith("atss"):
        return atss_oracle(context, anchors.counts, reach=reach, **({"alpha": 0.3} if "ggiou" in name else {}))
    levels = anchors.level_strides if dense else [level.stride for level in anchors.levels]
    if name.startswith("tal"):
        overlap = "ggiou" if "ggiou" in name else "ciou"
        return tal_oracle(context, sorted(levels)[min(1, len(levels) - 1)], overlap=overlap, reach=reach)
    return simota_oracle(context, np.repeat(levels, anchors.counts), reach=reach)


def compare(name, count, seed):
    """An assigner and its twin on so many scenes, on heads of both reaches and on dense anchors."""
    rng = np.random.default_rng(seed)
    found = 0
    for number in range(count):
        family = ("yolov3-tiny", "scarce", "yolov3")[number % 3 if not name.startswith("simota") else number % 2]
        context = scene_context(rng, family, dense=number % 4 == 0)
        reach = math.inf if number % 4 == 0 else (0.5, 0.0, math.inf)[number % 3]
        answer = answer_of(DYNAMIC_ASSIGNERS[name].bind(reach=reach)(context))
        assert_same(answer, expected_of(name, context, reach))
        found += len(answer.positives)
    assert found > count


@pytest.mark.parametrize("name", DYNAMIC_ASSIGNERS)
def test_assigners_equal_their_twins(name):
    compare(name, 12, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("name", DYNAMIC_ASSIGNERS)
def test_assigners_equal_their_twins_on_1000_scenes(name):
    compare(name, 1000, seed=12)


@pytest.mark.parametrize("serve", ["off", "on"])
@pytest.mark.parametrize("name", DYNAMIC_ASSIGNERS)
def test_positives_are_in_reach_and_serving_leaves_out_no_truth_that_has_an_anchor(name, serve):
    """No anchor has two truths; with `serve`, truths go without only where anchors run out."""
    rng = np.random.default_rng(13)
    settings = {"serve": serve} if "serve" in ASSIGNERS[name].keys else {}
    for _ in range(6):
        context = scene_context(rng, "yolov3-tiny", dense=False, most=40)
        found = ASSIGNERS[name].bind(**settings)(context)
        can = reachable(context.anchors, context.targets.boxes.numpy(), 0.5)
        assert can[found.target.numpy(), found.anchor.numpy()].all()
        claimed = list(zip(found.image.tolist(), found.anchor.tolist(), strict=True))
        assert len(claimed) == len(set(claimed))
        assert not found.ignored[found.image, found.anchor].any()
        plain = ASSIGNERS[name].bind()(context)
        if settings.get("serve") == "on":
            assert set(found.target.tolist()) >= set(plain.target.tolist())
            for image in range(context.batch_size):
                rows = torch.nonzero(context.targets.image == image).flatten().tolist()
                wanted = [np.flatnonzero(can[truth]).tolist() for truth in rows]
                assert len(set(rows) & set(found.target.tolist())) == largest_matching(wanted)


@pytest.mark.parametrize("batch_size", [0, 2])
@pytest.mark.parametrize("serve", ["off", "on"])
@pytest.mark.parametrize("name", DENSE_ASSIGNERS)
def test_dense_anchors_of_a_batch_without_truths_give_an_empty_assignment(name, serve, batch_size):
    scene = random_scene(np.random.default_rng(5), "yolov3-tiny", batch_size=1)
    dense = DenseAnchors(scene.anchors.boxes, scene.anchors.counts, scene.anchors.image_size, (16.0, 32.0))
    none = Targets.stack([], [])
    settings = {"serve": serve} if "serve" in DENSE_ASSIGNERS[name].keys else {}
    context = Context(dense, none, batch_size, drawn(scene.anchors, none, batch_size))
    found = DENSE_ASSIGNERS[name].bind(**settings)(context)
    assert [len(part) for part in found[:4]] == [0, 0, 0, 0]
    assert found.ignored.shape == (batch_size, len(dense.boxes)) and not found.ignored.any()
    assert found.ignored.dtype == torch.bool
    assert found.unmatched.shape == (0,)


def test_without_predictions_it_says_so():
    context = scene_context(np.random.default_rng(1), "yolov3-tiny", dense=False)
    for name in ("tal", "simota"):
        with pytest.raises(TypeError, match="predictions"):
            ASSIGNERS[name].bind()(context._replace(predictions=None))


def test_a_head_without_nms_keeps_each_truths_best_anchor():
    context = scene_context(np.random.default_rng(2), "yolov3", dense=False)
    many, one = (DYNAMIC_ASSIGNERS["tal"].bind(topk=7, final=final)(context) for final in (0, 1))
    assert len(set(one.target.tolist())) == len(one.target) < len(many.target)
    assert set(one.target.tolist()) == set(many.target.tolist())
