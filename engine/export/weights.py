"""Weights of any kind as a Backend: the detector itself, in PyTorch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.export.backend import Backend, Candidates
from models.detector import AnyDetector
from models.weights.read import load_detector, read_weights
from models.yolov3.export_network import for_detection
from utils.config.knobs import Config, plain
from utils.device import autocast_dtype


def open_weights(
    path: Path, device: torch.device | str = "cpu", cfg: str | None = None, precision: str = "float32"
) -> Backend:
    """Open a checkpoint, safetensors or Darknet .weights, made fast for detection; UserError if it cannot be."""
    contents = read_weights(path, cfg)
    config = Config.from_dict(contents["config"], str(path))
    detector = load_detector(contents, config, str(path))
    bf16 = uses_bf16(precision, torch.device(device))
    detector.network = for_detection(detector.network, bf16)
    detector.network.to(device, memory_format=torch.channels_last)
    return torch_backend(detector, config, bf16)


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Tell whether `--precision` means bfloat16 on a device: auto does where the hardware computes in it."""
    return precision == "bf16" or (precision == "auto" and autocast_dtype("auto", device) == torch.bfloat16)


def torch_backend(detector: AnyDetector, config: Config, bf16: bool = False) -> Backend:
    """Open a detector of this project, which may lie on any device, as a Backend; with `bf16` under autocast."""

    @torch.inference_mode()
    def run(images: Tensor) -> Candidates:
        device = next(detector.parameters()).device
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            boxes, scores = detector.candidates(images.to(device))
        return _on_host(boxes), _on_host(scores)

    size, stride = config.run.image_size, max(config.model.strides)
    precision, model = "bf16" if bf16 else "float32", plain(config.model)
    facts: dict[str, Any] = {
        "stride": stride,
        "precision": precision,
        "model": model,
        "photo_bits": config.run.photo_bits,
        "in_torch": True,
    }
    return Backend(config.names, size, None, True, run, **facts)


def _on_host(parts: Iterable[Tensor]) -> Any:
    """Return a tensor, or one for each image, in float32 on the host."""
    return parts.float().cpu() if isinstance(parts, Tensor) else [part.float().cpu() for part in parts]
