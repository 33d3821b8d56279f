"""What is named like a photo, a label or an annotation and is no file: refused by its kind, and never opened."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from data.check import main as doctor
from data.formats.coco_json import read_coco
from data.formats.voc.xml_file import BadAnnotation, read_annotation
from data.images import ImageError, image_size, read_image
from data.labels.read_files import read_text
from detect import detect
from tests.lively import lively_checkpoint
from train import train
from utils.errors import UserError
from utils.regular_file import require_regular
from val import validate


def pipe(path):
    os.mkfifo(path)


def link_to_device(path):
    path.symlink_to("/dev/zero")


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


KINDS = {"a named pipe": pipe, "a device": link_to_device, "a socket": listening}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("read", [read_image, image_size, read_text, read_annotation, read_coco])
def test_every_reader_of_a_data_set_refuses_it(kind, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    KINDS[kind](Path("x"))
    with pytest.raises((ImageError, UserError, BadAnnotation)) as told:
        read(Path("x"))
    assert f"{kind}, not a file" in f"{told.value} {told.value.__cause__}"


def test_files_folders_and_nothing_pass(tmp_path):
    (tmp_path / "x").touch()
    for path in (tmp_path / "x", tmp_path, tmp_path / "missing"):
        assert require_regular(path) == path


@pytest.fixture
def data(small_shapes, tmp_path):
    """A data set of its own with a pipe in the place of a photo of either split, and of a video."""
    folder = tmp_path / "data"
    shutil.copytree(Path(small_shapes).parent, folder)
    for name in ("train/p.jpg", "val/p.jpg", "val/q.mp4"):
        os.mkfifo(folder / "images" / name)
    return folder


@pytest.mark.parametrize("name", ["train", "val", "detect", "doctor"])
def test_commands_leave_it_out_and_say_so(name, data, flags, tmp_path, capfd, monkeypatch):
    yaml = str(data / "shapes.yaml")
    best = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", {"channels": [8] * 7}, ("a", "b", "c"), (32, 32))
    if name == "train":
        train(**{**flags, "data": yaml, "epochs": 1})
    elif name == "detect":
        detect(weights=str(best), source=str(data / "images" / "val"), project=str(tmp_path / "found"), save=False)
    elif name == "val":
        folder = train(**{**flags, "epochs": 1})
        validate(weights=str(folder / "weights" / "best.pt"), data=yaml, project=str(tmp_path / "v"), plots=False)
    else:
        monkeypatch.setattr("sys.argv", ["check", yaml])
        doctor()
    said = "".join(capfd.readouterr())
    assert "p.jpg" in said and ("a named pipe, not a file" in said or "cannot be read" in said)
    assert name != "detect" or "q.mp4: no video" in said


@pytest.mark.parametrize("name", ["train", "val"])
def test_a_pipe_for_a_label_ends_in_a_line(name, data, flags):
    label = next((data / "labels" / name).glob("*.txt"))
    label.unlink()
    os.mkfifo(label)
    with pytest.raises(UserError, match="the label file cannot be read: a named pipe, not a file"):
        train(**{**flags, "data": str(data / "shapes.yaml")})
