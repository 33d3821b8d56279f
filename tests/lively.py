"""A checkpoint of an untrained network that sees things everywhere, for tests that need detections and no training."""

from pathlib import Path
from typing import Any

import torch

from models.yolov3.build import build_network
from utils.checkpoint import save_checkpoint
from utils.config.knobs import Config, Hyperparameters, RunConfig
from utils.config.sources import model_config


def lively_checkpoint(
    path: Path, cfg: str, changes: dict[str, Any], names: tuple[str, ...], size: tuple[int, int], **metrics: float
) -> Path:
    """Writes a network of `cfg` with `changes` for images of `size` (height, width); returns its path."""
    model = model_config(cfg, changes)
    torch.manual_seed(3)
    network = build_network(model, len(names))
    with torch.no_grad():
        # Statistics of real features: made-up ones let 75 layers grow, and rounding with them, beyond any tolerance.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        network.train()(torch.rand(4, 3, *size))
        for conv in network.head.convs:
            conv.weight.normal_(0, 0.3)
            conv.bias.zero_()
    config = Config(RunConfig(imgsz=size, cfg=cfg), model, Hyperparameters(), names)
    contents = {"config": config.to_dict(), "names": list(names), "epoch": 1, "metrics": metrics}
    save_checkpoint(path, {**contents, "model": network.state_dict()})
    return path
