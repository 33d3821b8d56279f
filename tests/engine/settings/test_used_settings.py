"""Settings own up: over all combinations of parts, a key changes what is built exactly where it is said to be read."""

import functools
import itertools
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from alignyolo.registry import BASE_SIMILARITIES
from alignyolo.similarities.bound import Similarity
from engine.settings.configure import plan_run
from engine.settings.used_settings import Choices, readers, readers_of, unread
from engine.train.trainer import build_schedule
from models.families import FAMILIES, build_detector
from models.torchvision import build as torchvision_build
from models.yolov3 import build as yolov3_build
from studies.trials.space import is_read
from utils.config.knobs import ENCODED_LOSSES, Config, Hyperparameters, RunConfig
from utils.config.sources import HYPS, hyperparameters, model_config
from utils.errors import UserError

ANCHORS = [[[10, 14], [23, 27], [37, 58]], [[81, 82], [135, 169], [344, 319]]]
CFGS = {
    "yolov3": "yolov3-tiny",
    "retinanet": "retinanet_resnet18_fpn",
    "ssd": "ssd300_vgg16",
    "fasterrcnn": "fasterrcnn_resnet50_fpn",
}
# Another value of every key that shapes a loss, an assigner, a balance or a schedule.
OTHER = {
    "box": 0.3,
    "cls": 0.9,
    "obj": 3.0,
    "cls_pw": 2.0,
    "obj_pw": 2.0,
    "fl_gamma": 1.5,
    "label_smoothing": 0.1,
    "obj_target": "one",
    "smooth_l1_beta": 0.7,
    "sca_alpha": 0.9,
    "sca_corner": "squared",
    "focal_eiou_gamma": 1.0,
    "alpha_iou_power": 2.0,
    "wiou_alpha": 1.7,
    "wiou_delta": 2.7,
    "wiou_momentum": 0.1,
    "shape_iou_scale": 1.0,
    "piou_sharpness": 0.9,
    "nwd_constant": 20.0,
    "interpiou_alpha": 0.9,
    "inner_ratio": 1.2,
    "focaler_low": 0.1,
    "focaler_high": 0.9,
    "ggiou_wloc": 2.8,
    "balance_metric": "iou",
    "anchor_t": 3.0,
    "ignore_iou": 0.6,
    "assign_positive": 0.55,
    "assign_negative": 0.25,
    "atss_topk": 5,
    "simota_radius": 1.5,
    "simota_topk": 5,
    "simota_iou_weight": 1.0,
    "tal_topk": 5,
    "tal_alpha": 1.0,
    "tal_beta": 4.0,
    "tal_enlarge": "off",
    "serve_unmatched": "on",
    "rpn_positive": 0.8,
    "rpn_negative": 0.2,
    "min_positives": 4,
    "ggiou_alpha": 0.4,
    "ggiou_beta": 0.3,
    "ggiou_sigma": "truth",
    "lrf": 0.3,
    "lr_steps": (0.5, 0.75),
    "lr_drop": 0.3,
    "warmup_momentum": 0.5,
    "warmup_bias_lr": 0.05,
}


def described(part):
    """A part as plain values, so that two of them can be compared whatever they are made of."""
    if isinstance(part, Similarity):
        return (part.function if not part.stateful else type(part.function), described(part.settings))
    if isinstance(part, functools.partial):
        return (part.func, described(part.args), described(part.keywords))
    if isinstance(part, torch.nn.Module) or type(part).__name__ == "BoxCoder":
        return type(part).__name__
    if is_dataclass(part):
        return {each.name: described(getattr(part, each.name)) for each in fields(part) if each.name != "observe"}
    if isinstance(part, dict):
        return {key: described(value) for key, value in part.items()}
    if isinstance(part, (tuple, list)):
        return [described(each) for each in part]
    return getattr(part, "__qualname__", part) if callable(part) else part


@pytest.fixture
def one_class(tmp_path, flags):
    """A data set of one class: the photos of the shapes without labels that count."""
    root = tmp_path / "one"
    shutil.copytree(Path(flags["data"]).parent, root)
    (root / "one.yaml").write_text("train: images/train\nval: images/val\nnames: [shape]\n")
    return str(root / "one.yaml")


@pytest.fixture
def no_networks(monkeypatch):
    """Detectors around no network: what is looked at are their losses, assigners and schedules."""
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def dense(*_):
        return SimpleNamespace(box_coder=coder, scores=torch.sigmoid)

    def two_stages(backbone, classes, first, second):
        return SimpleNamespace(roi_heads=SimpleNamespace(box_coder=coder), matchers=(first, second))

    monkeypatch.setattr(yolov3_build, "build_network", lambda *_: torch.nn.Identity())
    monkeypatch.setattr(torchvision_build, "retinanet", dense)
    monkeypatch.setattr(torchvision_build, "ssd300", dense)
    monkeypatch.setattr(torchvision_build, "resnet_fpn", lambda *_, **__: None)
    monkeypatch.setattr(torchvision_build, "faster_rcnn", two_stages)


def built(config: Config):
    """What a config's hyperparameters shape: the loss with all its parts, both stages' matchers, the schedule."""
    detector = build_detector(config)
    schedule = build_schedule(config, 10)
    steps = [schedule.at(step) for step in range(0, 120, 7)]
    return described([detector.loss, getattr(detector.network, "matchers", ()), steps])


FIRST = {
    *("iou", "giou", "diou", "ciou", "sca", "so", "cd", "center", "iou_cd", *ENCODED_LOSSES),
    *("anchor_ratio", "best_anchor", "ggiou"),
}
COMPOSED = {"inner_sca", "inner_wiou_v3", "focaler_ciou", "focaler_shape_iou"}  # The others follow the same rule.


def combinations(family):
    """Every balance with every loss and assigner of the two papers, and with each other one once; every schedule."""
    entry = FAMILIES[family]
    balances = ({"ggiou_gamma": 0.0}, {"ggiou_gamma": 1.4}, {"ggiou_gamma": 1.4, "balance_metric": "iou"})
    schedules = itertools.cycle(("linear", "cosine", "steps"))
    losses, assigners = ([name for name in names if name in FIRST] for names in (entry.box_losses, entry.assigners))
    both = itertools.product(losses, assigners, balances)
    others = [name for name in entry.box_losses if name in {*BASE_SIMILARITIES, *COMPOSED} - FIRST]
    new_losses = zip(others, itertools.cycle(entry.assigners), itertools.cycle(balances), strict=False)
    others = [name for name in entry.assigners if name not in FIRST]
    new_assigners = zip(itertools.cycle(losses), others * 3, itertools.cycle(balances), strict=False)
    for loss, assigner, balance in itertools.chain(both, new_losses, new_assigners):
        yield {"box_loss": loss, "assigner": assigner, "lr_schedule": next(schedules), **balance}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_changes_what_is_built_exactly_where_it_is_read(family, no_networks):
    """All combinations of family, loss, assigner, balance and schedule, with every key that shapes one of them."""
    model, run = model_config(CFGS[family], {}), RunConfig(imgsz=(320,), batch_size=2, epochs=12)
    for settings in combinations(family):
        hyper = hyperparameters("", settings)
        before = built(Config(run, model, hyper, ("a", "b")))
        idle = unread(list(OTHER), Choices(run, model, hyper))
        for key, value in OTHER.items():
            other = "ggiou" if key == "balance_metric" and hyper.balance_metric == "iou" else value
            after = built(Config(run, model, replace(hyper, **{key: other}), ("a", "b")))
            assert (after != before) == (key not in idle), f"{family} {settings}: {key}, said to be idle: {key in idle}"


def test_every_key_has_a_reader_and_no_reader_an_unknown_key():
    known = {each.name for each in fields(Hyperparameters)}
    read = frozenset().union(*(reader.keys for reader in readers()))
    assert known <= read
    assert all(readers_of(key) for key in known)
    kinds = {
        each.name
        for kind in (RunConfig, type(model_config("yolov3", {})), type(model_config(CFGS["ssd"], {})))
        for each in fields(kind)
    }
    assert read <= known | kinds


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cfg": CFGS["retinanet"], "set": ["min_positives=2"]}, "set min_positives: .*--assign ggiou of YOLOv3"),
        ({"set": ["assign_positive=.6"]}, "set assign_positive: .*read by --assign iou of YOLOv3"),
        ({"set": ["rpn_positive=.6"]}, "set rpn_positive: .*read by Faster R-CNN"),
        ({"set": ["ggiou_wloc=2.8"]}, "set ggiou_wloc: .*read by ggiou_gamma above 0"),
        ({"loss": "giou", "set": ["sca_alpha=1"]}, "set sca_alpha: .*read by --loss sca or --loss iou_cd"),
        ({"assign": "ggiou", "set": ["anchor_t=3"]}, "set anchor_t: .*read by --assign anchor_ratio"),
        ({"set": ["decode=darknet", "xy_reach=1"]}, "set xy_reach: .*read by decode bounded"),
        ({"cfg": "yolov3", "set": ["pool_padding=lowest"]}, "set pool_padding: .*read by backbone darknet_tiny"),
        ({"cfg": CFGS["ssd"], "imgsz": [300], "multi_scale": True}, "--multi-scale: ssd has one input size, 300 px"),
        ({"loss": "innersca"}, "--loss: box_loss is 'innersca'; did you mean 'inner_sca'"),
        ({"assign": "talign"}, "--assign: assigner is 'talign'; did you mean 'tal'"),
        ({"rect": True, "set": ["mosaic=.5"]}, "set mosaic: .*read by a run without --rect"),
        ({"set": ["mosaic=0", "mixup=.5"]}, "set mixup: .*read by mosaic above 0"),
        ({"rect": True, "close_mosaic": 3}, "--close-mosaic: .*read by mosaic above 0"),
        ({"cos_lr": True, "set": ["lr_schedule=linear"]}, "set lr_schedule: .*read by a run without --cos-lr"),
        ({"set": ["lr_schedule=steps", "lrf=.1"]}, "set lrf: .*read by lr_schedule linear and cosine"),
        (
            {"epochs": 4, "close_mosaic": 4, "set": ["mosaic=.5"]},
            "set mosaic: .*epochs before those of --close-mosaic",
        ),
        (
            {"epochs": 4, "close_mosaic": 9, "set": ["mixup=.5"]},
            "set mixup: .*epochs before those of --close-mosaic",
        ),
        (
            {"epochs": 4, "close_mosaic": 0, "set": ["zoom_out=.5", "mosaic=1"]},
            "set zoom_out: .*mosaic below 1",
        ),
        ({"epochs": 3, "set": ["iou_crop=.5", "mosaic=1"]}, "set iou_crop: .*last epochs by --close-mosaic"),
        ({"autoanchor": True, "set": [f"anchors={ANCHORS}"]}, "set anchors: .*read by .* without --autoanchor"),
        ({"set": ["warmup_epochs=0", "warmup_momentum=.5"]}, "set warmup_momentum: .*read by warmup_epochs above 0"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(flags, message, tmp_path):
    with pytest.raises(UserError, match=message):
        plan_run({"data_root": str(tmp_path), **flags})


@pytest.mark.parametrize("key", ["cls=1", "cls_pw=2", "label_smoothing=.1"])
def test_what_only_several_classes_read_is_refused_with_one(key, flags, one_class):
    one = {**flags, "data": one_class, "set": [*flags["set"], key]}
    with pytest.raises(UserError, match=f"set {key.partition('=')[0]}: .*read by YOLOv3 with several classes"):
        plan_run(one)
    assert plan_run({**one, "data": flags["data"]})
    assert plan_run({**one, "cfg": CFGS["retinanet"], "set": ["cls=1"]})


def test_a_search_leaves_out_what_a_single_class_does_not_read(flags, one_class):
    shared = ["--data", one_class, "--imgsz", "64"]
    assert [is_read(key, {}, shared) for key in ("cls", "obj")] == [False, True]
    assert is_read("cls", {}, ["--data", flags["data"], "--imgsz", "64"])


def test_in_a_file_what_a_single_class_does_not_read_is_one_line(flags, one_class, tmp_path, capsys):
    file = tmp_path / "hyp.yaml"
    file.write_text("box: .1\ncls: 1.0\n")
    plan_run({**flags, "hyp": str(file), "data": one_class})
    assert capsys.readouterr().err.count(f"note: {file}: nothing in this run reads cls\n") == 1


@pytest.mark.parametrize("hyp", sorted(path.stem for path in HYPS.glob("*.yaml")))
def test_shipped_files_are_read_by_what_they_are_for(hyp, flags, capsys):
    family = next((name for name in CFGS if name in hyp), "yolov3")
    side = 300 if family == "ssd" else 96
    settings = ["lr_schedule=steps"] if hyp == "lvis" else []
    plan_run({"data": flags["data"], "cfg": CFGS[family], "imgsz": [side], "hyp": hyp, "epochs": 12, "set": settings})
    assert "nothing in this run reads" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": " , "}, "--freeze ' , ': names no part"),
        ({"sync_bn": True, "cfg": CFGS["ssd"]}, "--sync-bn: this ssd has no batch normalisation"),
        ({"sync_bn": True, "cfg": CFGS["retinanet"], "set": ["norm=frozen"]}, "--sync-bn: this retinanet has no batch"),
    ],
)
def test_a_flag_without_effect_is_refused(changes, message, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=message):
        plan_run({"data_root": str(tmp_path), **changes})


def test_the_same_in_a_file_is_one_line(flags, tmp_path, capsys):
    file = tmp_path / "hyp.yaml"
    file.write_text("box_loss: giou\nsca_alpha: 1.0\nrpn_positive: .6\ncopy_paste: 0\n")
    plan_run({**flags, "hyp": str(file)})
    told = capsys.readouterr().err.splitlines()
    assert [line for line in told if "reads" in line] == [
        f"note: {file}: nothing in this run reads sca_alpha, rpn_positive"
    ]


def test_what_is_read_is_taken(flags):
    settings = [*flags["set"], "sca_alpha=1", "min_positives=2"]
    hyper = plan_run({**flags, "loss": "sca", "assign": "ggiou", "set": settings}).config.hyper
    assert (hyper.sca_alpha, hyper.min_positives) == (1.0, 2)
