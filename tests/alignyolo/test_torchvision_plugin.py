"""The plug-in for torchvision's stock detectors: what it replaces, what it leaves, and that they learn from it."""

import pytest
import torch
from torchvision.models import detection

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


def test_mistakes_are_said():
    with pytest.raises(ValueError, match="loss 'scaa': expected one of iou"):
        losses_of("fcos", loss="scaa")
    with pytest.raises(ValueError, match="FCOS has no anchors"):
        losses_of("fcos", assign="ggiou")
    with pytest.raises(ValueError, match="Linear: expected RetinaNet"):
        use(torch.nn.Linear(1, 1), loss="sca")
