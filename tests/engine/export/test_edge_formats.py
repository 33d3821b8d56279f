"""Formats with converters of their own: an absent or failing one is one line and leaves nothing; so is a bad file."""

import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from engine.export.formats import ncnn
from engine.export.formats.trailer import append_metadata
from engine.export.runtimes import open_backend
from export import export
from models.yolov3.build import build_network
from models.yolov3.export_network import ExportNetwork
from tests.lively import lively_checkpoint
from utils.config.export_formats import EXPORT_FORMATS
from utils.config.sources import model_config
from utils.errors import CommandError, UserError

# Every format, with each package that it needs and what installs it.
NEEDED = [
    (fmt, module, command)
    for fmt, entry in EXPORT_FORMATS.items()
    for module, command in {**entry.writes, **entry.opens}.items()
]


@pytest.fixture
def flags(tmp_path):
    changes = {"channels": [8, 8, 16, 16, 32, 32, 64]}
    (tmp_path / "in").mkdir()
    best = lively_checkpoint(tmp_path / "in" / "best.pt", "yolov3-tiny", changes, ("cat",), (64, 64))
    (tmp_path / "out").mkdir()
    return {"weights": str(best), "output": str(tmp_path / "out" / "best")}


def pretend(monkeypatch, *modules):
    """Let modules look installed, with the packages that they lie in."""
    for module in {name for each in modules for name in (each.partition(".")[0], each)}:
        present = types.ModuleType(module)
        present.__spec__, present.EXEC_PATH = types.SimpleNamespace(), "pnnx"
        monkeypatch.setitem(sys.modules, module, present)


@pytest.mark.parametrize(("fmt", "module", "command"), NEEDED, ids=str)
def test_an_absent_package_is_named(fmt, module, command, flags, tmp_path, monkeypatch):
    pretend(monkeypatch, *(other for name, other, _ in NEEDED if name == fmt and other != module))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"--format {fmt}: needs .*: pip install {command}$"):
        export(**flags, format=[fmt])
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("fmt", "tool"), [("ncnn", "pnnx"), ("mnn", "its converter"), ("executorch", "its converter")])
@pytest.mark.parametrize("code", [3, -6, 0])
def test_a_converter_that_fails_is_one_line(fmt, tool, code, flags, tmp_path, monkeypatch):
    """It says so by its code, its process ends, or it ends well and has written nothing."""
    pretend(monkeypatch, *(module for name, module, _ in NEEDED if name == fmt and "onnx" not in module))
    failed = subprocess.CompletedProcess(["converter"], code, stdout="", stderr="first\nlast line")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(CommandError, match=f"--format {fmt}: {tool} ended with code {code}: last line") as caught:
        export(**flags, format=[fmt])
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("fmt", "tool"), [("litert", "litert-torch"), ("coreml", "coremltools")])
def test_a_converter_that_raises_is_one_line(fmt, tool, flags, tmp_path, monkeypatch):
    pretend(monkeypatch, *(module for name, module, _ in NEEDED if name == fmt))
    failing = MagicMock(side_effect=ValueError("one\ntwo"))
    converter = MagicMock(__spec__=types.SimpleNamespace(), convert=failing)
    monkeypatch.setitem(sys.modules, tool.replace("-", "_"), converter)
    with pytest.raises(CommandError, match=f"^--format {fmt}: {tool} failed: one.two$"):
        export(**flags, format=[fmt])
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": ["ncnn"], "dynamic": True}, "--dynamic: for .* and mnn, not ncnn"),
        ({"format": ["litert"], "dynamic": True}, "--dynamic: for .* and mnn, not litert"),
        ({"format": ["ncnn"], "batch_size": 2}, "--batch-size 2: ncnn takes one image at a time"),
        ({"format": ["ncnn"], "layout": "nms"}, "--layout nms: for onnx and openvino, not ncnn"),
        ({"format": ["coreml"], "dynamic": True}, "--dynamic: for .* and mnn, not coreml"),
        ({"format": ["coreml"], "half": True}, "--half: for onnx, openvino, safetensors and mnn$"),
        ({"format": ["executorch"], "dynamic": True}, "--dynamic: for .* and mnn, not executorch"),
        ({"format": ["executorch"], "layout": "nms"}, "--layout nms: for onnx and openvino, not executorch"),
        ({"format": ["mnn"], "layout": "nms"}, "--layout nms: for onnx and openvino, not mnn"),
        ({"format": ["mnn"], "int8": True, "calibrate": "x"}, "--int8: for onnx and openvino"),
        ({"format": ["executorch"], "half": True}, "--half: for onnx, openvino, safetensors and mnn$"),
        ({"format": ["litert"], "half": True}, "--half: for onnx, openvino, safetensors and mnn$"),
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


def test_no_number_in_a_graph_is_infinite(tmp_path):
    """ncnn cannot read one, which was the padding of Darknet's pool."""
    changes = {"channels": [8] * 7, "pool_padding": "lowest"}
    best = lively_checkpoint(tmp_path / "best.pt", "yolov3-tiny", changes, ("cat",), (64, 64))
    (file,) = export(weights=str(best), format=["onnx"])
    numbers = [numpy_helper.to_array(value) for value in onnx.load(file).graph.initializer]
    assert any((each < -6e4).any() for each in numbers if each.dtype == np.float32)
    assert all(np.isfinite(each).all() for each in numbers)


# Formats whose metadata lies at the end of the file, and what each of their files begins with.
TRAILED = {"litert": b"\x1c\0\0\0TFL3", "mnn": b"", "executorch": b""}


def with_metadata(path, content, metadata):
    path.write_bytes(content)
    append_metadata(path, types.SimpleNamespace(metadata=lambda: metadata))
    return path


def flipped(path):
    content = bytearray(path.read_bytes())
    content[50] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "flipped": flipped,
}


@pytest.mark.parametrize("fmt", TRAILED)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line(fmt, damage, tmp_path, monkeypatch):
    """It is seen before the runtime reads anything, which would take a flipped bit for another number."""
    pretend(monkeypatch, *EXPORT_FORMATS[fmt].opens)
    file = with_metadata(tmp_path / f"bad{EXPORT_FORMATS[fmt].suffix}", TRAILED[fmt] + bytes(100), {})
    DAMAGES[damage](file)
    with pytest.raises(UserError, match=f"{file.name}: not an? .* of ours, or damaged") as caught:
        open_backend(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fmt", TRAILED)
def test_a_whole_file_of_nonsense_is_one_line(fmt, tmp_path, capfd):
    for module, command in EXPORT_FORMATS[fmt].opens.items():
        pytest.importorskip(module, reason=f"pip install {command}")
    capfd.readouterr()  # some print when they are imported
    file = with_metadata(tmp_path / f"bad{EXPORT_FORMATS[fmt].suffix}", b"hello " * 20, {})
    with pytest.raises(UserError, match=f"{file.name}: not an? .*") as caught:
        open_backend(file)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fmt", [name for name, entry in EXPORT_FORMATS.items() if entry.graph])
def test_threads_may_share_an_opened_file(fmt, flags):
    """Runtimes differ in whether they allow it: a batch at a time, where an opened file has one place for features."""
    entry = EXPORT_FORMATS[fmt]
    for module, command in {**entry.writes, **entry.opens}.items():
        pytest.importorskip(module, reason=f"pip install {command}")
    (file,) = export(**flags, format=[fmt])
    opened = open_backend(file)
    images = [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    alone = [opened.run(image)[1] for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda image: opened.run(image)[1], images * 4))
    for number, scores in enumerate(together):
        assert torch.equal(scores, alone[number % 8])


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
