"""Checkpoints of ultralytics/yolov3 (yolov3, -tiny, -spp; pickled models) as checkpoints of this project."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.weights.foreign_pickle import Refused, StandIn, modules, parameter, read_foreign
from models.yolov3.blocks import ConvBlock
from models.yolov3.build import build_network
from models.yolov3.network import Network
from utils.config.knobs import Config, Hyperparameters, ModelConfig, RunConfig, build
from utils.config.model_shape import checked_model
from utils.errors import UserError, printable

BLOCKS = {"yolov3-tiny": 11, "yolov3": 72, "yolov3-spp": 73}
LEAKY_SLOPE = 0.1


def read_ultralytics(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint of this project, from a .pt of ultralytics/yolov3.

    UserError for another model.
    """
    contents = read_foreign(path)
    try:
        return _converted(contents, path)
    except Refused as error:
        raise UserError(f"{printable(path)}: {printable(error)}") from None
    except (TypeError, IndexError, KeyError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(f"{printable(path)}: no yolov3 model can be read from it ({printable(error, 120)})") from None


def _converted(contents: Any, path: Path) -> dict[str, Any]:
    model = _pickled_model(contents)
    tree = list(modules(model))
    detect = next((module for _, module in tree if module.kind.endswith(".Detect")), None)
    if detect is None or parameter(detect, "anchors") is None:
        raise Refused("no yolov3 model: its head has no anchors (YOLOv3u and later are other models)")
    convs = [module for _, module in tree if module.kind.endswith(".Conv")]
    config = _config(model, tree, convs, detect, contents, path)
    network = build_network(config.yolov3, len(config.names))
    network.load_state_dict(dict(_state(network, convs, detect)), strict=True)
    epoch = contents.get("epoch") if isinstance(contents, dict) else None
    return {
        "config": config.to_dict(),
        "names": list(config.names),
        "epoch": max(epoch, 0) if isinstance(epoch, int) else 0,
        "metrics": {},
        "model": network.state_dict(),
        "source": f"ultralytics/yolov3 checkpoint {path.name}",
    }


def _pickled_model(contents: Any) -> StandIn:
    """Return the model in a checkpoint: its averaged weights if it holds both."""
    candidates = [contents.get("ema"), contents.get("model")] if isinstance(contents, dict) else [contents]
    for model in candidates:
        if isinstance(model, StandIn) and model.get("_modules"):
            return model
    raise Refused("no pickled model in it: expected what ultralytics/yolov3's train.py writes")


def _config(
    model: StandIn,
    tree: list[tuple[str, StandIn]],
    convs: list[StandIn],
    detect: StandIn,
    contents: Any,
    path: Path,
) -> Config:
    """Return the config that the pickled model means."""
    cfg = next((name for name, count in BLOCKS.items() if count == len(convs)), None)
    if cfg is None:
        raise Refused(f"a model of {len(convs)} convolution blocks: expected one of {', '.join(BLOCKS)}")
    tiny = cfg == "yolov3-tiny"
    strides = detect.get("stride")
    grid_anchors = parameter(detect, "anchors")
    anchors = grid_anchors * strides.view(-1, 1, 1)
    values = {
        "backbone": "darknet_tiny" if tiny else "darknet53",
        "channels": _channels(convs, tiny),
        "spp": cfg == "yolov3-spp",
        "strides": [int(stride) for stride in strides],
        # Half precision in a file rounds 10.0 / 16 and the like; anchors are whole pixels or tenths.
        "anchors": [[[round(side, 2) for side in size] for size in level] for level in anchors.double().tolist()],
        "activation": _activation(tree),
        # A fused model has no batch normalisation: `_state` writes one that changes nothing, with any epsilon.
        "norm_eps": next((m.get("eps") for _, m in tree if m.kind.endswith(".BatchNorm2d")), ModelConfig.norm_eps),
        "pool_padding": "zeros" if any(m.kind.endswith(".ZeroPad2d") for _, m in tree) else "lowest",
    }
    checked = checked_model(build(ModelConfig, values, str(path)), str(path))
    return Config(_run(contents, cfg), checked, Hyperparameters(), _names(model, detect))


def _channels(convs: list[StandIn], tiny: bool) -> list[int]:
    """Return the channels of the stem and of every stage, from the blocks' weights."""
    counts = [len(_wanted(block.get("_modules")["conv"], "weight")) for block in convs]
    if tiny:
        return counts[:7]
    # Darknet-53: each stage opens with a stride 2 convolution, followed by 2 x depth blocks.
    starts = [0]
    for depth in (0, 1, 2, 8, 8):
        starts.append(starts[-1] + 1 + 2 * depth)
    return [counts[start] for start in starts]


def _wanted(module: StandIn, name: str) -> Tensor:
    """Return a tensor that a whole model has; Refused where it is missing."""
    found = parameter(module, name)
    if found is None:
        raise Refused(f"a layer without its {name}")
    return found


def _activation(tree: list[tuple[str, StandIn]]) -> str:
    """Return the one activation of all blocks."""
    kinds = {m.kind.split(".")[-1] for path, m in tree if path.split(".")[-1] == "act"}
    slopes = {m.get("negative_slope") for _, m in tree if m.kind.endswith(".LeakyReLU")}
    if kinds == {"SiLU"}:
        return "silu"
    if kinds == {"LeakyReLU"} and slopes == {LEAKY_SLOPE}:
        return "leaky"
    raise Refused(f"activation {', '.join(sorted(kinds)) or 'unknown'}: expected SiLU, or LeakyReLU of slope .1")


def _names(model: StandIn, detect: StandIn) -> tuple[str, ...]:
    """Return the class names, as a list or by number, as many as the head has classes."""
    names, count = model.get("names"), detect.get("nc")
    if isinstance(names, Mapping):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or len(names) != count:
        names = [f"class{number}" for number in range(count)]
    return tuple(printable(name) for name in names)


def _run(contents: Any, cfg: str) -> RunConfig:
    """Return the image size it was trained at, where the checkpoint says it."""
    options = contents.get("opt") or contents.get("train_args") if isinstance(contents, dict) else None
    size = options.get("imgsz") if isinstance(options, (dict, StandIn)) else None
    if not isinstance(size, int) or not 32 <= size <= 8192 or size % 32:
        size = 640
    return RunConfig(data="", cfg=cfg, imgsz=(size,))


def _state(network: Network, convs: list[StandIn], detect: StandIn) -> Iterator[tuple[str, Tensor]]:
    """Yield our tensors by name: both networks run their blocks in the same order."""
    ours = [(name, module) for name, module in network.named_modules() if isinstance(module, ConvBlock)]
    for (name, block), theirs in zip(ours, convs, strict=True):
        parts = theirs.get("_modules")
        yield f"{name}.conv.weight", _wanted(parts["conv"], "weight")
        if "bn" in parts:
            for part in ("weight", "bias", "running_mean", "running_var"):
                yield f"{name}.norm.{part}", _wanted(parts["bn"], part)
        else:  # their fuse() folded it into the convolution
            yield f"{name}.norm.bias", _wanted(parts["conv"], "bias")
            yield f"{name}.norm.weight", torch.ones(len(block.norm.weight)).mul((1 + block.norm.eps) ** 0.5)
            yield f"{name}.norm.running_mean", torch.zeros(len(block.norm.weight))
            yield f"{name}.norm.running_var", torch.ones(len(block.norm.weight))
        yield f"{name}.norm.num_batches_tracked", torch.tensor(0)
    heads = list(detect.get("_modules")["m"].get("_modules").values())
    for number, head in enumerate(heads):
        yield f"head.convs.{number}.weight", _wanted(head, "weight")
        yield f"head.convs.{number}.bias", _wanted(head, "bias")
