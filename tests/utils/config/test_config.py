"""Configuration: precedence, types, ranges, and the promise that every key is consumed."""

import ast
import dataclasses
from pathlib import Path

import pytest
import yaml

from alignyolo.registry import ASSIGNERS, DENSE_ASSIGNERS, METRICS, SIMILARITIES
from engine.settings.configure import plan_run
from tests.paths import ROOT
from utils.config.knobs import (
    ASSIGNER_NAMES,
    BOX_LOSSES,
    Config,
    Hyperparameters,
    ModelConfig,
    RunConfig,
    TorchvisionConfig,
    ValConfig,
    build,
    plain,
)
from utils.config.sources import HYPS, MODELS, hyperparameters, model_config, parse_settings
from utils.errors import UserError


def test_names_are_those_of_the_registries():
    assert tuple(SIMILARITIES) == BOX_LOSSES
    assert tuple(ASSIGNERS) == ASSIGNER_NAMES


def test_every_key_is_consumed():
    read = set()
    for path in ROOT.rglob("*.py"):
        inside = path.relative_to(ROOT).parts
        if inside[0] in ("tests", ".venv") or path.parent.name == "config" or path.name == "banner.py":
            continue
        read |= {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    # Similarities, metrics and assigners name their keys in the registry, from which they are bound.
    registries = (SIMILARITIES, METRICS, ASSIGNERS, DENSE_ASSIGNERS)
    read |= {key for entries in registries for entry in entries.values() for key in entry.keys.values()}
    for kind in (Hyperparameters, ModelConfig, TorchvisionConfig, RunConfig, ValConfig):
        unread = {knob.name for knob in dataclasses.fields(kind)} - read
        assert not unread, f"{kind.__name__} keys that nothing reads: {unread}"


def test_every_knob_has_a_meaning_and_a_default_in_its_range():
    for kind in (Hyperparameters, TorchvisionConfig, RunConfig, ValConfig):
        values = plain(kind())
        assert build(kind, values, "defaults") == kind()
        assert all(knob.metadata["meaning"] for knob in dataclasses.fields(kind))


@pytest.mark.parametrize("path", sorted(HYPS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_hyperparameters_load(path):
    assert isinstance(hyperparameters(path.stem, {}), Hyperparameters)


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_models_load(path):
    assert isinstance(model_config(path.stem, {}), (ModelConfig, TorchvisionConfig))


def test_flags_beat_set_beats_file_beats_default(tmp_path):
    file = tmp_path / "hyp.yaml"
    file.write_text("box_loss: giou\nbox: 0.07\ncls: 0.3\n")
    overrides = parse_settings(["box=0.09", "box_loss=diou"]) | {"box_loss": "sca"}
    hyper = hyperparameters(str(file), overrides)
    assert (hyper.box_loss, hyper.box, hyper.cls, hyper.obj) == ("sca", 0.09, 0.3, 1.0)


def test_an_ultralytics_file_loads_and_names_what_means_nothing(tmp_path, capsys):
    file = tmp_path / "hyp.scratch.yaml"
    file.write_text("lr0: 0.01\nwarmup_epochs: 3.0\niou_t: 0.20\nanchor_t: 4.0\nmosaic: 1.0\ncopy_paste: 0.0\n")
    assert hyperparameters(str(file), {}) == Hyperparameters()
    assert "ignored: copy_paste, iou_t" in capsys.readouterr().err


def test_numbers_that_yaml_takes_for_text():
    assert hyperparameters("", parse_settings(["lr0=1e-3"])).lr0 == 0.001
    assert hyperparameters("", parse_settings(["min_positives=6"])).min_positives == 6
    assert hyperparameters("", parse_settings(["ggiou_wloc=2.8"])).ggiou_wloc == 2.8
    assert hyperparameters("", parse_settings(["ggiou_wloc=auto"])).ggiou_wloc == "auto"


@pytest.mark.parametrize("written", ["off", "'off'", "false"])
def test_a_switch_that_yaml_takes_for_false(written, tmp_path):
    """Bare on and off are truth values in YAML 1.1."""
    file = tmp_path / "hyp.yaml"
    file.write_text(f"cpu_kernels: {written}\n")
    assert hyperparameters(str(file), {}).cpu_kernels == "off"
    assert hyperparameters(str(file), parse_settings(["cpu_kernels=on"])).cpu_kernels == "on"
    assert hyperparameters("", parse_settings([f"cpu_kernels={written}"])).cpu_kernels == "off"
    with pytest.raises(UserError, match="cpu_kernels is 'maybe'"):
        hyperparameters("", parse_settings(["cpu_kernels=maybe"]))
    with pytest.raises(UserError, match="box_loss"):
        hyperparameters("", parse_settings(["box_loss=off"]))


def test_a_checkpoint_from_before_the_switch_has_it_on():
    model = model_config("yolov3-tiny", {})
    saved = Config(RunConfig(), model, Hyperparameters(), ("a",)).to_dict()
    del saved["hyper"]["cpu_kernels"]
    assert Config.from_dict(saved, "old.pt").hyper.cpu_kernels == "on"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("boxloss=sca", "did you mean 'box_loss'"),
        ("box_loss=scaloss", "did you mean 'sca'"),
        ("assigner=gg", "assigner is 'gg'"),
        ("lr0=fast", "lr0 is 'fast': expected a number"),
        ("lr0=-1", "expected 0 to 10"),
        ("lr0=.nan", "lr0 is nan"),
        ("min_positives=1.5", "expected a whole number"),
        ("mosaic=2", "expected 0 to 1"),
        ("obj_pw=1e300", "expected a number that training can compute with"),
        ("box=.inf", "expected a number that training can compute with"),
        ("assign_negative=0.6", "above assign_positive"),
        ("ggiou_wloc=much", "'much'"),
        ("ggiou_wloc=-3", "ggiou_wloc is -3.0: expected at least 0.001 or auto"),
        ("ggiou_wloc=0", "ggiou_wloc is 0.0: expected at least 0.001 or auto"),
        ("ggiou_wloc=.nan", "ggiou_wloc is nan: expected at least 0.001 or auto"),
        ("box_gain_match=0", "box_gain_match is 0.0: expected at least 0.001 or none or iou"),
        ("lr0", "expected key=value"),
        ("lr_schedule=step", "did you mean 'steps'"),
        ("lr_steps=[11, 8]", "expected rising whole epochs, or fractions"),
        ("lr_steps=[8.5]", "expected rising whole epochs"),
        ("lr_steps=-1", "expected at least 0.01"),
    ],
)
def test_mistakes_are_named(setting, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        hyperparameters("", parse_settings([setting]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [8, 16]}, "strides"),
        ({"channels": [1, 2]}, "channels"),
        ({"channels": [16, 32, 64, 128, 256, 512, 1020]}, "multiples of 8"),
        ({"anchors": [[[1, 2]]]}, "anchors"),
        ({"anchors": [[[1, 2]], [[1, 2], [3, 4]]]}, "anchors"),
        ({"anchors": [[[1, 2]], [[1, 0]]]}, "above 0"),
        ({"anchors": [[[float("nan"), 2]], [[1, 1]]]}, "above 0"),
        ({"anchors": [[[1, 2]], [[1, float("inf")]]]}, "at most 1000000"),
        ({"spp": True}, "spp"),
        ({"activation": "relu"}, "activation"),
        ({"backbone": "resnet"}, "backbone"),
        ({"depth": 3}, "unknown key 'depth'"),
    ],
)
def test_broken_models_are_named(change, message, tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump(yaml.safe_load((MODELS / "yolov3-tiny.yaml").read_text()) | change))
    with pytest.raises(UserError, match=message):
        model_config(str(file), {})


@pytest.mark.parametrize("cfg", ["yolov3", "retinanet_resnet18_fpn"])
def test_config_survives_its_round_trip(cfg):
    config = Config(
        build(RunConfig, {"imgsz": [256, 320], "cache": True}, "test"),
        model_config(cfg, {}),
        hyperparameters("ggiou-yolo", {}),
        ("a", "b"),
    )
    again = Config.from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict())), "test")
    assert again == config


def test_image_size_must_fit_the_stride(tmp_path: Path):
    with pytest.raises(UserError, match="multiples of 32, such as 320"):
        plan_run({"imgsz": [310], "data_root": str(tmp_path)})
    with pytest.raises(UserError, match="3 numbers"):
        plan_run({"imgsz": [320, 320, 320]})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"imgsz": [64, 96, 128]}, "^--imgsz has 3 numbers: expected one side"),
        ({"batch_size": 0}, "^--batch-size is 0: expected at least 1"),
        ({"photo_bits": 4}, "^--photo-bits is 4: expected 8 to 32"),
        ({"set": ["channels=8"]}, "^--set: channels has 1 numbers"),
        ({"set": ["anchors=5"]}, "^--set: anchors"),
        ({"set": ["strides=[8,16]"]}, "^--set: strides"),
        ({"set": ["spp=true"]}, "^--set: spp: only darknet53"),
        ({"set": ["assign_negative=.6"], "hyp": "ggiou-yolo"}, "^--set: assign_negative 0.6 is above"),
        ({"set": ["box_loss=off"]}, "^--set: box_loss is 'off'; expected one of: .*ciou"),
    ],
)
def test_a_mistake_is_told_where_it_was_typed(flags, message):
    with pytest.raises(UserError, match=message):
        plan_run(flags)


def test_a_file_that_is_wrong_by_itself_is_blamed(tmp_path):
    file = tmp_path / "model.yaml"
    file.write_text((MODELS / "yolov3-tiny.yaml").read_text().replace("strides: [16, 32]", "strides: [8, 16]"))
    with pytest.raises(UserError, match=r"model.yaml: strides \[8, 16\]"):
        model_config(str(file), {"norm_eps": 0.01})
    assert model_config(str(file), {"strides": [16, 32]}).strides == (16, 32)


def test_steps_beyond_the_end_of_a_run_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="--set lr_steps: the schedule is linear; expected --set lr_schedule=steps"):
        plan_run({"epochs": 20, "set": ["lr_steps=[4, 11]"], "data_root": str(tmp_path)})
    with pytest.raises(UserError, match="--set lr_drop: the schedule is cosine"):
        plan_run({"cos_lr": True, "set": ["lr_schedule=steps", "lr_drop=.2"], "data_root": str(tmp_path)})
    for steps, epochs, told in (
        ("[.5, .52]", 12, "of --epochs 12 they are epochs 6, 6; expected different ones from 1 to 11"),
        ("[.5, .99]", 10, "they are epochs 5, 10; expected"),
        ("[.01, .5]", 10, "they are epochs 0, 5; expected"),
    ):
        with pytest.raises(UserError, match=f"--set lr_steps: .*{told}"):
            plan_run({"epochs": epochs, "set": ["lr_schedule=steps", f"lr_steps={steps}"], "data_root": str(tmp_path)})
    with pytest.raises(UserError, match="--set lr_schedule=steps: --epochs 1 ends before the first of lr_steps"):
        plan_run({"epochs": 1, "set": ["lr_schedule=steps"], "data_root": str(tmp_path)})
    with pytest.raises(UserError, match="lr_steps 11: --epochs 8 ends before; expected earlier ones"):
        plan_run({"epochs": 8, "set": ["lr_schedule=steps", "lr_steps=[4, 11]"], "data_root": str(tmp_path)})
