"""What a person has drawn, or put into a folder, is replaced by no detect.py and no val.py with --exist-ok."""

import json
import os
import shutil
from functools import partial

import cv2
import numpy as np
import pytest

from data.shapes.demo_set import SHAPE_CLASSES, make_shapes
from detect import detect
from tests.lively import lively_checkpoint
from utils.errors import UserError
from val import validate

SIZE = 64
SAVED = dict.fromkeys(("save_txt", "save_json", "save_csv", "save_coco", "save_crop"), True)

OUTPUTS = ["labels/STEM.txt", "STEM.jpg", "crops/0_disc/STEM_0.jpg", "crops/0_disc/own.jpg"]
OUTPUTS += ["detections.json", "detections.csv", "annotations/instances_default.json"]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "best.pt"
    return lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, SHAPE_CLASSES, (SIZE, SIZE))


@pytest.fixture
def data(tmp_path):
    return make_shapes(tmp_path / "shapes", seed=3, train=2, val=3, size=SIZE)


@pytest.fixture
def found(best, data, tmp_path):
    """Detect on the validation photos, into the folder `mine` unless a name is given."""
    photos = data.parent / "images" / "val"
    return partial(detect, weights=str(best), source=str(photos), project=str(tmp_path), name="mine", device="cpu")


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stems(data):
    return sorted(path.stem for path in (data.parent / "images" / "val").iterdir())


def of_person(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("0 .5 .5 .2 .2\n")


@pytest.mark.parametrize("name", OUTPUTS)
def test_detect_refuses_to_replace_what_is_not_its_own(name, found, data, tmp_path, capsys):
    person = tmp_path / "mine" / name.replace("STEM", stems(data)[1])
    of_person(person)
    before = contents(tmp_path / "mine")
    capsys.readouterr()
    with pytest.raises(UserError, match=r"^--exist-ok: .* is not from detect\.py, .*--name$") as refused:
        found(exist_ok=True, save=person.suffix == ".jpg", **SAVED)
    assert str(person) in str(refused.value)
    assert contents(tmp_path / "mine") == before
    assert not capsys.readouterr().out, "refused before anything is predicted"


def test_detect_refuses_to_replace_the_label_of_a_videos_frame(found, tmp_path):
    video = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 5, (SIZE, SIZE))
    for shade in (0, 120):
        video.write(np.full((SIZE, SIZE, 3), shade, np.uint8))
    video.release()
    of_person(tmp_path / "mine" / "labels" / "clip_000002.txt")
    before = contents(tmp_path / "mine")
    with pytest.raises(UserError, match="clip_000002.txt is not from detect.py"):
        found(source=str(tmp_path / "clip.mp4"), exist_ok=True, save_txt=True)
    assert contents(tmp_path / "mine") == before
    found(source=str(tmp_path / "clip.mp4"), exist_ok=True, save_csv=True, save_txt=False)
    assert before.items() < contents(tmp_path / "mine").items()


def test_detect_replaces_its_own_files_beside_those_of_others(found, data, tmp_path):
    for name in ("labels/another.txt", "README.md", "another.jpg"):
        of_person(tmp_path / "mine" / name)
    others = contents(tmp_path / "mine")
    found(exist_ok=True, **SAVED)
    first = contents(tmp_path / "mine")
    assert others.items() < first.items()
    found(exist_ok=True, **SAVED, conf=0.9)
    second = contents(tmp_path / "mine")
    assert others.items() < second.items()
    assert second["detections.json"] != first["detections.json"]
    assert second[f"labels/{stems(data)[0]}.txt"] != first[f"labels/{stems(data)[0]}.txt"]


def test_detect_refuses_to_replace_labels_that_were_corrected_since(found, data, tmp_path):
    """Also where all boxes were false, so that none are left, and in a copy of the folder."""
    shutil.copytree(found(**SAVED), tmp_path / "copied")
    found(name="copied", exist_ok=True, **SAVED)
    (tmp_path / "copied" / "labels" / f"{stems(data)[0]}.txt").write_text("")
    before = contents(tmp_path / "copied")
    with pytest.raises(
        UserError, match=rf"{stems(data)[0]}.txt was changed since detect.py wrote it, and would be repl"
    ):
        found(name="copied", exist_ok=True, **SAVED)
    assert contents(tmp_path / "copied") == before
    found(name="copied", exist_ok=True, save_csv=True)


def test_detect_does_not_write_through_links_to_its_files(found, data, tmp_path):
    """A backup made of hard links (`cp -al`) keeps what it holds."""
    folder = found(**SAVED)
    kept = contents(folder)
    for name in kept:
        (tmp_path / "backup" / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / name, tmp_path / "backup" / name)
    found(exist_ok=True, **SAVED, conf=0.9)
    backup = contents(tmp_path / "backup")
    del backup[".alignyolo/detect.jsonl"]
    assert backup.items() < kept.items()


def test_detect_knows_the_files_of_a_run_that_was_killed(found, data, tmp_path, monkeypatch):
    def killed(*_):
        (tmp_path / "mine" / f"{stems(data)[0]}.jpg").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("engine.predict.output.write_image", killed)
    monkeypatch.setattr("engine.own_files.OwnFiles.end", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        found()
    monkeypatch.undo()
    with (tmp_path / "mine" / ".alignyolo" / "detect.jsonl").open("a") as file:
        file.write('["cut')
    found(exist_ok=True)
    assert cv2.imread(str(tmp_path / "mine" / f"{stems(data)[0]}.jpg")) is not None


@pytest.mark.parametrize("name", ["metrics.json", "metrics.csv", "detections.json", "pr_curve.png", "report.html"])
def test_val_refuses_to_replace_or_remove_what_is_not_its_own(name, best, data, tmp_path):
    """What it would remove, too: train.py's metrics.json, detect.py's detections.json."""
    of_person(tmp_path / "mine" / name)
    before = contents(tmp_path / "mine")
    flags = {"weights": str(best), "data": str(data), "project": str(tmp_path), "workers": 0, "device": "cpu"}
    with pytest.raises(UserError, match=rf"^--exist-ok: .*{name} is not from val\.py, and would be replaced"):
        validate(**flags, name="mine", exist_ok=True, plots=False, report=False)
    assert contents(tmp_path / "mine") == before


def test_val_leaves_labels_of_detect_and_those_that_were_corrected(best, data, found, tmp_path):
    flags = {"weights": str(best), "data": str(data), "project": str(tmp_path), "plots": False, "report": False}
    flags |= {"workers": 0, "device": "cpu", "exist_ok": True}
    found(save_txt=True)
    before = contents(tmp_path / "mine")
    validate(**flags, name="mine")
    assert before.items() < contents(tmp_path / "mine").items()
    with pytest.raises(UserError, match="--save-txt: .*labels holds labels that are not from val.py"):
        validate(**flags, name="mine", save_txt=True)
    validate(**flags, name="out", save_txt=True)
    corrected = tmp_path / "out" / "labels" / f"{stems(data)[0]}.txt"
    corrected.write_text("")
    with pytest.raises(UserError, match=rf"--save-txt: .*labels that are not from val.py, {corrected.name} for one"):
        validate(**flags, name="out", save_txt=True)
    validate(**flags, name="out")
    assert sorted(path.name for path in corrected.parent.iterdir()) == [corrected.name]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["protocol"]
