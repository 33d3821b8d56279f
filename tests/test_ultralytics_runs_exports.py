"""ultralytics.YOLO on every format and layout that it opens: our detections, or a refusal that says why."""

import numpy as np
import pytest
import torch

from detect import load
from export import export
from tests.lively import lively_checkpoint
from utils.config.export_formats import EXPORT_FORMATS

SIZE = (96, 96)
LAYOUTS = [
    (fmt, layout)
    for fmt in ("onnx", "openvino", "torchscript")
    for layout in EXPORT_FORMATS[fmt].layouts
    if layout != "raw"
]


@pytest.fixture(scope="module")
def best(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "best.pt"
    return lively_checkpoint(path, "yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]}, ("cat", "dog"), SIZE)


def theirs(file, photo, **settings):
    from ultralytics import YOLO  # offline and silent: detect imported utils.ultralytics_only first

    (found,) = YOLO(str(file), task="detect").predict(
        np.ascontiguousarray(photo[..., ::-1]), conf=0.25, iou=0.45, verbose=False, save=False, **settings
    )
    return found.boxes


@pytest.mark.parametrize(("fmt", "layout"), LAYOUTS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_finds_what_detect_finds(fmt, layout, dynamic, best, tmp_path):
    """Without being told a size, except an ONNX file of any size, which it would run at 640 px."""
    (file,) = export(weights=str(best), format=[fmt], layout=layout, dynamic=dynamic, output=str(tmp_path / "best"))
    photo = np.random.default_rng(1).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    (ours,) = load(file, precision="auto")(photo)  # OpenVINO takes bf16 there too, where the CPU has it
    found = theirs(file, photo, **({"imgsz": SIZE} if dynamic and fmt == "onnx" else {}))
    assert len(found) == len(ours) > 0
    for box, value, label in zip(ours.boxes.xyxy, ours.boxes.conf, ours.boxes.cls, strict=True):
        rows = found.cls == label
        near = (found.xyxy[rows] - box).abs().amax(1) < 0.5
        assert ((found.conf[rows] - value).abs()[near] < 1e-3).any()


@pytest.mark.parametrize("fmt", ["onnx", "openvino", "torchscript"])
def test_raw_outputs_are_refused(fmt, best, tmp_path):
    (file,) = export(weights=str(best), format=[fmt], layout="raw", output=str(tmp_path / "best"))
    with pytest.raises(ValueError, match="layout raw, which ultralytics cannot decode: export with --layout decoded"):
        theirs(file, np.zeros((*SIZE, 3), np.uint8))


def test_files_of_before_are_still_read(best, tmp_path):
    """Metadata had `model` where it has `model_config`, and said `dynamic` among the arguments."""
    import onnx

    (file,) = export(weights=str(best), dynamic=True, output=str(tmp_path / "best"))
    graph = onnx.load(file)
    values = {entry.key: entry.value for entry in graph.metadata_props}
    values["model"] = values.pop("model_config")
    assert "'dynamic': True" in values["args"]
    del values["any_size"], graph.metadata_props[:]
    onnx.helper.set_model_props(graph, values)
    onnx.save(graph, str(tmp_path / "old.onnx"))
    old, new = load(tmp_path / "old.onnx").backend, load(file).backend
    assert (old.dynamic, old.model) == (True, new.model)
    images = torch.rand(2, 3, 64, 96)
    assert torch.equal(old.run(images)[1], new.run(images)[1])
