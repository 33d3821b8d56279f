"""Photos of more than 8 bits in a run: one scale for all of them, kept for val.py, detect.py and exported files."""

import cv2
import numpy as np
import pytest

from data.images import read_image
from detect import load
from export import export
from tests.engine.conftest import NARROW
from train import train
from utils.checkpoint import load_checkpoint
from utils.errors import UserError
from val import validate

SMALL = {"imgsz": [64], "batch_size": 4, "workers": 0, "device": "cpu", "amp": "off", "plots": False, "epochs": 1}
SMALL["set"] = [*NARROW, "nominal_batch=8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on 12-bit photos, the darkest of which uses 9 bits alone, and what was printed."""
    root = tmp_path_factory.mktemp("deep")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(4):
            photo = random.integers(0, 500 if number == 3 else 4000, (64, 64)).astype(np.uint16)
            photo[16:48, 16:48] = 500 if number == 3 else 4095
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), photo)
            (root / "labels" / split / f"{number}.txt").write_text("0 .5 .5 .5 .5\n")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [thing]\n")
    flags = {**SMALL, "data": str(root / "data.yaml"), "project": str(root / "runs")}
    return root, flags


def test_the_scale_is_chosen_once_and_kept(run, capsys, tmp_path):
    root, flags = run
    folder = train(**flags)
    said = capsys.readouterr().out
    assert said.count("deep photos (4 of 4 looked at): 0 to 4,095 becomes 0 to 255") == 1
    best = folder / "weights" / "best.pt"
    assert load_checkpoint(best)["config"]["run"]["photo_bits"] == 12
    dark = root / "images" / "train" / "3.png"
    assert read_image(dark).max() == round(500 * 255 / 1023), "alone, it would be four times as bright"
    assert read_image(dark, bits=12).max() == round(500 * 255 / 4095)
    model = load(best, precision="float32", conf=0.0)
    (own,) = model(dark)
    assert own.orig_img.max() == round(500 * 255 / 4095)
    stored = cv2.imread(str(dark), cv2.IMREAD_UNCHANGED)
    (array,) = model(stored)
    assert np.abs(array.orig_img.astype(int) - own.orig_img).max() <= 1
    (file,) = export(weights=str(best), format=["onnx"], output=str(tmp_path / "best"))
    assert load(file)(dark)[0].orig_img.max() == round(500 * 255 / 4095)
    before = validate(weights=str(best), project=str(tmp_path / "val"), plots=False, workers=0)
    (folder / "weights" / "last.pt").rename(folder / "weights" / "last_prev.pt")
    again = train(resume=str(folder), epochs=2)
    assert load_checkpoint(again / "weights" / "last.pt")["config"]["run"]["photo_bits"] == 12
    assert before.counts["images"] == 4


def test_photo_bits_decides(run, capsys, tmp_path):
    _, flags = run
    folder = train(**{**flags, "photo_bits": 10})
    captured = capsys.readouterr()
    assert "0 to 1,023 becomes 0 to 255 (--photo-bits)" in captured.out
    assert load_checkpoint(folder / "weights" / "best.pt")["config"]["run"]["photo_bits"] == 10


def test_photo_bits_without_deep_photos_is_an_error(flags):
    with pytest.raises(UserError, match="--photo-bits 12: no photo of more than 8 bits among the"):
        train(**flags, photo_bits=12)
    with pytest.raises(UserError, match="--photo-bits is 3: expected 8 to 32, or 0"):
        train(**flags, photo_bits=3)
