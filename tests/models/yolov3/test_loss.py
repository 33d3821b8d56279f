"""The detection loss against ultralytics/yolov3's numbers, and its rules one by one against scalars."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from alignyolo.anchors import build_anchors
from alignyolo.assign.assignment import Assignment, Context
from alignyolo.balance import Balance, metric
from alignyolo.registry import ASSIGNERS, BASE_SIMILARITIES
from alignyolo.similarities.bound import similarity as similarity_of
from alignyolo.targets import Targets
from models.yolov3.decoding import Decoding
from models.yolov3.loss import OBJECTNESS_TARGETS, ClassTerm, CrossEntropy, DetectionLoss, Gains, Gather
from tests.alignyolo.oracles import (
    binary_cross_entropy,
    focal_cross_entropy,
    scalar_decode,
    scalar_ggiou,
    scalar_iou,
)
from tests.alignyolo.registered import AROUND, BOX_SIMILARITIES, assigner
from tests.alignyolo.scenes import FAMILIES, random_scene
from tests.paths import SHARED_DATA, needs_shared_data

CLASSES = 5
PLAIN = {
    "box_gain": 0.05,
    "obj_gain": 1.0,
    "cls_gain": 0.5,
    "obj_target": "iou",
    "cls_pw": 1.0,
    "obj_pw": 1.0,
    "label_smoothing": 0.0,
    "fl_gamma": 0.0,
    "by_log": True,
    "ggiou_gamma": 0.0,
    "ggiou_wloc": "auto",
    "balance_metric": "ggiou",
    "ggiou_alpha": 0.3,
    "ggiou_beta": 1 / 6,
    "ggiou_sigma": "overlap",
    "decode": "bounded",
    "xy_reach": 0.5,
}
NO_TARGETS = Targets(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).long())


def make_loss(**changes) -> DetectionLoss:
    """A loss with plain gains; two levels unless `level_balance` says otherwise."""
    parts = {"similarity": BOX_SIMILARITIES["ciou"], "assigner": assigner("anchor_ratio"), "level_balance": (4.0, 1.0)}
    return DetectionLoss(**parts_of(parts | changes))


def parts_of(settings: dict) -> dict:
    """The parts of a detection loss, those of plain settings made here."""
    own = {name: settings.pop(name) for name in tuple(settings) if name in PLAIN}
    given = SimpleNamespace(**(PLAIN | own))
    gaussian = {"alpha": given.ggiou_alpha, "beta": given.ggiou_beta, "sigma": given.ggiou_sigma}
    measure = metric(given.balance_metric, **(gaussian if given.balance_metric == "ggiou" else {}))
    return {
        "gains": Gains(given.box_gain, given.obj_gain, given.cls_gain),
        "weight": Balance(given.ggiou_gamma, given.ggiou_wloc, measure),
        "quality": OBJECTNESS_TARGETS[given.obj_target],
        "obj_entropy": CrossEntropy(given.obj_pw, given.fl_gamma, given.by_log),
        "class_term": ClassTerm(CrossEntropy(given.cls_pw, given.fl_gamma, given.by_log), given.label_smoothing),
        "decoding": Decoding(given.decode, given.xy_reach),
        **settings,
    }


class FixedAssigner:
    """An assigner that always answers with given positives [(image, anchor, target)] and ignored [(image, anchor)]."""

    def __init__(self, positives, ignored=()):
        self.positives, self.ignored = positives, ignored

    needs_predictions = False

    def __call__(self, context: Context) -> Assignment:
        anchors, targets, batch_size, _ = context
        image, anchor, target = torch.tensor(self.positives).long().reshape(-1, 3).T.contiguous()
        ignored = torch.zeros(batch_size, len(anchors.centers), dtype=torch.bool)
        for where in self.ignored:
            ignored[where] = True
        unmatched = torch.ones(len(targets.image), dtype=torch.bool)
        unmatched[target] = False
        return Assignment(anchor, image, target, torch.ones(len(anchor)), ignored, unmatched)


@pytest.fixture
def two_threads():
    """Two threads, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small():
    """Two images of 96 x 128 px on the tiny anchors: raw outputs in float64, anchors, and five truths."""
    anchors = build_anchors((96, 128), *FAMILIES["yolov3-tiny"], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    raw = torch.randn(2, len(anchors.centers), 5 + CLASSES, generator=generator, dtype=torch.float64)
    boxes = [(10, 12, 50, 70), (60, 20, 90, 44), (12, 10, 48, 72), (0, 0, 120, 90), (70, 60, 82, 75)]
    targets = Targets(
        torch.tensor(boxes, dtype=torch.float64), torch.tensor([0, 3, 1, 4, 2]), torch.tensor([0, 0, 0, 1, 1])
    )
    return raw.requires_grad_(), anchors, targets


# Anchors 0-143 lie on the first level (3 x 6 x 8), 144-179 on the second (3 x 3 x 4).
POSITIVES = [(0, 5, 0), (0, 77, 1), (1, 140, 4), (0, 150, 2), (1, 170, 3)]


def scalar_boxes(raw, anchors, targets) -> tuple[list, list]:
    """Predicted and true box of every pair of POSITIVES."""
    pred = [scalar_decode(raw[image, anchor].detach(), anchors, anchor) for image, anchor, _ in POSITIVES]
    return pred, [targets.boxes[target].tolist() for *_, target in POSITIVES]


def by_level(values) -> float:
    """Mean over the three positives of the first level plus the mean over the two of the second."""
    return sum(values[:3]) / 3 + sum(values[3:]) / 2


@pytest.mark.parametrize("kind", ["bounded", "darknet"])
@pytest.mark.parametrize("reach", [0.5, 0.0, 0.25])
def test_decode_equals_scalars(small, kind, reach):
    raw, anchors, _ = small
    boxes = Decoding(kind, reach).boxes(raw[..., :4], anchors)
    assert boxes.shape == (*raw.shape[:2], 4)
    for image, index in ((0, 0), (0, 143), (1, 144), (1, 179), (1, 60)):
        expected = scalar_decode(raw[image, index].detach(), anchors, index, kind, reach)
        assert boxes[image, index].tolist() == pytest.approx(expected, abs=1e-9)


@needs_shared_data
@pytest.mark.parametrize("model", ["yolov3", "yolov3-tiny"])
@pytest.mark.parametrize("name", ["iou", "giou", "diou", "ciou"])
def test_losses_and_gradients_equal_ultralytics(model, name):
    with np.load(SHARED_DATA / "loss" / f"{model}-detection-loss-reference.npz") as data:
        side, strides = int(data["image_size"]), data["strides"].astype(int).tolist()
        anchors = build_anchors((side, side), strides, data["anchors_pixels"].tolist(), dtype=torch.float64)
        rows = torch.from_numpy(data["targets_image_class_cxcywh_normalised"])
        levels = [torch.from_numpy(data[f"raw_level{i}"]).requires_grad_() for i in range(len(strides))]
        expected = data[f"{name}_total_box_obj_cls"].tolist()
        norms = data[f"{name}_gradnorms"].tolist()
    half = rows[:, 4:6] / 2
    boxes = torch.cat([rows[:, 2:4] - half, rows[:, 2:4] + half], dim=1) * side
    targets = Targets(boxes, rows[:, 1].long(), rows[:, 0].long())
    raw = torch.cat([level.flatten(1, 3) for level in levels], dim=1)
    balance = (4.0, 1.0, 0.4)[: len(levels)]
    loss = make_loss(similarity=BOX_SIMILARITIES[name], level_balance=balance, obj_target="similarity")
    parts = loss(raw, anchors, targets)
    total = sum(parts.values()) * len(raw)
    total.backward()
    assert [parts[key].item() for key in ("box", "objectness", "class")] == pytest.approx(expected[1:], rel=1e-6)
    assert total.item() == pytest.approx(expected[0], rel=1e-6)
    assert [level.grad.norm().item() for level in levels] == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize("name", sorted(BOX_SIMILARITIES))
def test_box_loss_is_the_sum_of_the_levels_means(small, name):
    raw, anchors, targets = small
    loss = make_loss(similarity=similarity_of(name), assigner=FixedAssigner(POSITIVES), box_gain=0.7)
    pred, true = (torch.tensor(part, dtype=torch.float64) for part in scalar_boxes(*small))
    around = {**AROUND, "image_size": anchors.image_size, "training": True}
    expected = 0.7 * by_level((1 - similarity_of(name)(pred, true, **around)).tolist())
    assert loss(raw, anchors, targets)["box"].item() == pytest.approx(expected, rel=1e-9)


def test_the_order_of_the_positives_does_not_matter(small):
    first = make_loss(assigner=FixedAssigner(POSITIVES))(*small)
    second = make_loss(assigner=FixedAssigner(POSITIVES[::-1]))(*small)
    for key, value in first.items():
        assert second[key].item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize(("weight", "smoothing"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.1), (0.5, 0.2)])
def test_class_loss_equals_scalars(small, weight, smoothing):
    raw, anchors, targets = small
    loss = make_loss(assigner=FixedAssigner(POSITIVES), cls_pw=weight, label_smoothing=smoothing)
    means = []
    for image, anchor, target in POSITIVES:
        truth = [1 - smoothing / 2 if c == targets.labels[target] else smoothing / 2 for c in range(CLASSES)]
        logits = raw[image, anchor, 5:].tolist()
        terms = [binary_cross_entropy(*pair, weight) for pair in zip(logits, truth, strict=True)]
        means.append(sum(terms) / CLASSES)
    assert loss(raw, anchors, targets)["class"].item() == pytest.approx(0.5 * by_level(means), rel=1e-9)


@pytest.mark.parametrize("kind", ["iou", "similarity", "one"])
@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_objectness_targets(small, kind, weight):
    raw, anchors, targets = small
    similarity = BOX_SIMILARITIES["sca"]
    loss = make_loss(similarity=similarity, assigner=FixedAssigner(POSITIVES), obj_target=kind, obj_pw=weight)
    pred, true = scalar_boxes(*small)
    truth = torch.zeros(raw.shape[:2], dtype=torch.float64)
    for (image, anchor, _), box, other in zip(POSITIVES, pred, true, strict=True):
        truth[image, anchor] = {
            "iou": scalar_iou(box, other),
            "similarity": max(0.0, similarity(torch.tensor(box).double(), torch.tensor(other).double()).item()),
            "one": 1.0,
        }[kind]
    terms = binary_cross_entropy_with_logits(
        raw[..., 4], truth, reduction="none", pos_weight=torch.tensor(weight, dtype=torch.float64)
    )
    expected = 4 * terms[:, :144].mean() + terms[:, 144:].mean()
    found = loss(raw, anchors, targets)["objectness"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    (slope,) = torch.autograd.grad(found, raw)
    assert slope[..., 4].abs().min() > 0
    assert (slope[..., :4] == 0).all(), "the objectness target must be detached"
    assert (slope[..., 5:] == 0).all()


@pytest.mark.parametrize("choice", sorted(ASSIGNERS))
def test_changing_the_similarity_leaves_the_objectness_alone(choice):
    scene = random_scene(np.random.default_rng(3), "yolov3-tiny")
    # Near zero, where boxes are their anchors: those far from their truths are all the same to some similarities.
    raw = 0.1 * torch.randn(scene.batch_size, len(scene.anchors.centers), 5 + CLASSES)
    values = {
        name: make_loss(similarity=BOX_SIMILARITIES[name], assigner=assigner(choice), obj_target="iou")(
            raw, scene.anchors, scene.targets
        )
        for name in BOX_SIMILARITIES
    }
    assert len(scene.targets.image)
    for parts in values.values():
        assert torch.equal(parts["objectness"], values["iou"]["objectness"])
        assert torch.equal(parts["class"], values["iou"]["class"])
    assert len({parts["box"].item() for parts in values.values()}) == len(values)


@pytest.mark.parametrize("choice", sorted(ASSIGNERS))
@pytest.mark.parametrize("gamma", [0.0, 1.4])
def test_a_batch_without_truths_has_finite_losses(small, choice, gamma):
    raw, anchors, _ = small
    parts = make_loss(assigner=assigner(choice), ggiou_gamma=gamma)(raw, anchors, NO_TARGETS)
    expected = binary_cross_entropy_with_logits(raw[..., 4], torch.zeros(raw.shape[:2]).double(), reduction="none")
    expected = 4 * expected[:, :144].mean() + expected[:, 144:].mean()
    assert parts["box"].item() == parts["class"].item() == 0
    assert parts["objectness"].item() == pytest.approx(expected.item(), rel=1e-9)
    sum(parts.values()).backward()
    assert raw.grad.isfinite().all()
    assert (raw.grad[..., 4] > 0).all()


@pytest.mark.parametrize("gamma", [0.0, 1.4])
def test_a_level_without_positives_counts_for_nothing(small, gamma):
    raw, anchors, targets = small
    loss = make_loss(assigner=FixedAssigner(POSITIVES[:3]), ggiou_gamma=gamma)
    parts = loss(raw, anchors, targets)
    sum(parts.values()).backward()
    assert all(part.isfinite() for part in parts.values())
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_of_truths_on_one_anchor_the_larger_objectness_target_wins(small, order):
    raw, anchors, targets = small
    box = torch.tensor(scalar_decode(raw[0, 5].detach(), anchors, 5)).double()
    for target, shift in ((0, 3.0), (1, 0.5), (2, 1.5)):
        targets.boxes[target] = box + shift
    pairs = [(0, 5, target) for target in range(3)]
    alone = [make_loss(assigner=FixedAssigner([pair]))(raw, anchors, targets)["objectness"].item() for pair in pairs]
    assert min(abs(alone[1] - alone[0]), abs(alone[1] - alone[2])) > 1e-4, "the case must tell them apart"
    together = make_loss(assigner=FixedAssigner([pairs[i] for i in order]))(raw, anchors, targets)
    assert together["objectness"].item() == pytest.approx(alone[1], rel=1e-12)


def test_ignored_anchors_have_no_objectness_gradient(small):
    raw, anchors, targets = small
    ignored = [(0, 6), (0, 151), (1, 0), (1, 179)]
    loss = make_loss(assigner=FixedAssigner(POSITIVES, ignored))
    value = loss(raw, anchors, targets)["objectness"]
    value.backward()
    quiet = {(image, anchor) for image, anchor in (raw.grad[..., 4] == 0).nonzero().tolist()}
    assert quiet == set(ignored)
    changed = raw.detach().clone()
    for where in ignored:
        changed[(*where, 4)] = 7.0
    assert loss(changed, anchors, targets)["objectness"].item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("metric", ["ggiou", "iou"])
@pytest.mark.parametrize("wloc", ["auto", 2.8])
def test_balanced_weights_equal_scalars(small, metric, wloc):
    raw, anchors, targets = small
    # Near-perfect predictions keep GGIoU away from 0.
    pred, true = scalar_boxes(*small)
    targets = targets._replace(boxes=torch.tensor(pred)[[0, 1, 3, 4, 2]].double() + torch.tensor([1.0, -0.5, 2.0, 1.5]))
    true = [targets.boxes[target].tolist() for *_, target in POSITIVES]
    measure = scalar_ggiou if metric == "ggiou" else scalar_iou
    weights = np.array([measure(*pair) for pair in zip(pred, true, strict=True)]) ** 1.4
    assert weights.min() > 0.01
    weights = weights / weights.mean() if wloc == "auto" else weights * wloc
    similarity = BOX_SIMILARITIES["giou"](torch.tensor(pred).double(), torch.tensor(true).double()).numpy()
    loss = make_loss(
        similarity=BOX_SIMILARITIES["giou"],
        assigner=FixedAssigner(POSITIVES),
        ggiou_gamma=1.4,
        ggiou_wloc=wloc,
        balance_metric=metric,
    )
    expected = 0.05 * by_level((weights * (1 - similarity)).tolist())
    assert loss(raw, anchors, targets)["box"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "settings", [{"ggiou_alpha": 0.5}, {"ggiou_beta": 0.25}, {"ggiou_sigma": "truth"}], ids=lambda s: next(iter(s))
)
def test_balanced_weights_follow_the_ggiou_settings(small, settings):
    raw, anchors, targets = small
    pred, _ = scalar_boxes(*small)
    shifted = torch.tensor(pred).double() + torch.tensor([1.0, -0.5, 2.0, 1.5])
    targets = targets._replace(boxes=shifted[[0, 1, 3, 4, 2]])
    true = [targets.boxes[target].tolist() for *_, target in POSITIVES]
    plain = {name.removeprefix("ggiou_"): value for name, value in settings.items()}
    weights = [scalar_ggiou(*pair, **plain) ** 2 for pair in zip(pred, true, strict=True)]
    loss = make_loss(
        similarity=lambda first, *_, **__: first.sum(-1) * 0,
        assigner=FixedAssigner(POSITIVES),
        ggiou_gamma=2.0,
        ggiou_wloc=1.0,
        box_gain=1.0,
        **settings,
    )
    assert loss(raw, anchors, targets)["box"].item() == pytest.approx(by_level(weights), rel=1e-5)


def test_automatic_weights_have_mean_1_and_no_gradient(small):
    raw, anchors, targets = small
    pairs = [(0, 5, 0), (0, 77, 1), (1, 140, 4)]  # One level: its mean is the batch's.
    targets = targets._replace(boxes=targets.boxes + 0.3)
    settings = {"assigner": FixedAssigner(pairs), "box_gain": 1.0, "ggiou_gamma": 1.4}
    for predicted, target in ((image_anchor, pair[2]) for pair in pairs for image_anchor in [pair[:2]]):
        near = torch.tensor(scalar_decode(raw[predicted].detach(), anchors, predicted[1])).double()
        targets.boxes[target] = near + torch.tensor([0.5, 0.0, 1.0, 2.0])
    flat = make_loss(similarity=lambda first, *_, **__: first.sum(-1) * 0, **settings)(raw, anchors, targets)["box"]
    assert flat.item() == pytest.approx(1.0, rel=1e-5)
    (slope,) = torch.autograd.grad(flat, raw)
    assert (slope == 0).all()


def test_automatic_weights_survive_predictions_that_all_miss(small):
    raw, anchors, targets = small
    far = targets._replace(boxes=targets.boxes + 5000)
    loss = make_loss(assigner=FixedAssigner(POSITIVES), ggiou_gamma=1.4)
    parts = loss(raw, anchors, far)
    sum(parts.values()).backward()
    assert all(part.isfinite() for part in parts.values())
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("by_log", [True, False])
def test_focal_loss_equals_ultralytics_formula(small, by_log):
    raw, anchors, targets = small
    loss = make_loss(assigner=FixedAssigner(POSITIVES), fl_gamma=1.5, obj_target="one", by_log=by_log)
    parts = loss(raw, anchors, targets)
    truth = torch.zeros(raw.shape[:2], dtype=torch.float64)
    for image, anchor, _ in POSITIVES:
        truth[image, anchor] = 1.0
    terms = focal_cross_entropy(raw[..., 4], truth, 1.5)
    expected = 4 * terms[:, :144].mean() + terms[:, 144:].mean()
    assert parts["objectness"].item() == pytest.approx(expected.item(), rel=1e-6)
    classes = []
    for image, anchor, target in POSITIVES:
        one_hot = torch.eye(CLASSES, dtype=torch.float64)[targets.labels[target]]
        classes.append(focal_cross_entropy(raw[image, anchor, 5:], one_hot, 1.5).mean().item())
    assert parts["class"].item() == pytest.approx(0.5 * by_level(classes), rel=1e-6)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("choice", sorted(ASSIGNERS))
@pytest.mark.parametrize("name", sorted(BASE_SIMILARITIES))
def test_half_precision_outputs_under_autocast_give_float32_losses(half, choice, name):
    scene = random_scene(np.random.default_rng(4), "yolov3-tiny")
    raw = torch.randn(scene.batch_size, len(scene.anchors.centers), 5 + CLASSES) * 6
    raw = raw.to(half).requires_grad_()
    parts = {"assigner": assigner(choice), "ggiou_gamma": 1.4}
    loss, other = (make_loss(similarity=similarity_of(name), **parts) for _ in range(2))
    with torch.autocast("cpu", dtype=half):
        parts = loss(raw, scene.anchors, scene.targets)
    sum(parts.values()).backward()
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    assert raw.grad.isfinite().all()
    wide = raw.detach().float().requires_grad_()
    plain = other(wide, scene.anchors, scene.targets)
    for key, part in parts.items():
        assert part.item() == pytest.approx(plain[key].item(), rel=1e-6)
    # Rounded once, also where truths share an anchor.
    sum(plain.values()).backward()
    assert torch.equal(raw.grad, wide.grad.to(half))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("two_threads")
def test_gradients_of_a_shared_anchor_are_summed_in_the_same_order_every_time(dtype):
    """With torch's own indexing, two threads that add at the same time gave up to six sums in 40 tries."""
    count, raw = 16000, torch.randn(1, 60, 85).to(dtype).requires_grad_()
    anchor, upstream = torch.arange(count) % 6, torch.randn(count, 85)

    def gradient():
        positives, logits = Gather.apply(raw, torch.zeros_like(anchor), anchor)
        return torch.autograd.grad((positives, logits), raw, (upstream, torch.ones_like(logits)))[0]

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(40))
    expected = torch.zeros(6, 85).index_add_(0, anchor, upstream)
    expected[:, 4] += 1
    assert torch.allclose(first[0, :6].float(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-2)


@pytest.mark.parametrize("logit", [-40.0, 40.0])
def test_saturated_outputs_have_finite_losses(logit):
    """Boxes without size and confident errors: (2 sigmoid)^2 underflows to 0 in float32."""
    scene = random_scene(np.random.default_rng(6), "yolov3-tiny")
    for similarity in BOX_SIMILARITIES.values():
        raw = torch.full((scene.batch_size, len(scene.anchors.centers), 5 + CLASSES), logit, requires_grad=True)
        loss = make_loss(similarity=similarity, assigner=assigner("ggiou"), ggiou_gamma=1.4)
        parts = loss(raw, scene.anchors, scene.targets)
        sum(parts.values()).backward()
        assert all(part.isfinite() for part in parts.values())
        assert raw.grad.isfinite().all()


def test_observe_is_told_the_assignment_and_both_qualities(small):
    raw, anchors, targets = small
    seen = []
    similarity = similarity_of("sca", alpha=1.0)
    make_loss(similarity=similarity, assigner=FixedAssigner(POSITIVES), observe=lambda *told: seen.append(told))(
        raw, anchors, targets
    )
    ((assignment, told_targets, ious, similarities),) = seen
    pred, true = scalar_boxes(*small)
    assert isinstance(assignment, Assignment)
    assert told_targets is targets
    assert ious.tolist() == pytest.approx([scalar_iou(*pair) for pair in zip(pred, true, strict=True)], abs=1e-6)
    expected = similarity(torch.tensor(pred).double(), torch.tensor(true).double())
    assert similarities.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert not ious.requires_grad
    assert not similarities.requires_grad


def test_darknet_decode_and_reach_reach_the_box_loss(small):
    raw, anchors, targets = small
    similarity = BOX_SIMILARITIES["giou"]
    for kind, reach in (("darknet", 0.5), ("bounded", 0.0)):
        loss = make_loss(
            similarity=similarity, assigner=FixedAssigner(POSITIVES), box_gain=1.0, decode=kind, xy_reach=reach
        )
        pred = [scalar_decode(raw[i, a].detach(), anchors, a, kind, reach) for i, a, _ in POSITIVES]
        true = targets.boxes[[target for *_, target in POSITIVES]]
        expected = by_level((1 - similarity(torch.tensor(pred).double(), true)).tolist())
        assert loss(raw, anchors, targets)["box"].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_and_its_gradient_equal_torchs_in_float64_from_certain_to_certain(dtype):
    steps = torch.tensor([-200.0, -88, -40, -17, -9, -1, -1e-3, 0, 1e-3, 1, 9, 17, 40, 88, 200])
    logits, truth = (part.flatten() for part in torch.meshgrid(steps, torch.tensor([0, 0.05, 0.5, 1]), indexing="ij"))
    given, exact = (logits.to(kind, copy=True).requires_grad_() for kind in (dtype, torch.float64))
    found = CrossEntropy(by_log=True)(given, truth.to(dtype))
    expected = binary_cross_entropy_with_logits(exact, truth.double(), reduction="none")
    weight = torch.linspace(-1, 1, len(logits))
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(given.grad.double(), exact.grad, rtol=1e-6, atol=6e-8)


def test_a_logit_without_a_number_has_a_loss_without_one():
    for wrong in (math.nan, math.inf, -math.inf):
        logits = torch.tensor([0.0, wrong], requires_grad=True)
        loss = CrossEntropy(by_log=True)(logits, torch.tensor([1.0, 0.5]))
        loss.sum().backward()
        assert loss[0].isfinite() and not loss[1].isfinite()
