"""What every opened file is to the rest of the project: image batches to boxes and class scores, or to detections."""

import ast
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alignyolo.anchors import build_anchors
from engine.export.metadata import require_ours, settings_of
from models.yolov3.decoding import Decoding
from utils.errors import UserError, printable

# Boxes (B, A, 4) xyxy pixels, scores (B, A, C); a list of B where images have unlike many.
Candidates = tuple[Tensor, Tensor] | tuple[list[Tensor], list[Tensor]]
Detections = list[dict[str, Tensor]]
STORED = {"int8": "int8", "half": "float16"}  # what an exported file says of its numbers
Compute = Callable[[np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Backend:
    """Something that detects: class names, input size (h, w) and batch, and `run` on (B, 3, H, W) float32 in [0, 1].

    `run` gives Candidates, or with `final` detections after NMS.
    """

    names: tuple[str, ...]
    image_size: tuple[int, int]
    batch: int | None  # None: any
    dynamic: bool
    run: Callable[[Tensor], Any]
    final: bool = False
    stride: int = 32
    precision: str = "float32"  # what it computes in
    limits: Mapping[str, Any] = field(default_factory=dict)  # with `final`: conf, nms_iou and max_det of the file
    model: Mapping[str, Any] = field(default_factory=dict)  # the model's config
    source: str = ""  # what the weights say about themselves
    photo_bits: int = 0  # that deep photos are scaled by (data/images.py)
    run_settings: Mapping[str, Any] = field(default_factory=dict)  # of a file: what val.py takes from its training run
    in_torch: bool = False  # computed by PyTorch, whose threads are ours to share out


def in_turns(compute: Compute) -> Compute:
    """Let one thread at a time compute, for a runtime whose opened file holds the features of one batch."""
    lock = threading.Lock()

    def alone(images: np.ndarray) -> Sequence[np.ndarray]:
        with lock:
            return compute(images)

    return alone


def input_size(backend: Backend, imgsz: Sequence[int], path: str | Path) -> tuple[int, int]:
    """Choose the input size (h, w) for `--imgsz`, the file's own where it is empty; UserError if it cannot be."""
    size = (imgsz[0], imgsz[-1]) if imgsz else backend.image_size
    if any(side % backend.stride for side in size):
        raise UserError(f"--imgsz {' '.join(map(str, size))}: expected multiples of {backend.stride}")
    if not backend.dynamic and size != backend.image_size:
        raise UserError(f"{printable(path)}: was exported for {'x'.join(map(str, backend.image_size))} px alone")
    return size


def within_limits(
    backend: Backend, asked: Mapping[str, float], defaults: Mapping[str, float], path: str | Path
) -> dict[str, Any]:
    """Return conf, nms_iou and max_det as they hold for a file that does its own NMS, which has limits of its own.

    UserError for one that is asked for, other than its default, and has no effect: what the file leaves out by itself
    is not there to be reported.
    """
    limits = {**asked, **backend.limits}
    kept: dict[str, Callable[[float, float], float]]
    kept = {"conf": max, "nms_iou": lambda _, limit: limit, "max_det": min}
    values = {name: kept[name](value, limits[name]) for name, value in asked.items()}
    for name, value in asked.items():
        if value not in (values[name], defaults.get(name)):
            raise UserError(
                f"--{name.replace('_', '-')} {value:g}: {printable(path)} does its own NMS at {limits[name]:g}: "
                "leave the flag out, or export again with another value or with --layout decoded"
            )
    return values


def candidates_of_decoded(output: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes and scores of decoded outputs (B, 4 + C, A)."""
    output = output.float().transpose(1, 2)
    center, half = output[..., :2], output[..., 2:4] / 2
    return torch.cat([center - half, center + half], dim=-1), output[..., 4:]


def from_metadata(path: Path, metadata: Mapping[str, Any], compute: Compute, precision: str = "") -> Backend:
    """Return the backend of an exported file from its metadata and its computation; UserError if they are not ours.

    `precision` is what a runtime that chooses says it computes in.
    """
    try:
        values = {key: _literal(metadata[key]) for key in ("names", "imgsz", "batch", "stride", "args")}
        by_number = {int(number): str(name) for number, name in values["names"].items()}  # JSON's keys are text
        names = tuple(by_number[number] for number in range(len(by_number)))
        dynamic = bool(_literal(metadata.get("any_size", values["args"]["dynamic"])))
        model = json.loads(metadata["model_config"] if "model_config" in metadata else metadata["model"])
        layout = metadata["layout"]
        limits = _literal(metadata.get("nms_limits", {}))
        run_settings = settings_of(_literal(metadata.get("val_settings", {})), _literal(metadata.get("photo_bits", 0)))
        require_ours(values, layout, model, limits)
        image_size = (values["imgsz"][0], values["imgsz"][1])
        stored = next((name for key, name in STORED.items() if values["args"].get(key)), "float32")
        precision = stored if stored == "int8" else precision or stored
    except (KeyError, ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{printable(path)}: not exported by this project ({printable(error, 80)} in its metadata)"
        ) from None

    def run(images: Tensor) -> Candidates | Detections:
        outputs = [torch.from_numpy(np.ascontiguousarray(part)) for part in compute(images.numpy())]
        if layout == "decoded":
            return _of_classes(candidates_of_decoded(outputs[0]), names, path)
        if layout == "raw":
            size = (images.shape[-2], images.shape[-1])
            decoding = Decoding(model["decode"], model["xy_reach"])
            anchors = build_anchors(size, model["strides"], model["anchors"])
            return _of_classes(decoding.candidates(outputs[0], anchors), names, path)
        boxes, scores, labels, counts = outputs[-4:]
        _require_named(int(labels.max()) + 1 if labels.numel() else 0, len(names), path)
        return [
            {"boxes": box[:count], "scores": score[:count], "labels": label[:count]}
            for box, score, label, count in zip(boxes, scores, labels.long(), counts.tolist(), strict=True)
        ]

    batch = None if dynamic else values["batch"]
    final, stride = layout == "nms", values["stride"]
    facts = (stride, precision, limits, model, "exported", run_settings["photo_bits"], run_settings)
    return Backend(names, image_size, batch, dynamic, run, final, *facts)


def _of_classes(found: tuple[Tensor, Tensor], names: Sequence[str], path: Path) -> tuple[Tensor, Tensor]:
    """Return what a file has found; UserError where it scores another number of classes than it names."""
    _require_named(found[1].shape[-1], len(names), path, exactly=True)
    return found


def _require_named(count: int, names: int, path: Path, exactly: bool = False) -> None:
    """Raise UserError unless so many classes have a name, and no others where it has to be exactly as many."""
    if count > names or (exactly and count != names):
        raise UserError(f"{printable(path)}: names {names} classes in its metadata, and detects {count}")


def _literal(value: Any) -> Any:
    return ast.literal_eval(value) if isinstance(value, str) else value
