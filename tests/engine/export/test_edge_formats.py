"""ncnn and LiteRT: a converter that is absent or fails is one line and leaves nothing; so is a file that is none."""

import subprocess
import sys
import types

import pytest
import torch

from engine.export.formats import ncnn
from engine.export.runtimes import open_backend
from export import export
from models.yolov3.build import build_network
from models.yolov3.export_network import ExportNetwork
from tests.lively import lively_checkpoint
from utils.config.sources import model_config
from utils.errors import CommandError, UserError

PACKAGES = {"ncnn": ("pnnx", "ncnn"), "litert": ("litert_torch", "ai_edge_litert")}


@pytest.fixture
def flags(tmp_path):
    changes = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    (tmp_path / "in").mkdir()
    best = lively_checkpoint(tmp_path / "in" / "best.pt", "yolov3-tiny", changes, ("cat",), (64, 64))
    (tmp_path / "out").mkdir()
    return {"weights": str(best), "output": str(tmp_path / "out" / "best")}


@pytest.mark.parametrize("fmt", PACKAGES)
@pytest.mark.parametrize("place", [0, 1])
def test_an_absent_package_is_named(fmt, place, flags, tmp_path, monkeypatch):
    for module in PACKAGES[fmt]:
        present = types.ModuleType(module)
        present.__spec__ = types.SimpleNamespace()
        monkeypatch.setitem(sys.modules, module, present)
    monkeypatch.setitem(sys.modules, PACKAGES[fmt][place], None)
    with pytest.raises(UserError, match=f"pip install {PACKAGES[fmt][place].replace('_', '-')}"):
        export(**flags, format=[fmt])
    assert not list((tmp_path / "out").iterdir())


def test_a_converter_that_fails_is_one_line(flags, tmp_path, monkeypatch):
    for module in PACKAGES["ncnn"]:
        present = types.ModuleType(module)
        present.__spec__, present.EXEC_PATH = types.SimpleNamespace(), "pnnx"
        monkeypatch.setitem(sys.modules, module, present)
    failed = subprocess.CompletedProcess(["pnnx"], 3, stdout="", stderr="first\nlast line")
    monkeypatch.setattr(ncnn.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(CommandError, match="--format ncnn: pnnx ended with code 3: last line") as caught:
        export(**flags, format=["ncnn"])
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": ["ncnn"], "dynamic": True}, "--dynamic: for onnx, torchscript and openvino, not ncnn"),
        ({"format": ["litert"], "dynamic": True}, "--dynamic: for onnx, torchscript and openvino, not litert"),
        ({"format": ["ncnn"], "batch_size": 2}, "--batch-size 2: ncnn takes one image at a time"),
        ({"format": ["ncnn"], "layout": "nms"}, "--layout nms: for onnx and openvino, not ncnn"),
        ({"format": ["litert"], "half": True}, "--half: for onnx, openvino and safetensors"),
    ],
)
def test_what_they_cannot_be(changes, message, flags):
    with pytest.raises(UserError, match=message):
        export(**flags, **changes)


@pytest.mark.parametrize("decode", ["bounded", "darknet"])
def test_the_decode_has_no_power(decode):
    """litert-torch cannot convert one, which is what torch.export makes of square()."""
    model = model_config("yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64], "decode": decode})
    network = ExportNetwork(build_network(model, 2), model, "decoded").eval()
    program = torch.export.export(network, (torch.zeros(1, 3, 64, 64),)).run_decompositions()
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert any("sigmoid" in name for name in called)
    assert not [name for name in called if ".pow" in name]


def test_a_tflite_that_is_none(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="pip install ai-edge-litert")
    (tmp_path / "bad.tflite").write_text("hello")
    with pytest.raises(UserError, match="bad.tflite: not a .tflite"):
        open_backend(tmp_path / "bad.tflite")


def test_an_ncnn_folder_that_is_none(tmp_path):
    pytest.importorskip("ncnn", reason="pip install ncnn")
    folder = tmp_path / "bad_ncnn_model"
    folder.mkdir()
    with pytest.raises(UserError, match="bad_ncnn_model: expected a folder with .*: no model.ncnn.param"):
        open_backend(folder)
    for name in (ncnn.PARAM, ncnn.WEIGHTS, "metadata.yaml"):
        (folder / name).write_text("a: 1")
    with pytest.raises(UserError, match="model.ncnn.param: not an ncnn model"):
        open_backend(folder)
