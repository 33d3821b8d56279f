"""Weights of any kind as a Backend: the detector itself, in PyTorch."""

from pathlib import Path

import torch
from torch import Tensor, nn

from engine.export.backend import Backend, Candidates, candidates_of_raw
from models.weights.read import load_detector, read_weights
from models.yolov3.export_network import Bfloat16Network, folded
from utils.config.knobs import Config, TorchvisionConfig, plain
from utils.device import autocast_dtype


def open_weights(
    path: Path, device: torch.device | str = "cpu", cfg: str | None = None, precision: str = "float32"
) -> Backend:
    """Open a checkpoint, safetensors or Darknet .weights, made fast for detection; UserError if it cannot be."""
    contents = read_weights(path, cfg)
    config = Config.from_dict(contents["config"], str(path))
    detector = load_detector(contents, config, str(path))
    lower = uses_bf16(precision, torch.device(device))
    if not isinstance(config.model, TorchvisionConfig):
        detector.network = (Bfloat16Network if lower else folded)(detector.network)
    detector.to(device, memory_format=torch.channels_last)
    return torch_backend(detector, config, "bf16" if lower else "float32")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether `--precision` means bfloat16 on a device: auto does where the hardware computes in it."""
    return precision == "bf16" or (precision == "auto" and autocast_dtype("auto", device) == torch.bfloat16)


def torch_backend(detector: nn.Module, config: Config, precision: str = "float32") -> Backend:
    """Wrap a detector of this project; a torchvision one computes in bfloat16 by autocast where `precision` says so."""
    model = config.model

    @torch.inference_mode()
    def run(images: Tensor) -> Candidates:
        device = next(detector.parameters()).device
        images = images.to(device)
        if isinstance(model, TorchvisionConfig):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                boxes, scores = detector.candidates(images)
            return [part.float().cpu() for part in boxes], [part.float().cpu() for part in scores]
        raw = detector.network(images.contiguous(memory_format=torch.channels_last)).float()
        size = (images.shape[-2], images.shape[-1])
        return candidates_of_raw(raw.cpu(), size, model.strides, model.anchors, model)

    stride = max(model.strides)
    return Backend(
        config.names, config.run.image_size, None, True, run, stride=stride, precision=precision, model=plain(model)
    )
