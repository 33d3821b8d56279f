"""Weights and exported files as one thing: image batches to boxes and class scores, or to detections."""

import ast
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from alignyolo.anchors import build_anchors
from models.weights.read import load_detector, read_weights
from models.yolov3.decoding import Decoding
from utils.config.knobs import Config
from utils.errors import UserError, printable

# Boxes (B, A, 4) xyxy pixels, scores (B, A, C); a list of B where images have unlike many.
Candidates = tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]
Detections = list[dict[str, Tensor]]


@dataclass(frozen=True)
class Backend:
    """Something that detects: class names, input size (h, w) and batch, and `run` on (B, 3, H, W) float32 in [0, 1].

    `run` gives Candidates, or with `final` detections after NMS.
    """

    names: tuple[str, ...]
    image_size: tuple[int, int]
    batch: int | None  # None: any
    dynamic: bool
    run: Callable[[Tensor], Candidates | Detections]
    final: bool = False
    stride: int = 32


def open_backend(path: str | Path, device: torch.device | str = "cpu", cfg: str | None = None) -> Backend:
    """The backend of a weights file or an exported file, told by its suffix; UserError if it cannot be opened."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"weights not found: {printable(path.absolute())}")
    if path.is_dir() or path.suffix == ".xml":
        return open_openvino(path)
    special = {".onnx": open_onnx, ".torchscript": open_torchscript}
    if path.suffix in special:
        return special[path.suffix](path)
    contents = read_weights(path, cfg)
    config = Config.from_dict(contents["config"], str(path))
    return torch_backend(load_detector(contents, config, str(path)).to(device), config)


def torch_backend(detector: torch.nn.Module, config: Config) -> Backend:
    """A detector of this project."""

    @torch.inference_mode()
    def run(images: Tensor) -> Candidates:
        boxes, scores = detector.candidates(images.to(next(detector.parameters()).device))
        return [part.cpu() for part in boxes], [part.cpu() for part in scores]

    return Backend(config.names, config.run.image_size, None, True, run, stride=max(config.model.strides))


def candidates_of_decoded(output: Tensor) -> Candidates:
    """Boxes and scores of decoded outputs (B, 4 + C, A)."""
    output = output.float().transpose(1, 2)
    center, half = output[..., :2], output[..., 2:4] / 2
    return torch.cat([center - half, center + half], dim=-1), output[..., 4:]


def from_metadata(
    path: Path, metadata: Mapping[str, Any], compute: Callable[[np.ndarray], list[np.ndarray]]
) -> Backend:
    """The backend of an exported file from its metadata and its computation; UserError if they are not ours."""
    try:
        values = {key: _literal(metadata[key]) for key in ("names", "imgsz", "batch", "stride", "args")}
        by_number = {int(number): str(name) for number, name in values["names"].items()}  # JSON's keys are text
        names = tuple(by_number[number] for number in range(len(by_number)))
        image_size, dynamic = tuple(values["imgsz"]), bool(values["args"]["dynamic"])
        layout, model = metadata["layout"], json.loads(metadata["model"])
        decoding = Decoding(model["decode"], model["xy_reach"])
    except (KeyError, ValueError, SyntaxError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{printable(path)}: not exported by this project ({printable(error, 80)} in its metadata)"
        ) from None

    def run(images: Tensor) -> Candidates | Detections:
        outputs = [torch.from_numpy(np.ascontiguousarray(part)) for part in compute(images.numpy())]
        if layout == "decoded":
            return candidates_of_decoded(outputs[0])
        if layout == "raw":
            size = tuple(images.shape[-2:])
            anchors = build_anchors(size, model["strides"], model["anchors"])
            return decoding.candidates(outputs[0], anchors)
        boxes, scores, labels, counts = outputs
        return [
            {"boxes": box[:count], "scores": score[:count], "labels": label[:count]}
            for box, score, label, count in zip(boxes, scores, labels.long(), counts.tolist(), strict=True)
        ]

    batch = None if dynamic else int(values["batch"])
    return Backend(names, image_size, batch, dynamic, run, layout == "nms", int(values["stride"]))


def _literal(value: Any) -> Any:
    return ast.literal_eval(value) if isinstance(value, str) else value


def silent_onnxruntime() -> ModuleType:
    """onnxruntime, which by itself keeps an identity of the machine in HOME and reports to its makers."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when it is imported
    import onnxruntime

    return onnxruntime


def open_onnx(path: Path) -> Backend:
    """An ONNX file in onnxruntime."""
    try:
        onnxruntime = silent_onnxruntime()
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError:
        raise UserError(f"{printable(path)}: needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _exceptions(errors) as error:
        raise UserError(f"{printable(path)}: not an ONNX file, or damaged ({printable(error, 120)})") from None
    metadata = session.get_modelmeta().custom_metadata_map
    name = session.get_inputs()[0].name
    return from_metadata(path, metadata, lambda images: session.run(None, {name: images}))


def _exceptions(module: Any) -> tuple[type[Exception], ...]:
    """All exceptions that a module defines."""
    return tuple(each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Exception))


def open_torchscript(path: Path) -> Backend:
    """A TorchScript file."""
    extra = {"config.txt": ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
        metadata = json.loads(extra["config.txt"])
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{printable(path)}: not a TorchScript file of ours ({printable(error, 100)})") from None

    def compute(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [module(torch.from_numpy(images)).float().numpy()]

    return from_metadata(path, metadata, compute)


def open_openvino(path: Path) -> Backend:
    """An OpenVINO folder, or the .xml in it."""
    try:
        import openvino
    except ImportError:
        raise UserError(f"{printable(path)}: needs openvino: pip install openvino") from None
    file = path if path.suffix == ".xml" else next(iter(sorted(path.glob("*.xml"))), None)
    if file is None or not (file.parent / "metadata.yaml").is_file():
        raise UserError(f"{printable(path)}: expected a folder with an .xml, a .bin and a metadata.yaml")
    with file.open("rb") as opened:  # anything else OpenVINO would hand to its readers of other formats
        if not opened.read(64).lstrip(b"\xef\xbb\xbf \r\n").startswith((b"<?xml", b"<net")):
            raise UserError(f"{printable(file)}: not an OpenVINO model: no XML")
    try:
        # Float32 arithmetic: a CPU may otherwise take bfloat16, and the numbers would differ from PyTorch's.
        compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        metadata = yaml.safe_load((file.parent / "metadata.yaml").read_text("utf-8"))
    except (RuntimeError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(path)}: not an OpenVINO model ({printable(error, 120)})") from None
    return from_metadata(path, metadata, lambda images: [np.array(part) for part in compiled(images).values()])
