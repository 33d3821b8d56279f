"""ultralytics.YOLO follows every detection of an exported file, with the tracker and limits that the guide names."""

import numpy as np
import torch

from detect import load
from export import export
from tests.lively import lively_checkpoint

SIZE = (96, 96)


def test_each_detection_becomes_a_track(tmp_path):
    """Its default tracker begins a track at a higher score, and its default NMS keeps boxes that overlap up to .7."""
    channels = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    best = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", channels, ("cat", "dog"), SIZE)
    (file,) = export(weights=str(best), output=str(tmp_path / "best.onnx"))
    photo = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    (ours,) = load(file)(photo)
    from ultralytics import YOLO  # offline and silent: detect imported utils.ultralytics_only first

    model = YOLO(str(file), task="detect")
    settings = {"conf": 0.25, "iou": 0.45, "tracker": "bytetrack.yaml", "verbose": False, "save": False}
    (found,) = model.track(np.ascontiguousarray(photo[..., ::-1]), **settings)
    assert len(ours) > 1
    assert len(set(found.boxes.id.tolist())) == len(found.boxes) == len(ours)
    apart = torch.cdist(found.boxes.xyxy, ours.boxes.xyxy, p=float("inf"))
    assert apart.amin(1).max() < 0.5 and apart.amin(0).max() < 0.5
