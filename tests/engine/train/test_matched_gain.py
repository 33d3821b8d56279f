"""The matched box gain: the research notes' initial losses, and a config that resolves once."""

import dataclasses
from pathlib import Path

import pytest

from alignyolo.anchors import build_anchors
from alignyolo.similarities.bound import similarity
from data.data_yaml import read_data_yaml
from data.split import load_split
from engine.settings.configure import plan_run
from engine.train.matched_gain import initial_loss, with_matched_gain
from models.yolov3.build import build_loss
from tests.alignyolo.registered import assigner
from tests.paths import SHARED_DATA, needs_shared_data
from train import train
from utils.config.sources import model_config
from utils.errors import UserError


@needs_shared_data
@pytest.mark.parametrize(
    ("name", "keywords", "loss", "ratio"),
    [
        ("iou", {}, 0.679, 1.0),
        ("giou", {}, 0.728, 1.07),
        ("diou", {}, 0.692, 1.02),
        ("so", {}, 0.904, 1.33),
        ("sca", {}, 1.152, 1.70),
        ("sca", {"alpha": 1.0}, 1.400, 2.06),
    ],
)
def test_initial_losses_on_coco128(name, keywords, loss, ratio, tmp_path):
    index = load_split(read_data_yaml("coco128", SHARED_DATA), "train", tmp_path)
    model = model_config("yolov3", {})
    anchors = build_anchors((640, 640), model.strides, model.anchors)
    measured = initial_loss(similarity(name, **keywords), assigner("anchor_ratio"), anchors, index)
    assert measured.loss == pytest.approx(loss, abs=0.02)
    assert measured.ratio == pytest.approx(ratio, abs=0.02)


def test_the_gain_is_resolved_once(flags, capsys, tmp_path):
    plan = plan_run({**flags, "loss": "sca", "set": [*flags["set"], "box_gain_match=iou"]})
    index = load_split(plan.data, "train", tmp_path / "cache")
    with pytest.raises(ValueError, match="measured"):
        build_loss(plan.config)
    resolved = with_matched_gain(plan.config, index)
    ratio = resolved.hyper.box_gain_match
    assert 1.2 < ratio < 2.5
    assert "divided by" in capsys.readouterr().out
    assert with_matched_gain(resolved, index) is resolved
    plain = dataclasses.replace(plan.config, hyper=dataclasses.replace(plan.config.hyper, box_gain_match="none"))
    assert build_loss(resolved).gains.box == pytest.approx(build_loss(plain).gains.box / ratio)
    assert with_matched_gain(plain, index) is plain


@pytest.mark.parametrize(
    ("loss", "setting"),
    [("nwd", "nwd_constant=100000"), ("nwd", "nwd_constant=1e12"), ("focaler_iou", "focaler_high=0.01")],
)
def test_a_loss_that_starts_near_zero_is_refused_before_training(loss, setting, flags, tmp_path):
    """Its run would hold a number that no command reads again, or there is none to divide by."""
    chosen = [*flags["set"], "box_gain_match=iou", setting]
    more = {"assign": "iou", "set": [*chosen, "min_positives=0"]} if loss == "focaler_iou" else {"set": chosen}
    with pytest.raises(UserError, match=rf"box_gain_match iou: the {loss} loss starts at .* expected at least 0.001"):
        train(**{**flags, "loss": loss, **more})
    assert not list(Path(flags["project"]).rglob("*.pt"))


def test_iou_matches_itself(flags, tmp_path):
    plan = plan_run({**flags, "loss": "iou", "set": [*flags["set"], "box_gain_match=iou"]})
    resolved = with_matched_gain(plan.config, load_split(plan.data, "train", tmp_path / "cache"))
    assert resolved.hyper.box_gain_match == 1.0
