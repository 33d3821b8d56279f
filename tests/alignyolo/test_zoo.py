"""The zoo of box losses against the numbers of public code, the rule of compositions, and WIoU's running mean."""

import copy

import numpy as np
import pytest
import torch

from alignyolo.balance import metric
from alignyolo.registry import BASE_SIMILARITIES, SIMILARITIES, WRAPPERS
from alignyolo.similarities.bound import similarity
from tests.alignyolo.registered import AROUND
from tests.alignyolo.test_similarities import pairs
from tests.paths import SHARED_DATA, needs_shared_data

LOSS = "loss, not similarity"
# Keys that follow the paper: our name, whether the reference is a loss, and the settings of the reference.
REFERENCE = {
    "eiou": ("eiou", "", {}),
    "focal_eiou": ("focal_eiou", LOSS, {}),
    "siou": ("siou", LOSS, {}),
    "alpha_iou": ("alpha_iou", "", {}),
    "alpha_giou": ("alpha_giou", "", {}),
    "alpha_diou": ("alpha_diou", "", {}),
    "alpha_ciou": ("alpha_ciou", "", {}),
    "wiou_v1": ("wiou_v1", LOSS, {}),
    "wiou_v3": ("wiou_v3", LOSS, {}),
    "wiou_v3_code_default": ("wiou_v3", LOSS, {"alpha": 1.7, "delta": 2.7}),
    "mpdiou": ("mpdiou", "", {}),
    "inner_iou_0.70": ("inner_iou", "", {}),
    "inner_iou_0.75": ("inner_iou", "", {"ratio": 0.75}),
    "inner_iou_1.15": ("inner_iou", "", {"ratio": 1.15}),
    "inner_ciou_0.75": ("inner_ciou", "", {"ratio": 0.75}),
    "inner_siou_0.75": ("inner_siou", "", {"ratio": 0.75}),
    "shape_iou_0": ("shape_iou", "", {}),
    "shape_iou_1": ("shape_iou", "", {"scale": 1.0}),
    "focaler_iou": ("focaler_iou", "", {}),
    "piou": ("piou", LOSS, {}),
    "piou_v2": ("piou_v2", LOSS, {}),
    "nwd": ("nwd", "", {}),
    "bounded_iou": ("bounded_iou", LOSS, {}),
    "interpiou": ("interpiou", "", {}),
}
# The reference adds 1e-6 under nwd's root, where identical boxes are to have 1.
TOLERANCE = {"nwd": (4e-6, 2.2e-4)}
IN_FLOAT32 = 6e-5


def bound(name, **settings):
    """A similarity as the reference numbers were made: 640 px, WIoU's mean at .5."""
    found = similarity(name, **settings)
    found.load_state_dict({"mean": torch.tensor(0.5)} if found.state_dict() else {})
    return lambda pred, target: found(pred, target, **{**AROUND, "image_size": (640, 640)})


@needs_shared_data
@pytest.mark.parametrize("key", REFERENCE)
def test_values_and_gradients_equal_public_code(key):
    name, kind, settings = REFERENCE[key]
    with np.load(SHARED_DATA / "loss" / "box-similarities-reference.npz") as boxes:
        pred, target = (torch.from_numpy(boxes[each]) for each in ("pred", "target"))
    with np.load(SHARED_DATA / "loss" / "zoo-reference.npz") as zoo:
        expected, slope = (torch.from_numpy(zoo[each]) for each in (key, f"{key}_grad"))
    function = bound(name, **settings)
    value = function(pred.requires_grad_(), target)
    value = 1 - value if kind == LOSS else value
    value.sum().backward()
    close, close_slope = TOLERANCE.get(key, (1e-6, 1e-6))
    torch.testing.assert_close(value.detach(), expected, atol=close, rtol=0)
    torch.testing.assert_close(pred.grad, slope, atol=close_slope, rtol=0)
    single = function(pred.detach().float(), target.float())
    single = 1 - single if kind == LOSS else single
    torch.testing.assert_close(single, expected.float(), atol=IN_FLOAT32, rtol=0)


def test_every_composition_has_a_name_and_its_parts_settings():
    assert set(SIMILARITIES) == set(BASE_SIMILARITIES) | {f"{w}_{name}" for w in WRAPPERS for name in BASE_SIMILARITIES}
    assert set(SIMILARITIES["inner_sca"].keys.values()) == {"inner_ratio", "sca_alpha", "sca_corner"}
    assert SIMILARITIES["focaler_mpdiou"].needs == ("image_size",)


@pytest.mark.parametrize("base", BASE_SIMILARITIES)
def test_compositions_follow_the_papers_rule(base):
    """L_Inner-X = L_X + IoU - IoU_inner and L_Focaler-X = L_X + IoU - IoU_focaler."""
    pred, target = pairs(1000, seed=41)
    plain, iou, inner, focaler = (bound(name)(pred, target) for name in (base, "iou", "inner_iou", "focaler_iou"))
    torch.testing.assert_close(bound(f"inner_{base}")(pred, target), plain + inner - iou, atol=1e-9, rtol=0)
    torch.testing.assert_close(bound(f"focaler_{base}")(pred, target), plain + focaler - iou, atol=1e-9, rtol=0)


def test_the_settings_of_both_parts_of_a_composition_count():
    pred, target = pairs(100, seed=43)
    values = {
        settings: similarity("inner_sca", **dict(settings))(pred, target)
        for settings in ((), (("ratio", 1.2),), (("alpha", 1.0),), (("corner", "squared"),))
    }
    assert len({float(value.sum()) for value in values.values()}) == len(values)


def test_mpdiou_asks_for_the_image_it_is_measured_against():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    with pytest.raises(TypeError, match="image_size"):
        similarity("mpdiou")(boxes, boxes)
    apart = similarity("mpdiou")(boxes, boxes + 30, image_size=(90, 120))
    assert apart.item() == pytest.approx(-2 * 2 * 30**2 / 150**2)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("giou", {"alpha": 0.5}, "no setting 'alpha'. It has none"),
        ("sca", {"alph": 0.5}, "no setting 'alph': did you mean 'alpha'. Settings: alpha, corner"),
        ("inner_sca", {"ratoi": 0.5}, "did you mean 'ratio'. Settings: ratio, alpha, corner"),
        ("focaler_giou", {"alpha": 0.5}, "no setting 'alpha'. Settings: low, high"),
        ("wiou_v3", {"delt": 1.0}, "Settings: alpha, delta, momentum"),
        ("mpdiou", {"image_size": (90, 120)}, "no setting 'image_size'"),
        ("inner_giou", {"over": "iou"}, "no setting 'over'"),
    ],
)
def test_a_setting_that_a_loss_does_not_have_is_refused_before_the_first_step(name, settings, message):
    with pytest.raises(TypeError, match=message):
        similarity(name, **settings)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_every_setting_of_the_configuration_is_one_of_the_loss(name):
    keys = SIMILARITIES[name].keys
    assert similarity(name, **dict.fromkeys(keys, 0.5)).settings.keys() >= set(keys)


def test_an_unknown_name_is_refused_with_the_nearest_one_and_all():
    with pytest.raises(ValueError, match="no similarity 'gio': did you mean 'giou'.* Names: iou, .* after focaler_"):
        similarity("gio")
    with pytest.raises(ValueError, match="no similarity 'CIOU': did you mean 'ciou'"):
        similarity("CIOU")
    with pytest.raises(ValueError, match="no metric 'ggio': did you mean 'ggiou'.* Names: iou, ggiou"):
        metric("ggio")
    with pytest.raises(TypeError, match="no setting 'alfa': did you mean 'alpha'"):
        metric("ggiou", alfa=0.5)


TRAINING = {**AROUND, "training": True}


@pytest.mark.parametrize("name", ["wiou_v3", "inner_wiou_v3", "focaler_wiou_v3"])
def test_wious_mean_moves_in_training_alone_and_before_it_is_used(name):
    pred, target = pairs(500, seed=47)
    found, mean = similarity(name, momentum=0.1), 1.0
    loss = float((1 - similarity("iou")(pred, target)).mean())
    for _ in range(3):
        found(pred, target, **AROUND)
        assert found.state_dict()["mean"].item() == pytest.approx(mean)
        value = found(pred, target, **TRAINING)
        mean = 0.9 * mean + 0.1 * loss
        assert found.state_dict()["mean"].item() == pytest.approx(mean)
        assert torch.equal(value, found(pred, target, **AROUND))


def test_wious_mean_is_that_of_all_processes():
    """Two processes with unlike shares end with the mean of one that has all the boxes."""
    pred, target = pairs(300, seed=53)
    whole = similarity("wiou_v3")
    whole(pred, target, **TRAINING)
    shares = [slice(0, 40), slice(40, 300)]
    losses = [1 - similarity("iou")(pred[share], target[share]) for share in shares]
    total = sum(torch.stack([loss.sum(), torch.tensor(float(len(loss)))]) for loss in losses)
    for share in shares:
        part = similarity("wiou_v3")
        part(pred[share], target[share], **{**TRAINING, "over_ranks": lambda _: total})
        assert part.state_dict()["mean"].item() == pytest.approx(whole.state_dict()["mean"].item(), abs=1e-7)


def test_wious_mean_survives_an_empty_batch_and_one_that_is_not_finite():
    pred, target = pairs(10, seed=59)
    found = similarity("wiou_v3")
    found(pred, target, **TRAINING)
    before = found.state_dict()["mean"].item()
    found(pred[:0], target[:0], **TRAINING)
    found(pred * torch.nan, target, **TRAINING)
    assert found.state_dict()["mean"].item() == before < 1


def test_a_copy_of_wiou_has_a_mean_of_its_own():
    """The trial of a run's memory trains on a copy of the detector, of which nothing may reach the run."""
    pred, target = pairs(10, seed=61)
    found = similarity("inner_wiou_v3")
    copy.deepcopy(found)(pred, target, **TRAINING)
    assert found.state_dict()["mean"].item() == 1
