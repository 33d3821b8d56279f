"""The plug-in for torchvision's stock detectors: what it replaces, what it leaves, and that they learn from it."""

import copy
import io
import itertools

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection._utils import Matcher, SSDMatcher

from alignyolo.assign.dense import BACKGROUND, match_boxes
from alignyolo.registry import DENSE_ASSIGNERS, DYNAMIC_ASSIGNERS
from alignyolo.torchvision import use

BUILT = {
    "retinanet": (detection.retinanet_resnet50_fpn, "bbox_regression"),
    "fcos": (detection.fcos_resnet50_fpn, "bbox_regression"),
    "ssd": (detection.ssdlite320_mobilenet_v3_large, "bbox_regression"),
    "fasterrcnn": (detection.fasterrcnn_mobilenet_v3_large_320_fpn, "loss_box_reg"),
}
TARGETS = [
    {"boxes": torch.tensor([[20.0, 30.0, 120.0, 90.0], [5.0, 5.0, 60.0, 110.0]]), "labels": torch.tensor([2, 1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]


def built(name, **choices):
    """A small model, the same for the same name."""
    torch.manual_seed(1)
    size = {} if name == "ssd" else {"min_size": 128, "max_size": 128}
    model = BUILT[name][0](weights=None, weights_backbone=None, num_classes=3, **size)
    return use(model, **choices) if choices else model


def step(model, targets=TARGETS):
    """The losses of a model on two pictures, always the same ones."""
    torch.manual_seed(2)
    images = [torch.rand(3, 128, 128) for _ in targets]
    return model(images, [dict(each) for each in targets])


def losses_of(name, **choices):
    """The losses of a small model on two pictures, the same for the same name, and the model."""
    model = built(name, **choices)
    return step(model), model


@pytest.mark.parametrize("name", BUILT)
def test_what_is_not_asked_for_stays(name):
    stock, _ = losses_of(name)
    same, _ = losses_of(name, loss=None)
    assert all(torch.equal(value, same[key]) for key, value in stock.items())
    other, _ = losses_of(name, loss="sca")
    changed = {key for key, value in stock.items() if not torch.equal(value, other[key])}
    assert changed == {BUILT[name][1]}


@pytest.mark.parametrize("loss", ["sca", "mpdiou", "inner_wiou_v3"])
@pytest.mark.parametrize("name", BUILT)
def test_the_box_loss_has_a_gradient(name, loss):
    losses, model = losses_of(name, loss=loss)
    assert all(value.isfinite() for value in losses.values())
    losses[BUILT[name][1]].backward()
    slopes = [each.grad for each in model.parameters() if each.grad is not None]
    assert slopes
    assert all(slope.isfinite().all() for slope in slopes)


def test_giou_is_fcos_own_loss():
    """FCOS trains with GIoU: asking for it changes nothing but the epsilon."""
    stock, _ = losses_of("fcos")
    ours, _ = losses_of("fcos", loss="giou")
    torch.testing.assert_close(ours["bbox_regression"], stock["bbox_regression"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["retinanet", "ssd", "fasterrcnn"])
def test_matching_by_iou_is_torchvisions_own_and_by_ggiou_another(name):
    stock, _ = losses_of(name)
    by_iou, _ = losses_of(name, assign="iou")
    for key, value in stock.items():
        torch.testing.assert_close(by_iou[key], value, atol=1e-5, rtol=1e-4)
    by_ggiou, _ = losses_of(name, assign="ggiou")
    assert any(not torch.allclose(by_ggiou[key], value) for key, value in stock.items())


def matched_anchors(name, matcher, **choices):
    """The matches of all anchors of a model with a matcher of one's own, for truths that no anchor fits; -1 is none.

    The region proposal network's are labels, of which 1 is a match.
    """
    model, found, two_stages = built(name), [], name == "fasterrcnn"
    if two_stages:
        part, method = model.rpn, "assign_targets_to_anchors"
        part.proposal_matcher = matcher
        use(model, **choices)  # it takes the method's place; of the others it calls the method
    else:
        part, method = model if name == "ssd" else model.head, "compute_loss"
        model.proposal_matcher = matcher
    stock = getattr(part, method)

    def noted(*given):
        answer = stock(*given)
        found.extend([each - 1 for each in answer[0]] if two_stages else given[3])
        return answer

    setattr(part, method, noted)
    if not two_stages:
        use(model, **choices)
    step(model, [{"boxes": torch.tensor([[30.0, 5.0, 32.0, 90.0]]), "labels": torch.tensor([1])}] * 2)
    return torch.stack(found)


@pytest.mark.parametrize("name", ["retinanet", "ssd", "fasterrcnn"])
def test_what_the_models_own_matcher_forces_is_forced_and_nothing_else(name):
    """A matcher that allows no matches of low quality has none of them, whichever metric is chosen."""
    positives = []
    for forcing in (Matcher(0.5, 0.4, True), Matcher(0.5, 0.4, False), SSDMatcher(0.5)):
        stock = matched_anchors(name, forcing)
        ours = matched_anchors(name, forcing, assign="iou")
        assert torch.equal(ours, stock)
        positives.append(int((ours >= 0).sum()))
    assert positives[1] == 0 < positives[2] <= positives[0]


@pytest.mark.parametrize("side", [2.0, 4.0, 40.0])
def test_a_tiny_object_in_faster_rcnn_has_the_anchors_that_match_boxes_gives_it(side):
    """GGIoU of all anchors can be 0 in float32: they are told apart by its logarithm, and few are positive."""
    _, model = losses_of("fasterrcnn", assign="ggiou")
    middle = (torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0)) + 0.5) * 32
    half = torch.tensor([16.0, 32.0, 64.0])[:, None, None]
    anchors = torch.cat([middle - half, middle + half], -1).flatten(0, 1)
    truth = torch.tensor([[160.0 - side / 2, 160 - side / 2, 160 + side / 2, 160 + side / 2]])
    labels, boxes = model.rpn.assign_targets_to_anchors([anchors], [{"boxes": truth}])
    limits = model.rpn.proposal_matcher.high_threshold, model.rpn.proposal_matcher.low_threshold
    expected = match_boxes(anchors, truth, "ggiou", *limits)
    assert 1 <= int((expected >= 0).sum()) <= 4
    assert torch.equal(labels[0] == 1, expected >= 0)
    assert torch.equal(labels[0] == 0, expected == BACKGROUND)
    assert torch.equal(boxes[0][labels[0] == 1], truth.expand(int((expected >= 0).sum()), 4))


QUICK = [("retinanet", "tal_ggiou"), ("fcos", "simota"), ("ssd", "simota"), ("fasterrcnn", "atss_ggiou")]
SLOW = [pair for pair in itertools.product(BUILT, DYNAMIC_ASSIGNERS) if pair not in QUICK]


@pytest.mark.parametrize(("name", "assign"), [*QUICK, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)])
def test_assigners_by_predictions(name, assign):
    """Faster R-CNN assigns before it predicts, and says so; the others have finite losses, unlike torchvision's own."""
    if name == "fasterrcnn" and not assign.startswith("atss"):
        with pytest.raises(ValueError, match="assigns before it predicts"):
            losses_of(name, assign=assign)
        return
    stock, _ = losses_of(name)
    losses, model = losses_of(name, assign=assign, loss="giou")
    assert all(value.isfinite() for value in losses.values())
    assert any(not torch.allclose(losses[key], value) for key, value in stock.items())
    sum(losses.values()).backward()
    slopes = [each.grad for each in model.parameters() if each.grad is not None]
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("name", ["retinanet", "ssd"])
def test_what_the_assigner_says_is_what_the_model_matches(name):
    """The assigner is asked with the model's own boxes and scores, and every image gets its own truths."""
    _, model = losses_of(name, assign="atss")
    asked = {}
    rule = model.aligned.dynamic

    class Spy:
        needs_predictions = False

        def __call__(self, context):
            asked.update(context=context, found=rule(context))
            return asked["found"]

    model.aligned.dynamic = Spy()
    handed = []
    stock = model.head.compute_loss if name == "retinanet" else None
    if stock:
        model.head.compute_loss = lambda targets, outputs, anchors, matches: (
            handed.extend(matches) or stock(targets, outputs, anchors, matches)
        )
    model([torch.rand(3, 128, 128) for _ in TARGETS], [dict(each) for each in TARGETS][::-1])
    context, found = asked["context"], asked["found"]
    assert sum(context.anchors.counts) == len(context.anchors.boxes) == context.predictions.boxes.shape[1]
    assert len(context.anchors.level_strides) == len(context.anchors.counts)
    assert found.image.unique().tolist() == [1]
    if handed:
        assert (handed[0] < 0).all()
        assert handed[1][found.anchor].tolist() == found.target.tolist()


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # written a line above


@pytest.mark.parametrize("way", [copy.deepcopy, saved_and_loaded])
@pytest.mark.parametrize(
    ("name", "assign"), [("retinanet", "tal"), ("fcos", "atss"), ("ssd", "ggiou"), ("fasterrcnn", "ggiou")]
)
def test_a_copy_of_a_model_stands_on_its_own(name, assign, way):
    """It has its own methods, parameters and running mean, and trains as the original does."""
    model = built(name, assign=assign, loss="wiou_v3", momentum=0.5)
    step(model)
    other = way(model)
    before = float(model.aligned.similarity.state_dict()["mean"])
    losses = step(other)
    assert float(model.aligned.similarity.state_dict()["mean"]) == before
    assert float(other.aligned.similarity.state_dict()["mean"]) != before
    own = step(model)
    for key, value in own.items():
        assert torch.equal(losses[key], value)
    losses[BUILT[name][1]].backward()
    assert all(each.grad is None for each in model.parameters())
    assert any(each.grad is not None for each in other.parameters())
    use(other)
    assert not torch.equal(step(other)[BUILT[name][1]], step(model)[BUILT[name][1]])


@pytest.mark.parametrize("name", BUILT)
def test_a_second_use_replaces_the_first(name):
    assign = "ggiou" if name != "fcos" else "atss"
    first = {"loss": "wiou_v3", "assign": "simota" if name != "fasterrcnn" else "atss"}
    for second in ({"loss": "giou"}, {"assign": assign}, {}):
        expected, _ = losses_of(name, **second) if second else losses_of(name)
        again = step(use(built(name, **first), **second))
        assert all(torch.equal(value, again[key]) for key, value in expected.items())


def test_a_refused_use_leaves_the_model_as_it_was():
    model = built("fcos")
    before = set(vars(model)), len(model.transform._forward_hooks)
    with pytest.raises(ValueError, match="FCOS has no anchors"):
        use(model, assign="ggiou")
    assert (set(vars(model)), len(model.transform._forward_hooks)) == before


SMALL = [
    {"boxes": torch.tensor([[97.0, 90.0, 113.0, 106.0], [70.0, 101.0, 86.0, 117.0]]), "labels": torch.tensor([2, 1])},
    {"boxes": torch.tensor([[103.0, 40.0, 119.0, 56.0]]), "labels": torch.tensor([1])},
]


@pytest.mark.parametrize("assign", [None, "tal"])
@pytest.mark.parametrize("name", BUILT)
def test_codes_in_bf16_are_decoded_in_float32(name, assign):
    """Boxes of 16 pixels would move by half of a pixel and more: the same codes have the same loss in both."""
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        model = built(name)

        def rounded(head, given, output, dtype=dtype):
            if isinstance(output, tuple):
                return output[0], output[1].bfloat16().to(dtype)
            return {**output, "bbox_regression": output["bbox_regression"].bfloat16().to(dtype)}

        (model.roi_heads.box_predictor if name == "fasterrcnn" else model.head).register_forward_hook(rounded)
        use(model, loss="giou", assign=assign if name != "fasterrcnn" else None)
        with torch.autocast("cpu", torch.bfloat16):
            losses = step(model, SMALL)
        found.append(losses[BUILT[name][1]])
    assert found[0] > 0
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("name", ["retinanet", "fcos", "ssd"])
def test_a_running_mean_moves_once_a_step(name):
    """Whatever the order of the images: all positives of the batch move it together, as in Faster R-CNN's heads."""
    found = []
    for order in ([0, 1], [1, 0]):
        model = built(name, loss="wiou_v3", momentum=0.5)
        images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(3))
        losses = model([images[i] for i in order], [dict(SMALL[i]) for i in order])
        found.append((losses["bbox_regression"], model.aligned.similarity.state_dict()["mean"]))
        # From 1 half of the way to the batch's mean, which is not below 0.
        assert 0.5 <= found[-1][1] < 1
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("build", "own"), [("mask", "loss_mask"), ("keypoint", "loss_keypoint")])
def test_masks_and_key_points_are_learnt_beside_the_chosen_loss(build, own):
    """Those detectors are Faster R-CNNs: their further losses stay torchvision's own."""
    further = {
        "mask": {"masks": torch.ones(2, 128, 128, dtype=torch.uint8)},
        "keypoint": {"keypoints": torch.tensor([[[40.0, 50.0, 1.0]] * 17] * 2)},
    }
    targets = [{**TARGETS[0], **further[build], "labels": torch.ones(2, dtype=torch.long)}]
    torch.manual_seed(1)
    small = {"weights": None, "weights_backbone": None, "num_classes": 2, "min_size": 128, "max_size": 128}
    model = getattr(detection, f"{build}rcnn_resnet50_fpn")(**small)
    stock, ours = step(model, targets), step(use(model, loss="sca"), targets)
    assert {key for key, value in stock.items() if not torch.equal(value, ours[key])} == {"loss_box_reg"}
    matched = step(use(model, loss="sca", assign="ggiou"), targets)
    assert all(value.isfinite() for value in matched.values())
    assert matched.keys() == stock.keys() and matched[own] > 0
    (matched[own] + matched["loss_box_reg"]).backward()
    slopes = [each.grad for each in getattr(model.roi_heads, f"{build}_predictor").parameters()]
    assert all(slope.isfinite().all() and slope.any() for slope in slopes)


def test_an_assigner_that_somebody_added_is_taken(monkeypatch):
    monkeypatch.setitem(DENSE_ASSIGNERS, "mine", DENSE_ASSIGNERS["atss"])
    for name in ("retinanet", "fcos", "fasterrcnn"):
        mine, atss = (losses_of(name, assign=each)[0] for each in ("mine", "atss"))
        assert all(torch.equal(mine[key], atss[key]) for key in atss)
    with pytest.raises(ValueError, match=r"it takes atss, .*, mine$"):
        losses_of("fcos", assign="ggiou")
    with pytest.raises(ValueError, match="assigns before it predicts; it takes atss, atss_ggiou, mine$"):
        losses_of("fasterrcnn", assign="tal")


def test_mistakes_are_said():
    with pytest.raises(ValueError, match="loss 'scaa': expected one of iou"):
        losses_of("fcos", loss="scaa")
    with pytest.raises(ValueError, match="FCOS has no anchors to match by a threshold; it takes atss"):
        losses_of("fcos", assign="ggiou")
    with pytest.raises(ValueError, match="assigns before it predicts; it takes atss"):
        losses_of("fasterrcnn", assign="tal")
    with pytest.raises(ValueError, match="assign 'max': expected one of iou"):
        losses_of("ssd", assign="max")
    with pytest.raises(ValueError, match="alpha: settings of a loss, and no loss is given"):
        losses_of("retinanet", assign="atss", alpha=0.5)
    with pytest.raises(ValueError, match="Linear: expected RetinaNet"):
        use(torch.nn.Linear(1, 1), loss="sca")
