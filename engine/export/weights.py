"""Weights of any kind as a Backend: the detector itself, in PyTorch."""

from pathlib import Path

import torch
from torch import Tensor

from engine.export.backend import Backend, Candidates, candidates_of_raw
from models.weights.read import load_detector, read_weights
from utils.config.knobs import Config, TorchvisionConfig


def open_weights(path: Path, device: torch.device | str = "cpu", cfg: str | None = None) -> Backend:
    """The Backend of a checkpoint, safetensors or Darknet .weights; UserError if it cannot be opened."""
    contents = read_weights(path, cfg)
    config = Config.from_dict(contents["config"], str(path))
    return torch_backend(load_detector(contents, config, str(path)).to(device), config)


def torch_backend(detector: torch.nn.Module, config: Config) -> Backend:
    """A detector of this project."""
    model = config.model

    @torch.inference_mode()
    def run(images: Tensor) -> Candidates:
        if isinstance(model, TorchvisionConfig):
            boxes, scores = detector.candidates(images.to(next(detector.parameters()).device))
            return [part.cpu() for part in boxes], [part.cpu() for part in scores]
        raw = detector.network(images.to(next(detector.parameters()).device)).float()
        return candidates_of_raw(raw.cpu(), tuple(images.shape[-2:]), model.strides, model.anchors, model)

    return Backend(config.names, config.run.image_size, None, True, run, stride=max(model.strides))
