"""The doctor's command: what it takes, what it says last, and its exit code."""

import json

import numpy as np
import pytest

from data.check import doctor_settings, main
from data.data_yaml import read_data_yaml
from data.split import load_split
from utils.drawing.draw import write_image
from utils.errors import UserError


@pytest.fixture
def healthy(tmp_path, monkeypatch):
    """A data set of one photo a split with nothing wrong."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "set"
    for number, split in enumerate(("train", "val")):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        pixels = np.random.default_rng(number).integers(0, 256, (100, 100, 3), np.uint8)
        write_image(root / "images" / split / "a.png", pixels)
        (root / "labels" / split / "a.txt").write_text("0 .5 .5 .2 .2\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    return root


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--anchor-t", "nan"], "--anchor-t is nan: expected 1 to 100"),
        (["--anchor-t", "-1"], "--anchor-t is -1.0: expected 1 to 100"),
        (["--anchor-t", "0"], "--anchor-t is 0.0: expected 1 to 100"),
        (["--anchor-t", "wide"], "--anchor-t is 'wide': expected a number"),
        (["--anchor-t", "3", "--cfg", "ssd300_vgg16"], "--anchor-t: the model YAML ssd300_vgg16 has no anchors"),
        (["--max-pixels", "0"], "--max-pixels is 0: expected 1 to 1073741824"),
        (["--max-pixels", "-5"], "--max-pixels is -5: expected 1 to 1073741824"),
        (["--max-pixels", "99999999999999"], "--max-pixels is 99999999999999: expected 1 to 1073741824"),
        (["--imgsz", "0"], "--imgsz is 0: expected 32 to 8192"),
        (["--imgsz", "320", "320", "320"], "--imgsz 320 320 320: expected one side, or height and width"),
    ],
)
def test_numbers_have_the_ranges_of_train_py(flags, message, healthy):
    with pytest.raises(UserError) as error:
        main([str(healthy / "data.yaml"), *flags])
    assert str(error.value).startswith(message)


def test_settings_are_those_of_the_model_and_the_flags():
    assert doctor_settings((416,), "yolov3-tiny").anchor_t == 4
    assert doctor_settings(("320", "640"), "yolov3-tiny", "2.5")[::2] == ((320, 640), 2.5)


@pytest.mark.parametrize(("policy", "labels"), [("mend", 2), ("clip", 3), ("skip", 1)])
def test_the_numbers_are_those_of_a_training_with_the_same_flag(policy, labels, healthy, tmp_path, capsys):
    """A good box, one that leaves its photo by a little, and one by a lot; the cache takes no policy for another."""
    (healthy / "labels" / "val" / "a.txt").write_text("0 .5 .5 .2 .2\n0 .1 .5 .21 .2\n0 0 .5 .5 .2\n")
    for other in ("mend", "clip", "skip"):
        main([str(healthy / "data.yaml"), "--bad-labels", other])
    capsys.readouterr()
    main([str(healthy / "data.yaml"), "--bad-labels", policy, "--json", str(tmp_path / "found.json")])
    assert f"val: 1 images, {labels} usable labels" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["splits"]["val"]["labels"] == labels
    spec = read_data_yaml(str(healthy / "data.yaml"), tmp_path)
    assert len(load_split(spec, "val", bad_labels=policy).labels) == labels


def test_the_last_lines_say_what_training_makes_of_it(healthy, capsys):
    (healthy / "labels" / "val" / "a.txt").write_text("0 .1 .5 .21 .2\n")
    main([str(healthy / "data.yaml"), "--bad-labels", "clip"])
    assert capsys.readouterr().out.endswith("train.py: every box is clipped to its photo (--bad-labels)\n")
    (healthy / "labels" / "val" / "a.txt").write_text("7 .5 .5 .2 .2\n")
    (healthy / "labels" / "train" / "a.txt").unlink()
    main([str(healthy / "data.yaml")])
    assert capsys.readouterr().out.endswith("train.py and val.py stop at: class id, no label file\n")


@pytest.mark.parametrize(
    ("label", "annotations", "place"),
    [
        ("0 .1 .5 .21 .2\n", "", "val/a.txt:1 (slightly out of range)"),
        ("0 .5 .5 .2 .3 .45 .4 .55 .4 .55 .6 .45 .6\n", "", "val/a.txt:1 (key points or polygons)"),
        (None, "", "labels/val (no label file)"),
        ("0 .5 .5 .2 .2\n", "annotations:\n  val: missing.json\n", "missing.json (annotations)"),
    ],
)
def test_what_train_and_val_refuse_is_exit_code_2_where_errors_are(label, annotations, place, healthy):
    file = healthy / "labels" / "val" / "a.txt"
    if label is None:
        file.unlink()
    else:
        file.write_text(label)
    (healthy / "data.yaml").write_text((healthy / "data.yaml").read_text() + annotations)
    main([str(healthy / "data.yaml")])
    with pytest.raises(UserError) as error:
        main([str(healthy / "data.yaml"), "--bad-labels", "error"])
    assert str(error.value).startswith("1 labels, photos or annotation files cannot be used; the first: ")
    assert str(error.value).endswith(place)


def test_a_model_without_anchors_of_its_own_has_none_to_complain_about(healthy, capsys):
    main([str(healthy / "data.yaml"), "--cfg", "ssd300_vgg16"])
    said = capsys.readouterr().out
    assert "nothing to complain about" in said
    assert "recall" not in said
