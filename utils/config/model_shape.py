"""Whether the parts of a YOLOv3 fit together, as a YAML, a flag or a checkpoint describes them."""

from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from utils.config.knobs import ModelConfig


def checked_model(model: "ModelConfig", where: str) -> "ModelConfig":
    """Return the model, if its channels, strides and anchors fit together; UserError otherwise."""
    stages, levels = {"darknet53": (6, 3), "darknet_tiny": (7, 2)}[model.backbone]
    if len(model.channels) != stages:
        raise UserError(f"{where}: channels has {len(model.channels)} numbers: {model.backbone} expects {stages}")
    if min(model.channels) < 1:
        raise UserError(f"{where}: channels {list(model.channels)}: expected numbers above 0")
    if any(channels < 8 or channels % 8 for channels in model.channels[-3:]):
        raise UserError(f"{where}: channels {list(model.channels)}: the last three must be multiples of 8")
    if model.strides != (8, 16, 32)[-levels:]:
        raise UserError(f"{where}: strides {list(model.strides)}: {model.backbone} has {list((8, 16, 32)[-levels:])}")
    counts = {len(level) for level in model.anchors}
    if len(model.anchors) != levels or len(counts) != 1 or 0 in counts:
        raise UserError(f"{where}: anchors: expected {levels} levels with the same number of [width, height] each")
    # Not a number is in no range.
    if any(len(size) != 2 or not all(0 < side <= 1e6 for side in size) for level in model.anchors for size in level):
        raise UserError(f"{where}: anchors: expected [width, height] in pixels, above 0 and at most 1000000")
    if model.spp and model.backbone != "darknet53":
        raise UserError(f"{where}: spp: only darknet53 has a pyramid pooling")
    return model
