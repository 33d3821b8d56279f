"""File names that are not UTF-8, and class names longer than a file name may be: the files, or one line."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from convert import main as convert
from detect import detect
from tests.lively import lively_checkpoint
from train import train
from val import validate

ODD = b"caf\xe9"


@pytest.fixture
def data(few_shapes, tmp_path):
    """A data set with a photo, and its label, of an old archive."""
    folder = tmp_path / "data"
    shutil.copytree(Path(few_shapes).parent, folder)
    for kind, suffix in (("images", "jpg"), ("labels", "txt")):
        first = sorted((folder / kind / "val").glob(f"*.{suffix}"))[0]
        try:
            first.rename(first.with_name(f"{os.fsdecode(ODD)}.{suffix}"))
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
    return folder


def test_validation_and_training_keep_the_name(data, flags, tmp_path):
    folder = train(**{**flags, "data": str(data / "shapes.yaml"), "epochs": 1})
    validate(
        weights=str(folder / "weights" / "best.pt"), project=str(tmp_path / "val"), plots=False, save_json=True,
        save_txt=True, report=True,
    )  # fmt: skip
    written = [path for path in (tmp_path / "val").rglob("*.json") if path.name != "metrics.json"]
    names = [image["file_name"] for path in written for image in _images(path)]
    assert os.fsdecode(ODD) + ".jpg" in {Path(name).name for name in names}
    assert (tmp_path / "val" / "exp" / "labels" / f"{os.fsdecode(ODD)}.txt").exists()


def _images(path):
    document = json.loads(path.read_text("utf-8"))
    return document["images"] if isinstance(document, dict) else []


def test_detections_name_the_file_as_it_is_on_disk(data, tmp_path):
    best = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [8] * 7}, ("a" * 300, "犬" * 300), (64, 64)
    )
    folder = detect(
        weights=str(best), source=str(data / "images" / "val"), conf=0.01, project=str(tmp_path / "found"),
        save_csv=True, save_json=True, save_txt=True, save_crop=True,
    )  # fmt: skip
    expected = str(data / "images" / "val" / os.fsdecode(ODD)) + ".jpg"
    rows = list(csv.DictReader((folder / "detections.csv").open(encoding="utf-8", errors="surrogateescape")))
    assert expected in {row["image"] for row in rows}
    assert expected in {row["image"] for row in json.loads((folder / "detections.json").read_text("utf-8"))}
    crops = {path.parent.name for path in (folder / "crops").rglob("*.jpg")}
    assert crops and all(len(os.fsencode(name)) < 256 for name in crops)


def test_a_photo_with_the_longest_name_that_fits_is_drawn_and_cropped(data, tmp_path):
    best = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", {"channels": [8] * 7}, ("a", "b"), (64, 64))
    photo = next((data / "images" / "train").glob("*.jpg"))
    photo.rename(photo.with_name("x" * 251 + ".jpg"))
    folder = detect(
        weights=str(best), source=str(data / "images" / "train"), conf=0.01, project=str(tmp_path / "found"),
        save_crop=True, save_txt=True,
    )  # fmt: skip
    assert len(list(folder.glob("*.jpg"))) == 8


def test_a_conversion_keeps_the_name(data, tmp_path):
    convert(["yolo", str(data / "shapes.yaml"), str(tmp_path / "out")])
    documents = [image for path in (tmp_path / "out").rglob("annotations/*.json") for image in _images(path)]
    assert os.fsdecode(ODD) + ".jpg" in {Path(image["file_name"]).name for image in documents}
