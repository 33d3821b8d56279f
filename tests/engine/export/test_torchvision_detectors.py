"""torchvision's detectors as exported files: they find what PyTorch finds, and say what they cannot be written as."""

import json
from collections import Counter

import pytest
import torch

from data.data_yaml import read_data_yaml
from data.shapes.demo_set import make_shapes
from detect import detect
from engine.export.runtimes import open_backend
from export import export
from models.families import FAMILIES as KINDS
from models.families import build_detector
from tests.engine.conftest import FAMILIES, SSD_SIDE
from utils.checkpoint import save_checkpoint
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config
from utils.errors import UserError
from val import validate

NAMES = ("circle", "square", "triangle")
SCORING = ("cls_logits", "cls_score", "classification_head")


def lively(cfg, path, names=NAMES):
    """A detector with random weights whose scores differ from anchor to anchor, as a checkpoint."""
    size = SSD_SIDE if cfg == "ssd300_vgg16" else 128
    settings = {key: int(value) if value.isdigit() else value for key, value in (s.split("=") for s in FAMILIES[cfg])}
    run = RunConfig(imgsz=(size,), cfg=cfg)
    config = Config(run, model_config(cfg, settings), Hyperparameters(assigner="iou"), tuple(names))
    network = build_detector(config).network
    generator = torch.Generator().manual_seed(0)
    for name, value in network.named_parameters():
        if any(part in name for part in SCORING):
            value.data += torch.randn(value.shape, generator=generator) * (0.05 if value.ndim > 1 else 1)
    contents = {"config": config.to_dict(), "names": list(names), "epoch": 1, "metrics": {}}
    save_checkpoint(path, {**contents, "model": network.state_dict()})
    return path


@pytest.mark.parametrize(
    "cfg", ["retinanet_resnet18_fpn", *(pytest.param(cfg, marks=pytest.mark.slow) for cfg in list(FAMILIES)[2:])]
)
def test_files_find_what_the_detector_finds(cfg, tmp_path):
    """export.py compares them on drawn photos, and takes none that differs; here on noise, by the boxes themselves."""
    weights = lively(cfg, tmp_path / "best.pt")
    reference = open_backend(weights)
    files = export(weights=str(weights), format=["onnx", "openvino"])
    images = torch.rand(1, 3, *reference.image_size, generator=torch.Generator().manual_seed(1))
    boxes, scores = reference.run(images)
    for file in files:
        found = open_backend(file)
        assert (found.names, found.image_size, found.model["detector"]) == (
            NAMES,
            reference.image_size,
            reference.model["detector"],
        )
        if isinstance(boxes, list):  # proposals come in another order
            best = found.run(images)[1][0].amax(1).sort(descending=True).values[:20]
            assert torch.allclose(best, scores[0].amax(1).sort(descending=True).values[:20], atol=1e-3)
            continue
        assert torch.allclose(found.run(images)[0], boxes, atol=0.05, rtol=1e-3)
        assert torch.allclose(found.run(images)[1], scores, atol=1e-4)


def found_in(rows):
    """How many objects of each class there are in each photo."""
    return Counter((row["image"], row["name"]) for row in rows)


def test_val_and_detect_take_them(tmp_path):
    data = make_shapes(tmp_path / "shapes", train=2, val=4, size=128)
    weights = lively("retinanet_resnet18_fpn", tmp_path / "best.pt", read_data_yaml(str(data), tmp_path).names)
    file, whole = (
        export(weights=str(weights), format=["onnx"], output=str(tmp_path / name), **flags)[0]
        for name, flags in (("decoded", {}), ("nms", {"layout": "nms", "conf": 0.04}))
    )
    measured = [
        validate(weights=str(each), data=str(data), project=str(tmp_path / "val"), plots=False)
        for each in (weights, file)
    ]
    assert measured[1].overall["ar"] == pytest.approx(measured[0].overall["ar"], abs=1e-3)
    flags = {"source": str(data.parent / "images" / "val"), "project": str(tmp_path / "found"), "save_json": True}
    flags["precision"] = "float32"
    rows = [
        json.loads((detect(weights=str(each), conf=0.04, save=False, **flags) / "detections.json").read_text())
        for each in (weights, file, whole)
    ]
    assert len(rows[0]) > 4
    for other in rows[1:]:
        assert found_in(other) == found_in(rows[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": ["torchscript"]}, "--format torchscript: .* is a RetinaNet, which is written as onnx and openvino"),
        ({"format": ["onnx"], "dynamic": True}, "--dynamic: .* at one size and in float32"),
        ({"format": ["onnx"], "half": True}, "--half: .* at one size and in float32"),
        ({"format": ["onnx"], "layout": "raw"}, "--layout raw: .* expected decoded or nms"),
    ],
)
def test_what_it_is_not_written_as_is_said(flags, message, tmp_path):
    weights = lively("retinanet_resnet18_fpn", tmp_path / "best.pt")
    with pytest.raises(UserError, match=message):
        export(weights=str(weights), **flags)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_every_family_says_how_it_is_exported():
    for family in KINDS.values():
        assert family.exporting.network.count(":") == 1
