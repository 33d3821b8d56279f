"""sahi and supervision with an exported file: our boxes and class names, by what their own documents say to call."""

import numpy as np
import pytest

from detect import load
from export import export
from tests.lively import lively_checkpoint

SIZE = (96, 96)
NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    channels = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    best = lively_checkpoint(folder / "best.pt", "yolov3-tiny", channels, NAMES, SIZE)
    return export(weights=str(best), output=str(folder / "best.onnx"))[0]


@pytest.fixture(scope="module")
def photo():
    """Return an RGB photo (H, W, 3) of the network's size, so that no resizing differs."""
    return np.random.default_rng(1).integers(0, 255, (*SIZE, 3), dtype=np.uint8)


def test_sahi(file, photo):
    """A photo of the network's size has our boxes there; sahi keeps more, since its NMS allows more overlap."""
    pytest.importorskip("sahi", reason="pip install sahi")
    from sahi import AutoDetectionModel
    from sahi.predict import get_prediction

    (ours,) = load(file)(photo)
    settings = {"confidence_threshold": 0.25, "device": "cpu", "image_size": SIZE[0]}
    model = AutoDetectionModel.from_pretrained(model_type="ultralytics", model_path=str(file), **settings)
    found = get_prediction(photo, model).object_prediction_list
    assert {each.category.name for each in found} <= set(NAMES)
    there = np.array([each.bbox.to_xyxy() for each in found])
    scores = np.array([each.score.value for each in found])
    assert len(ours) > 0
    for box, score in zip(ours.boxes.xyxy.numpy(), ours.boxes.conf.numpy(), strict=True):
        near = np.abs(there - box).max(1) < 1.5  # sahi rounds to whole pixels
        assert (near & (np.abs(scores - score) < 1e-3)).any()


def test_supervision(file, photo):
    """`Detections.from_ultralytics` reads what `detect.load` returns."""
    supervision = pytest.importorskip("supervision", reason="pip install supervision")
    (ours,) = load(file)(photo)
    read = supervision.Detections.from_ultralytics(ours)
    assert len(read) == len(ours) > 0
    np.testing.assert_array_equal(read.xyxy, ours.boxes.xyxy.numpy())
    np.testing.assert_array_equal(read.confidence, ours.boxes.conf.numpy())
    assert list(read["class_name"]) == [NAMES[int(label)] for label in ours.boxes.cls]
