"""train.py --val: a set without a validation split gets one, and --resume and val.py use the run's own."""

import shutil
from pathlib import Path

import pytest
import torch

from data.data_yaml import list_images, read_data_yaml
from tests.data.formats.small_sets import photo
from train import train
from utils.errors import UserError
from val import validate


@pytest.fixture
def flags(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in range(10):
        photo(tmp_path / "set" / "images" / f"{number}.jpg")
        label = tmp_path / "set" / "labels" / f"{number}.txt"
        label.parent.mkdir(exist_ok=True)
        label.write_text("0 .5 .5 .5 .5\n")
    (tmp_path / "set" / "data.yaml").write_text("train: images\nnames: [thing]\n")
    shared = {"imgsz": [64], "batch_size": 4, "workers": 0, "plots": False, "device": "cpu"}
    return {"data": str(tmp_path / "set" / "data.yaml"), "epochs": 1, "project": str(tmp_path / "runs"), **shared}


def test_the_runs_own_split_is_used_again(flags, tmp_path):
    with pytest.raises(
        UserError, match="no split val: training needs train and val \\(--val .2 takes a fifth of train"
    ):
        train(**flags)
    folder = train(**flags, val=0.2)
    split = read_data_yaml(str(folder / "split" / "data.yaml"), tmp_path)
    held = [path.name for path in list_images(split, "val")]
    assert len(held) == 2
    photo(tmp_path / "set" / "images" / "new.jpg")
    (tmp_path / "set" / "labels" / "new.txt").write_text("0 .5 .5 .5 .5\n")
    weights = str(folder / "weights" / "best.pt")
    metrics = validate(weights=weights, project=str(tmp_path / "val"), plots=False, report=False, workers=0)
    assert metrics.counts["images"] == 2
    resumed = train(resume=str(folder), epochs=2)
    assert resumed == folder
    assert torch.load(folder / "weights" / "last.pt", weights_only=True)["epoch"] == 2
    assert [Path(line).name for line in (folder / "split" / "val.txt").read_text().splitlines()] == held


def test_no_other_split_is_drawn_for_weights_away_from_their_run(flags, tmp_path):
    """It would hold out photos that the weights were trained on."""
    photo(tmp_path / "set" / "tests" / "t.jpg")
    (tmp_path / "set" / "tests" / "t.txt").write_text("0 .5 .5 .5 .5\n")
    Path(flags["data"]).write_text("train: images\ntest: tests\nnames: [thing]\n")
    folder = train(**flags, val=0.2)
    copied = shutil.copy(folder / "weights" / "best.pt", tmp_path / "copied.pt")
    shown = {"project": str(tmp_path / "val"), "plots": False, "report": False, "workers": 0}
    for split in ("val", "train"):
        with pytest.raises(UserError, match="split/data.yaml: no such file; .* that --val 0.2 held out .* with --data"):
            validate(weights=str(copied), split=split, **shown)
    assert validate(weights=str(copied), split="test", **shown).counts["images"] == 1
    named = str(folder / "split" / "data.yaml")
    assert validate(weights=str(copied), data=named, **shown).counts["images"] == 2
    shutil.rmtree(folder / "split")
    for again in (
        lambda: validate(weights=str(folder / "weights" / "best.pt"), **shown),
        lambda: train(resume=folder, epochs=2),
    ):
        with pytest.raises(UserError, match="split/data.yaml: no such file"):
            again()


def test_a_new_run_in_the_folder_of_an_old_one_has_its_own_split(flags):
    folder = train(**flags, val=0.2)
    before = (folder / "split" / "val.txt").read_text()
    assert train(**flags, val=0.4, exist_ok=True) == folder
    held = (folder / "split" / "val.txt").read_text()
    assert (len(before.splitlines()), len(held.splitlines())) == (2, 4)
    assert train(resume=str(folder), epochs=2) == folder
