"""A validation split of background alone: AP is undefined, which is said, and the last epoch is kept."""

import json
import math

import pytest

from data.data_yaml import read_data_yaml
from train import train
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from val import validate


@pytest.fixture
def background(flags, small_shapes, tmp_path):
    """Flags of a run on the drawn set whose validation photos have empty label files."""
    root = small_shapes.parent
    labels = tmp_path / "set" / "labels" / "val"
    labels.mkdir(parents=True)
    for kind, split in (("images", "train"), ("images", "val"), ("labels", "train")):
        (tmp_path / "set" / kind).mkdir(exist_ok=True)
        (tmp_path / "set" / kind / split).symlink_to(root / kind / split)
    for photo in (root / "images" / "val").iterdir():
        (labels / f"{photo.stem}.txt").touch()
    names = list(read_data_yaml(str(small_shapes), tmp_path).names)
    (tmp_path / "set" / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    return {**flags, "data": str(tmp_path / "set" / "data.yaml")}


def test_the_last_epoch_is_kept_and_ap_is_undefined(background, tmp_path, capsys):
    folder = train(**background, patience=1)
    said = capsys.readouterr().out
    assert said.count("the validation split has no labels: AP is undefined, and best.pt is the last epoch's") == 1
    assert "AP50 is 0" not in said
    assert "best.pt = epoch 2 (the last; AP is undefined, the validation split has no labels" in said
    best = load_checkpoint(folder / "weights" / "best.pt")
    assert best["epoch"] == 2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert (metrics["ap"], metrics["counts"]["labels"]) == (None, 0)
    shared = {"weights": str(folder / "weights" / "best.pt"), "plots": False, "report": False, "workers": 0}
    measured = validate(**shared, project=str(tmp_path / "val"))
    assert math.isnan(measured.overall["ap"])
    assert "AP is undefined: 0 labels" in capsys.readouterr().out
    assert train(resume=str(folder), epochs=3) == folder
    assert load_checkpoint(folder / "weights" / "best.pt")["epoch"] == 3


def test_photos_without_any_label_file_are_an_error_with_a_way_on(background, tmp_path):
    for file in (tmp_path / "set" / "labels" / "val").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no label file found .*an empty label file says that a photo is background"):
        train(**background)
