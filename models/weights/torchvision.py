"""Weights for torchvision's detectors: ours, torchvision's own detection files, and its classification files."""

from pathlib import Path
from typing import Any

from torch import Tensor

from models.weights.read import is_ours
from utils.checkpoint import load_checkpoint, load_plain
from utils.errors import UserError, printable


def read_torchvision(path: str | Path) -> dict[str, Any]:
    """Return the contents {model, config} of a checkpoint of this project, or of a state dict that torchvision saved.

    Classification weights get the names of a detector's backbone. UserError for anything else.
    """
    path = Path(path)
    if path.is_file() and is_ours(path):
        return load_checkpoint(path)
    state = load_plain(path, "weights of torchvision")
    state = state.get("model", state) if isinstance(state, dict) else None  # as torchvision's references save it
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{printable(path)}: expected a state dict of torchvision: names with tensors")
    return {"model": with_detector_names(state), "config": {"model": {}}}


def with_detector_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a ResNet's or VGG16's classification weights by their names in a detector's backbone.

    Others as they are.
    """
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return {f"backbone.body.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    if "features.28.weight" in state and "classifier.0.weight" in state:
        # SSD's first feature map ends before the fourth pool, number 23 of VGG16's layers.
        layers = {name: int(name.split(".")[1]) for name in state if name.startswith("features.")}
        return {
            f"backbone.{name}" if layer < 23 else f"backbone.extra.0.{layer - 23}.{name.split('.')[2]}": state[name]
            for name, layer in layers.items()
        }
    return state
