"""The plug-in for torchvision's stock detectors: what it replaces, what it leaves, and that they learn from it."""

import itertools

import pytest
import torch
from torchvision.models import detection

from alignyolo.assign.dense import BACKGROUND, match_boxes
from alignyolo.registry import DYNAMIC_ASSIGNERS
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


def losses_of(name, **choices):
    """The losses of a small model on two pictures, the same for the same name, and the model."""
    torch.manual_seed(1)
    size = {} if name == "ssd" else {"min_size": 128, "max_size": 128}
    model = BUILT[name][0](weights=None, weights_backbone=None, num_classes=3, **size)
    model = use(model, **choices) if choices else model
    torch.manual_seed(2)
    images = [torch.rand(3, 128, 128) for _ in TARGETS]
    return model(images, [dict(each) for each in TARGETS]), model


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
