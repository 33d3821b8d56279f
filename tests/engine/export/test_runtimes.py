"""Weights and exported files that are none, or damaged, or somebody else's: one clear line each, from every reader."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch

from engine.export.runtimes import open_backend
from export import export
from models.yolov3.build import build_network
from tests.paths import ROOT
from utils.checkpoint import save_checkpoint
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config
from utils.errors import UserError

FORMATS = {
    "pt": ".pt",
    "onnx": ".onnx",
    "torchscript": ".torchscript",
    "openvino": ".xml",
    "safetensors": ".safetensors",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good file of every format."""
    folder = tmp_path_factory.mktemp("whole")
    model = model_config("yolov3-tiny", {"channels": [8, 8, 16, 16, 32, 32, 64]})
    config = Config(RunConfig(imgsz=(64,), cfg="yolov3-tiny"), model, Hyperparameters(), ("cat",))
    contents = {"config": config.to_dict(), "names": ["cat"], "epoch": 1, "metrics": {}}
    save_checkpoint(folder / "best.pt", {**contents, "model": build_network(model, 1).state_dict()})
    kinds = ["onnx", "torchscript", "openvino", "safetensors"]
    onnx, script, openvino, safe = export(weights=str(folder / "best.pt"), format=kinds)
    xml = next(openvino.glob("*.xml"))
    return {"pt": folder / "best.pt", "onnx": onnx, "torchscript": script, "openvino": xml, "safetensors": safe}


def test_onnxruntime_leaves_nothing_in_the_home_folder(whole, tmp_path):
    """From 1.31 on its import alone writes an identity of the machine, unless it is told not to."""
    lines = "import sys; from engine.export.runtimes import open_backend; open_backend(sys.argv[1])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    command = [sys.executable, "-c", lines, str(whole["onnx"])]
    subprocess.run(command, check=True, env=environment | {"HOME": str(tmp_path)}, cwd=ROOT)
    assert not list(tmp_path.iterdir())


def cut(source, target):
    target.write_bytes(source.read_bytes()[: source.stat().st_size // 2])


def scrambled(source, target):
    data = bytearray(source.read_bytes())
    for start in range(0, len(data) - 64, max(len(data) // 40, 64)):
        data[start : start + 16] = bytes(range(200, 216))
    target.write_bytes(data)


def bomb(source, target):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**8))


DAMAGES = {
    "empty": lambda source, target: target.touch(),
    "text": lambda source, target: target.write_text("hello\x1b[31m\n" * 100),
    "zeros": lambda source, target: target.write_bytes(bytes(5000)),
    "cut": cut,
    "first bytes": lambda source, target: target.write_bytes(source.read_bytes()[:40]),
    "wrong magic": lambda source, target: target.write_bytes(b"GIF89a" + source.read_bytes()[6:]),
    "scrambled": scrambled,
    "zip bomb": bomb,
}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files(kind, damage, whole, tmp_path):
    file = tmp_path / f"bad{FORMATS[kind]}"
    if kind == "openvino":
        shutil.copytree(whole[kind].parent, tmp_path, dirs_exist_ok=True)
    DAMAGES[damage](whole[kind], file)
    if kind == "openvino":
        shutil.copy(whole[kind].with_suffix(".bin"), file.with_suffix(".bin"))
    check_one_line(file)


def check_one_line(file):
    with pytest.raises(UserError) as caught:
        open_backend(file)
    message = str(caught.value)
    assert file.name in message
    assert "\n" not in message
    assert "\x1b" not in message


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("other", FORMATS)
def test_one_format_under_the_name_of_another(kind, other, whole, tmp_path):
    """Whatever can be told from its contents is read; nothing else is more than one line."""
    file = tmp_path / f"best{FORMATS[other]}"
    file.write_bytes(whole[kind].read_bytes())
    if other == "openvino":
        (tmp_path / "metadata.yaml").write_bytes((whole["openvino"].parent / "metadata.yaml").read_bytes())
    if kind == other or (kind, other) == ("pt", "safetensors"):
        if kind == "openvino":
            file.with_suffix(".bin").write_bytes(whole[kind].with_suffix(".bin").read_bytes())
        assert open_backend(file).names == ("cat",)
        return
    check_one_line(file)


@pytest.mark.parametrize("missing", [".bin", "metadata.yaml"])
def test_openvino_without_a_part(missing, whole, tmp_path):
    folder = tmp_path / "best_openvino_model"
    shutil.copytree(whole["openvino"].parent, folder)
    next(folder.glob(f"*{missing}")).unlink()
    check_one_line(folder)


def test_other_peoples_files(whole, tmp_path):
    torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "relu.torchscript"))
    check_one_line(tmp_path / "relu.torchscript")
    import onnx
    from safetensors.torch import save_file

    model = onnx.load(whole["onnx"])
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "bare.onnx"))
    check_one_line(tmp_path / "bare.onnx")
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    check_one_line(tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    check_one_line(tmp_path / "other.pt")
    (tmp_path / "folder").mkdir()
    check_one_line(tmp_path / "folder")
    check_one_line(tmp_path / "absent.onnx")


SIGNAL_STACK = """
import ctypes, pathlib, sys, threading
import numpy as np
from engine.export.runtimes import open_backend

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

held = [open_backend(sys.argv[1])]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
stack = Stack()
assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
places = [line.split()[0].split("-") for line in pathlib.Path("/proc/self/maps").read_text().splitlines()]
print(not stack.start or any(int(low, 16) <= stack.start < int(high, 16) for low, high in places))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc and sigaltstack")
@pytest.mark.parametrize("kind", ["onnx", "openvino", "torchscript"])
def test_a_model_dropped_in_another_thread_leaves_the_signal_stack_whole(kind, whole):
    """Python's signal handlers run on it: where its memory is gone, Ctrl-C ends the process without a word."""
    command = [sys.executable, "-c", SIGNAL_STACK, str(whole[kind])]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split()[-1] == "True"
