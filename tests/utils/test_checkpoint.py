"""Checkpoints: written whole or not at all, readable by torch alone, refused when they are something else."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from engine.export.runtimes import open_backend
from utils.checkpoint import describe, load_checkpoint, newest, remove_unfinished, save_checkpoint
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config
from utils.errors import UserError

CONTENTS = {"model": {"weight": torch.arange(6.0).view(2, 3)}, "config": {"a": [1, 2.5, "x", None]}, "epoch": 3}
PARTS = {"config": {"run": {}, "model": {}, "hyper": {}}, "names": ["a"], "model": {}, "epoch": 1}
WHOLE = {"format": "alignyolo", "version": 1, **PARTS}


def test_round_trip_with_weights_only(tmp_path):
    save_checkpoint(tmp_path / "best.pt", CONTENTS)
    plain = torch.load(tmp_path / "best.pt", weights_only=True)
    assert plain["config"] == CONTENTS["config"]
    assert torch.equal(load_checkpoint(tmp_path / "best.pt")["model"]["weight"], CONTENTS["model"]["weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    save_checkpoint(tmp_path / "last.pt", CONTENTS)
    before = (tmp_path / "last.pt").read_bytes()

    class Unwritable:
        def __reduce__(self):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        save_checkpoint(tmp_path / "last.pt", {"model": Unwritable()})
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("attacked"),))


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "foreign", "attack", "list"])
def test_anything_else_is_one_clear_error(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file.pt"
    if kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("hello\x1b[31m there\n" * 10)
    elif kind == "truncated":
        save_checkpoint(file, CONTENTS)
        file.write_bytes(file.read_bytes()[:500])
    elif kind == "foreign":
        torch.save({"model": {}}, file)
    elif kind == "attack":
        torch.save({"format": "alignyolo", "model": Attack()}, file)
    elif kind == "list":
        file.write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(UserError) as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert not any(part in str(caught.value) for part in ("[1m", "weights_only", "Weights only", "you trust"))
    assert kind != "attack" or "Unsupported global: GLOBAL " in str(caught.value)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_umask_decides_who_may_read_it(mask, tmp_path):
    before = os.umask(mask)
    try:
        save_checkpoint(tmp_path / "best.pt", CONTENTS)
    finally:
        os.umask(before)
    assert (tmp_path / "best.pt").stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize(
    "contents",
    [
        {"format": "alignyolo"},
        {"format": "alignyolo", "version": "x"},
        {"format": "alignyolo", "version": 1, "names": [], "model": {}},
        {**WHOLE, "config": {"run": {}, "model": 3, "hyper": {}}},
        {**WHOLE, "names": {0: "a"}},
        {**WHOLE, "names": [1]},
        {**WHOLE, "model": {"weight": 3}},
        {**WHOLE, "epoch": None},
        {**WHOLE, "config": {"run": {"epochs": "x"}, "model": {}, "hyper": {}}},
        {**WHOLE, "config": {"run": {}, "model": {"backbone": 7}, "hyper": {}}},
    ],
    ids=str,
)
def test_a_checkpoint_that_lacks_something_is_one_clear_error(contents, tmp_path):
    torch.save(contents, tmp_path / "file.pt")
    with pytest.raises(UserError, match=r"file\.pt"):
        open_backend(tmp_path / "file.pt")


@pytest.mark.parametrize("cfg", ["retinanet_resnet18_fpn", "ssd300_vgg16", "fasterrcnn_resnet50_fpn"])
def test_detectors_of_torchvision_are_described(cfg):
    model = model_config(cfg, {})
    config = Config(RunConfig(cfg=cfg), model, Hyperparameters(), ("a", "b")).to_dict()
    told = describe({"config": config, "names": ["a", "b"], "epoch": 3, "model": CONTENTS["model"]}, "best.pt")
    lines = dict(line.split(maxsplit=1) for line in told.splitlines())
    assert lines["model"] == cfg
    assert (lines["detector"], lines["backbone"]) == (model.detector, model.backbone)
    assert not {"channels", "anchors"} & set(lines)


@pytest.mark.parametrize("part", ["run", "model", "hyper"])
def test_a_config_of_something_else_is_one_clear_error(part):
    config = Config(RunConfig(), model_config("yolov3", {}), Hyperparameters(), ("a",)).to_dict()
    assert "darknet53, silu, bounded decoding" in describe(WHOLE | {"config": config}, "best.pt")
    with pytest.raises(UserError, match=r"^best\.pt: its config is none of a model here"):
        describe(WHOLE | {"config": config | {part: {}}}, "best.pt")


def test_what_killed_writers_left_is_removed(tmp_path):
    save_checkpoint(tmp_path / "best.pt", CONTENTS)
    for name in (".best.pt.abcd0123", ".last.pt.abcdefgh", "results.csv.tmp", "notes.txt"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "notes.txt"}


def test_newest_run(tmp_path):
    with pytest.raises(UserError, match="no run"):
        newest(tmp_path, "best.pt")
    for name in ("exp", "exp2"):
        (tmp_path / name / "weights").mkdir(parents=True)
        save_checkpoint(tmp_path / name / "weights" / "best.pt", CONTENTS)
    assert newest(tmp_path, "best.pt").parts[-3] == "exp2"


def test_a_run_whose_last_pt_is_gone_is_still_the_newest(tmp_path):
    for number, name in enumerate(("exp/weights/last.pt", "exp2/weights/last_prev.pt")):
        (tmp_path / name).parent.mkdir(parents=True)
        save_checkpoint(tmp_path / name, CONTENTS)
        os.utime(tmp_path / name, (number, number))
    assert newest(tmp_path, "last.pt") == tmp_path / "exp2/weights/last.pt"
