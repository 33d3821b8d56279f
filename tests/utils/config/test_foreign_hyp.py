"""Hyperparameter files of ultralytics: every key of the installed version loads, and none sets what it did not mean."""

import ast
import importlib.util
from pathlib import Path

import pytest
import yaml

from utils.config.foreign_hyp import NEWER_KEYS
from utils.config.knobs import Hyperparameters, plain
from utils.config.sources import hyperparameters
from utils.errors import UserError

OURS = set(plain(Hyperparameters()))


def installed() -> Path:
    """The folder of ultralytics, which is read here, not imported."""
    return Path(importlib.util.find_spec("ultralytics").submodule_search_locations[0])


def default_file():
    """The hyperparameters among the settings of ultralytics, with its defaults."""
    text = (installed() / "cfg" / "default.yaml").read_text("utf-8")
    section = yaml.safe_load(text[text.index("# Hyperparameters ---") : text.index("# Custom config.yaml ---")])
    return section | {"close_mosaic": yaml.safe_load(text)["close_mosaic"]}


def tuner_file():
    """The lowest value of every key that ultralytics' own search tries."""
    tree = ast.parse((installed() / "engine" / "tuner.py").read_text("utf-8"))
    dicts = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    space = next(node for node in dicts if "dfl" in [getattr(key, "value", None) for key in node.keys])
    return {key: ends[0] for key, ends in ast.literal_eval(space).items()}


@pytest.mark.parametrize("contents", [default_file(), tuner_file()], ids=["defaults", "search space"])
def test_a_file_of_ultralytics_8_sets_all_but_the_losses(contents, tmp_path, capsys):
    file = tmp_path / "hyp.yaml"
    file.write_text(yaml.safe_dump(contents))
    hyper = hyperparameters(str(file), {})
    assert (hyper.box, hyper.cls, hyper.cls_pw) == (0.05, 0.5, 1.0)
    for key in OURS & contents.keys() - {"box", "cls", "cls_pw"}:
        assert getattr(hyper, key) == contents[key]
    told = capsys.readouterr().err
    assert "ultralytics 8, whose losses are others; not taken over: box" in told
    assert "it is a flag: --close-mosaic" in told


@pytest.mark.parametrize("key", sorted((default_file().keys() | tuner_file().keys()) - OURS))
def test_every_key_that_is_not_ours_tells_the_generation(key, tmp_path, capsys):
    file = tmp_path / "hyp.yaml"
    file.write_text(yaml.safe_dump({key: 1, "box": 7.5, "cls_pw": 0}))
    if key == "copy_paste":  # the generation before had it too
        assert (hyperparameters(str(file), {}).box, key in NEWER_KEYS) == (7.5, False)
    else:
        hyper = hyperparameters(str(file), {})
        assert (hyper.box, hyper.cls_pw) == (0.05, 1.0)
        assert f"hyp.yaml: {key} tells a file of ultralytics 8" in capsys.readouterr().err


def test_nbs_is_the_nominal_batch(tmp_path):
    file = tmp_path / "hyp.yaml"
    file.write_text("nbs: 128\n")
    assert hyperparameters(str(file), {}).nominal_batch == 128
    file.write_text("nbs: 128\nnominal_batch: 64\n")
    with pytest.raises(UserError, match="nbs and nominal_batch are one setting"):
        hyperparameters(str(file), {})


def test_a_file_of_the_generation_before_sets_the_gains(tmp_path):
    file = tmp_path / "hyp.scratch.yaml"
    file.write_text("box: 0.07\ncls: 0.3\ncls_pw: 0.9\niou_t: 0.20\ncopy_paste: 0.0\n")
    hyper = hyperparameters(str(file), {})
    assert (hyper.box, hyper.cls, hyper.cls_pw) == (0.07, 0.3, 0.9)
