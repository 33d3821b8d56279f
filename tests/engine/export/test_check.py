"""What an exported file may differ by: more where float32 itself does, in proportion for boxes beyond the image."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from engine.export.backend import Backend
from engine.export.check import MOST, TOLERANCE, allowed, check, differences, photos
from engine.export.job import Job
from engine.export.weights import torch_backend
from export import export
from models.postprocess import Postprocess
from models.weights.read import load_detector, read_weights
from tests.lively import lively_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config.knobs import Config, ExportConfig
from utils.errors import UserError


def test_rounding_widens_the_tolerance_up_to_a_limit():
    score, pixels = TOLERANCE
    assert allowed(TOLERANCE, np.zeros(2)).tolist() == [score, pixels]
    assert allowed(TOLERANCE, np.array([1e-3, 0.25])) == pytest.approx([3e-3, 0.75])
    assert allowed(TOLERANCE, np.array([np.inf, 1e9])) == pytest.approx([MOST * score, MOST * pixels])


def backend(boxes, scores):
    return Backend(("a",), (100, 100), None, True, lambda images: (torch.tensor(boxes), torch.tensor(scores)))


def test_boxes_beyond_the_image_count_in_proportion():
    """4 px on a box of 400 px in an image of 100 px is 1 px; on one of 50 px it is 4; a score below .05 counts not."""
    images, postprocess = torch.zeros(1, 3, 100, 100), Postprocess(0.25)
    for side, score, expected in ((400.0, 0.9, 1.0), (50.0, 0.9, 4.0), (50.0, 0.04, 0.0)):
        right = backend([[[0.0, 0.0, side, 10.0]]], [[[score]]])
        wrong = backend([[[4.0, 0.0, side, 10.0]]], [[[score]]])
        assert differences(wrong, right, images, postprocess).tolist() == pytest.approx([0.0, expected])


def test_a_file_with_nms_is_compared_with_every_box(tmp_path):
    """Beyond the 4,096 that detection looks at: 6,000 boxes above the threshold, all of which the file may keep."""
    path = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [4, 4, 8, 8, 8, 8, 8]}, ("a",), (640, 640)
    )
    contents = read_weights(path)
    config = Config.from_dict(contents["config"], str(path))
    settings = ExportConfig(layout="nms", conf=0.0, nms_iou=1.0, max_det=10_000)
    job = Job(load_detector(contents, config, str(path)), config, contents, settings, (640, 640))
    network = torch_backend(job.detector, config)
    every = Postprocess(0.0, 1.0, 10_000, top_k=10_000, multi_label=False)
    exported = replace(network, final=True, run=lambda images: every(*network.run(images)))
    images = list(photos("", (640, 640)))[:1]
    assert len(exported.run(torch.from_numpy(images[0].copy()).permute(2, 0, 1)[None] / 255)[0]["scores"]) == 6000
    assert "1 photos, scores differ by up to 0.0e+00" in check(exported, path, job, images)


def test_a_check_needs_a_photo(tmp_path):
    (tmp_path / "cut.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes()[:40])
    (tmp_path / "clip.mp4").write_bytes(b"no photo")
    for source in (tmp_path, tmp_path / "cut.png", tmp_path / "clip.mp4"):
        with pytest.raises(UserError, match=f"^--source {source}: expected photos to check .*, none can be read$"):
            list(photos(str(source), (32, 32)))
    (tmp_path / "whole.png").write_bytes(cv2.imencode(".png", np.zeros((9, 9, 3), np.uint8))[1].tobytes())
    assert [image.shape for image in photos(str(tmp_path), (32, 32))] == [(32, 32, 3)]


def test_a_correct_network_with_strong_heads_passes(tmp_path, capsys):
    """Its scores differ by more than the plain tolerance from one float32 arithmetic to another."""
    path = lively_checkpoint(
        tmp_path / "best.pt", "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, ("cat", "dog"), (96, 96)
    )
    contents = load_checkpoint(path)
    for name, value in contents["model"].items():
        if name.startswith("head"):
            value.mul_(10_000)
    save_checkpoint(path, {key: value for key, value in contents.items() if key not in ("format", "version")})
    export(weights=str(path), format=["onnx", "torchscript"])
    said = [line for line in capsys.readouterr().out.splitlines() if "checked: " in line]
    scores = [float(line.partition("up to ")[2].partition(",")[0]) for line in said]
    assert max(scores) > TOLERANCE[0]
