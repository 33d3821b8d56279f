"""Weights of any kind as a Backend: the detector itself, in PyTorch."""

from pathlib import Path

import torch
from torch import Tensor

from engine.export.backend import Backend, Candidates
from models.detector import AnyDetector
from models.weights.read import load_detector, read_weights
from utils.config.knobs import Config


def open_weights(path: Path, device: torch.device | str = "cpu", cfg: str | None = None) -> Backend:
    """The Backend of a checkpoint, safetensors or Darknet .weights; UserError if it cannot be opened."""
    contents = read_weights(path, cfg)
    config = Config.from_dict(contents["config"], str(path))
    return torch_backend(load_detector(contents, config, str(path)).to(device), config)


def torch_backend(detector: AnyDetector, config: Config) -> Backend:
    """Open a detector of this project, which may lie on any device, as a Backend."""

    @torch.inference_mode()
    def run(images: Tensor) -> Candidates:
        boxes, scores = detector.candidates(images.to(next(detector.parameters()).device))
        if isinstance(boxes, Tensor):
            return boxes.cpu(), scores.cpu()
        return [part.cpu() for part in boxes], [part.cpu() for part in scores]

    return Backend(config.names, config.run.image_size, None, True, run, stride=max(config.model.strides))
