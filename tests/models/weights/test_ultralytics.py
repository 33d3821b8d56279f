"""Checkpoints of ultralytics/yolov3: the same outputs, nothing executed, everything else refused in one line."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.weights.read import is_ours, load_detector, read_weights
from models.weights.ultralytics import read_ultralytics
from tests.models.weights import yolov3_repository
from tests.paths import SHARED_DATA, needs_shared_data
from utils.checkpoint import save_checkpoint
from utils.config.knobs import Config
from utils.errors import UserError

CHECKPOINT = SHARED_DATA / "checkpoints" / "ultralytics-yolov3-tiny-bccd.pt"


def detector_of(contents):
    return load_detector(contents, Config.from_dict(contents["config"], "test"), "test")


@needs_shared_data
def test_decoded_outputs_are_the_reference():
    contents = read_weights(CHECKPOINT)
    assert contents["names"] == ["RBC", "WBC", "Platelets"]
    assert contents["config"]["model"]["anchors"][1] == [[81.0, 82.0], [135.0, 169.0], [344.0, 319.0]]
    reference = np.load(CHECKPOINT.with_name(f"{CHECKPOINT.stem}-reference.npz"))
    detector = detector_of(contents)
    images = torch.from_numpy(reference["images_rgb_uint8"]).float() / 255
    with torch.no_grad():
        raw = detector.network(images)
    boxes = detector.decoding.boxes(raw[..., :4], detector.anchors((320, 320), images.device))
    xywh = torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1).numpy()
    assert np.abs(xywh - reference["outputs"][..., :4]).max() < 1e-3
    assert np.abs(raw[..., 4:].sigmoid().numpy() - reference["outputs"][..., 4:]).max() < 1e-4


@pytest.mark.parametrize("spp", [False, True])
@pytest.mark.parametrize("act", ["silu", "leaky"])
@pytest.mark.parametrize("key", ["model", "ema"])
def test_yolov3_and_spp_compute_the_same(spp, act, key, tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs = yolov3_repository.yolov3([8, 16, 24, 32, 40, 48], 4, {0: "a", 1: "b", 2: "c", 3: "d"}, spp, act)
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    yolov3_repository.registered(monkeypatch)
    contents = {"epoch": -1, "model": None, "ema": None, "optimizer": None, "opt": {"imgsz": 416}, key: theirs.eval()}
    torch.save(contents, tmp_path / "theirs.pt")
    monkeypatch.undo()
    ours = read_ultralytics(tmp_path / "theirs.pt")
    assert (ours["names"], ours["config"]["run"]["imgsz"]) == (["a", "b", "c", "d"], [416])
    assert ours["config"]["model"]["spp"] is spp
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.allclose(detector_of(ours).network(images), theirs(images), atol=1e-5)


def test_a_fused_model_computes_the_same(tmp_path, monkeypatch):
    """As `model.fuse()` leaves it: convolutions with a bias, and no batch normalisation that could tell an epsilon."""
    torch.manual_seed(0)
    theirs = yolov3_repository.yolov3([8, 16, 24, 32, 40, 48], 2, {0: "a", 1: "b"}, False, "silu").eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images)
    for module in list(theirs.modules()):
        if hasattr(module, "bn"):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            del module.bn
    yolov3_repository.registered(monkeypatch)
    torch.save({"epoch": -1, "model": theirs, "opt": {"imgsz": 416}}, tmp_path / "theirs.pt")
    monkeypatch.undo()
    with torch.no_grad():
        assert torch.allclose(detector_of(read_weights(tmp_path / "theirs.pt")).network(images), expected, atol=1e-5)


@pytest.mark.parametrize("told", ["alignyolo", "/home/u/alignyolo/data.yaml", "format alignyolo"])
def test_theirs_may_mention_this_project(told, tmp_path, monkeypatch):
    theirs = yolov3_repository.yolov3([8, 8, 8, 8, 8, 8], 2, {0: "a", 1: told}, False, "silu")
    yolov3_repository.registered(monkeypatch)
    options = {"imgsz": 416, "data": told, "format": "onnx", told: "format"}
    torch.save({"epoch": -1, "model": theirs.eval(), "opt": options}, tmp_path / "theirs.pt")
    monkeypatch.undo()
    assert not is_ours(tmp_path / "theirs.pt")
    assert read_weights(tmp_path / "theirs.pt")["names"] == ["a", told]


def test_ours_are_told_by_the_entry_that_says_so(tmp_path):
    save_checkpoint(tmp_path / "ours.pt", {"model": {}})
    assert is_ours(tmp_path / "ours.pt")
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert is_ours(archive(tmp_path / "a.pt", pickle.dumps({"a": 1, "format": "alignyolo"}, protocol)))
        assert not is_ours(archive(tmp_path / "b.pt", pickle.dumps({"format": "alignyolo2", "alignyolo": 1}, protocol)))
    assert not is_ours(archive(tmp_path / "c.pt", b"no pickle: format alignyolo"))


def archive(path, program, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x/data.pkl", program)
        file.writestr("x/byteorder", "little")
    return path


class Call:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def named(module, name, protocol=2):
    """A pickle that names module.name and calls it."""
    if protocol == 2:
        return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x05\x00\x00\x00touch\x85R."
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    return b"\x80\x04" + texts + b"\x93\x8c\x05touch\x85R."


TOUCH = "touch attacked"
ATTACKS = {
    "os.system": (named("os", "system"), "os.system"),
    "os.system, protocol 4": (named("os", "system", 4), "os.system"),
    "posix.system": (pickle.dumps({"model": Call(os.system, TOUCH)}, 2), "posix.system"),
    "eval": (pickle.dumps(Call(eval, "open('attacked', 'w')"), 2), "eval"),
    "nested": (pickle.dumps(OrderedDict(a=[Call(OrderedDict, [("k", Call(os.system, TOUCH))])]), 2), "posix.system"),
    "like torch": (named("torch.nn.modules.conv", "Conv2dd"), "torch.nn.modules.conv.Conv2dd"),
    "like torch's package": (named("torch_nn.modules.conv", "Conv2d"), "torch_nn.modules.conv.Conv2d"),
    "of torch": (named("torch", "load"), "torch.load"),
    "of torch.hub": (named("torch.hub", "load"), "torch.hub.load"),
    "called class": (named("torch.nn.modules.conv", "Conv2d"), "torch.nn.modules.conv.Conv2d"),
    "called repository code": (named("models.common", "attempt_download"), "models.common.attempt_download"),
    "getattr": (named("builtins", "getattr"), "builtins.getattr"),
    "subprocess": (named("subprocess", "Popen"), "subprocess.Popen"),
    "INST": (b"(S'touch'\nios\nsystem\n.", "INST"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_by_name(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, name = ATTACKS[attack]
    file = archive(tmp_path / "attack.pt", program)
    with pytest.raises(UserError) as caught:
        read_weights(file)
    assert name in str(caught.value)
    assert list(tmp_path.iterdir()) == [file]


def tensor_program(size, stride, offset, length):
    """A checkpoint whose one tensor has a shape of our choice over storage 0 of `length` floats."""
    out, memory = io.BytesIO(), object()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", length) if value is memory else None

    call = Call(torch._utils._rebuild_tensor_v2, memory, offset, size, stride, False, OrderedDict())
    Pickler(out, 2).dump({"model": call})
    return out.getvalue()


@pytest.mark.parametrize(
    "shape",
    [
        ((100,), (1,), 0, 4),
        ((2, 2), (2, 1), 1, 4),
        ((10**9,), (0,), 0, 4),
        ((1,), (1,), -1, 4),
        ((4,), (1,), 0, 10**12),
    ],
    ids=str,
)
def test_tensors_cannot_leave_their_data(shape, tmp_path):
    file = tmp_path / "tensor.pt"
    archive(file, tensor_program(*shape))
    with zipfile.ZipFile(file, "a") as added:
        added.writestr("x/data/0", struct.pack("<4f", 1, 2, 3, 4))
    with pytest.raises(UserError, match="a tensor"):
        read_weights(file)


def damaged(kind, path):
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("hello\x1b[31m there\n" * 100)
    elif kind == "bomb":
        archive(path, b"\x00" * 10**8, zipfile.ZIP_DEFLATED)
    elif kind == "truncated" or kind == "flipped":
        torch.save({"model": {"a": torch.arange(100.0)}}, path)
        data = bytearray(path.read_bytes())
        path.write_bytes(data[: len(data) // 2] if kind == "truncated" else data.replace(b"torch", b"tor\x00h"))
    elif kind == "ours, truncated":
        save_checkpoint(path, {"model": {"weight": torch.zeros(1000)}, "config": {}, "names": [], "epoch": 1})
        path.write_bytes(path.read_bytes()[:900])
    elif kind == "state dict":
        torch.save({"a": torch.zeros(3)}, path)
    elif kind == "endless":
        archive(path, b"\x80\x02}q\x00(X\x01\x00\x00\x00ah\x00u")
    elif kind == "stack":
        archive(path, b"\x80\x02\x86.")
    elif kind == "two pickles":
        archive(path, b"\x80\x02N.")
        with zipfile.ZipFile(path, "a") as added:
            added.writestr("y/data.pkl", b"\x80\x02N.")
    elif kind == "magic":
        path.write_bytes(b"PK\x03\x04" + bytes(200))
    elif kind == "weights":
        path.with_suffix(".weights").write_bytes(struct.pack("<iiii", 0, 2, 0, 0))
        return path.with_suffix(".weights")
    elif kind == "weights, version":
        path.with_suffix(".weights").write_bytes(struct.pack("<iiiq", 77, 2, 0, 0) + bytes(4000))
        return path.with_suffix(".weights")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps([1, 2]))
    return path


@pytest.mark.parametrize(
    "kind",
    ["missing", "empty", "text", "bomb", "truncated", "flipped", "ours, truncated", "state dict", "endless", "stack"]
    + ["two pickles", "magic", "weights", "weights, version", "pickle"],
)
def test_anything_else_is_one_clear_line(kind, tmp_path):
    with pytest.raises(UserError) as caught:
        read_weights(damaged(kind, tmp_path / "file.pt"))
    message = str(caught.value)
    assert "file." in message
    assert "\n" not in message
    assert "\x1b" not in message


@needs_shared_data
@pytest.mark.parametrize("at", [100, 5_000, 20_000, 25_000, 10**6])
def test_damage_in_a_real_checkpoint(at, tmp_path):
    data = CHECKPOINT.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[:at])
    with pytest.raises(UserError):
        read_weights(tmp_path / "cut.pt")
    changed = bytearray(data)
    changed[at : at + 40] = os.urandom(40)
    (tmp_path / "changed.pt").write_bytes(changed)
    try:
        read_weights(tmp_path / "changed.pt")  # padding or a weight's bytes may be hit without notice, unless CRC says
    except UserError as error:
        assert "changed.pt" in str(error)
