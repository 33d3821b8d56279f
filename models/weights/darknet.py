"""Darknet's .cfg and .weights of yolov3, -tiny and -spp, to checkpoints of this project and back, byte for byte."""

import math
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.weights.darknet_cfg import UNSAID_SIDE, Section, cfg_with_size, format_cfg, parse_cfg, read_cfg_text
from models.yolov3.blocks import ConvBlock, SpatialPyramidPooling
from models.yolov3.build import build_network
from models.yolov3.network import Network
from utils.config.knobs import Config, Hyperparameters, ModelConfig, RunConfig, build
from utils.config.model_shape import checked_model
from utils.config.sources import model_config
from utils.errors import UserError, printable

EPSILON = 1e-6  # of Darknet's batch normalisation
TINY_ANCHORS = (((23, 27), (37, 58), (81, 82)), ((81, 82), (135, 169), (344, 319)))
COCO_CLASSES = 80
MOST_CLASSES = 2000
LARGEST_INPUT = 8192  # of a side in pixels


def looks_like_darknet(path: Path, start: bytes) -> bool:
    """Tell whether a file is Darknet's by its name or its header: version 0.1 or 0.2, and whole floats."""
    if path.suffix == ".weights" or _cutoff_in_name(path):
        return True
    return len(start) == 20 and struct.unpack_from("<ii", start) in ((0, 1), (0, 2)) and path.stat().st_size % 4 == 0


def read_darknet(path: Path, cfg: Path | None = None, cutoff: int | None = None) -> dict[str, Any]:
    """Return the contents of a checkpoint of this project, from .weights with or without a .cfg.

    UserError for others.
    """
    header, values = _read_file(path)
    cutoff = cutoff if cutoff is not None else _cutoff_in_name(path)
    beside = path.with_suffix(".cfg")
    cfg = cfg or (beside if beside.is_file() else None)
    if cfg is None and cutoff is not None:
        config, text = _named_config("yolov3-tiny" if "tiny" in path.name else "yolov3", COCO_CLASSES), None
    elif cfg is None:
        config, text = _config_by_length(path, len(values)), None
    else:
        text = read_cfg_text(cfg)
        config = read_cfg(text, cfg)
    network = build_network(config.yolov3, len(config.names))
    taken = _fill(network, values, config, cutoff, path)
    state = network.state_dict()
    return {
        "config": config.to_dict(),
        "names": list(config.names),
        "epoch": 0,
        "metrics": {},
        "model": {name: tensor for name, tensor in state.items() if name in taken},
        "source": f"Darknet weights {path.name}",
        "darknet": {**header, "cfg": text, "cutoff": cutoff},
    }


def _read_file(path: Path) -> tuple[dict[str, int], np.ndarray]:
    """Return the header of .weights, and all floats after it."""
    data = path.read_bytes()
    if len(data) < 16:
        raise UserError(f"{printable(path)}: {len(data)} bytes are no Darknet weights")
    major, minor, revision = struct.unpack_from("<iii", data)
    if major not in (0, 1) or not 0 <= minor < 1000:
        raise UserError(f"{printable(path)}: no Darknet weights: their header begins with a version such as 0.2")
    long_seen = major * 10 + minor >= 2
    seen_format, start = ("<q", 20) if long_seen else ("<i", 16)
    if len(data) < start or (len(data) - start) % 4:
        raise UserError(f"{printable(path)}: damaged Darknet weights: {len(data) - start} bytes are no whole floats")
    (seen,) = struct.unpack_from(seen_format, data, 12)
    return {"major": major, "minor": minor, "revision": revision, "seen": seen}, np.frombuffer(
        data, "<f4", offset=start
    )


def write_darknet(path: Path, network: Network, config: Config, origin: dict[str, Any] | None = None) -> Path:
    """Write .weights and, beside them, .cfg; returns the .cfg. UserError for what Darknet cannot compute.

    `origin` is what read_darknet kept of the file's own header and .cfg.
    """
    model = config.yolov3
    wrong = [
        f"{key}: {value} (Darknet: {expected})"
        for key, value, expected in (
            ("decode", model.decode, "darknet"),
            ("activation", model.activation, "leaky"),
            ("pool_padding", model.pool_padding if model.backbone == "darknet_tiny" else "lowest", "lowest"),
        )
        if value != expected
    ]
    if wrong:
        raise UserError(f"--format darknet: the model has {', '.join(wrong)}; train with --set for those, or use onnx")
    header = origin or {"major": 0, "minor": 2, "revision": 0, "seen": 0}
    size = config.run.image_size
    kept = header.get("cfg")
    text = cfg_with_size(kept, size) if kept else format_cfg(cfg_sections(model, len(config.names), size))
    long_seen = header["major"] * 10 + header["minor"] >= 2
    with path.open("wb") as file:
        file.write(struct.pack("<iii", header["major"], header["minor"], header["revision"]))
        file.write(struct.pack("<q" if long_seen else "<i", header["seen"]))
        shift = model.norm_eps - EPSILON
        merges = _merges(network)
        for layer in _layers(network, header.get("cutoff")):
            for name, tensor in _tensors(layer):
                if shift and name == "running_var":
                    tensor = tensor + shift
                if layer in merges and name == "conv":
                    tensor = _reversed_groups(tensor)
                file.write(tensor.detach().cpu().float().numpy().astype("<f4").tobytes())
    cfg = path.with_suffix(".cfg")
    cfg.write_bytes(text.encode("utf-8", "surrogateescape"))
    return cfg


def read_cfg(text: str, path: Path) -> Config:
    """Return the config of a Darknet .cfg; UserError names the first layer in which it is no yolov3, -tiny or -spp."""
    where = printable(path)
    sections = parse_cfg(text, where)
    try:
        return _config_of(sections, where)
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(where) else f"{where}: {message}") from None


def _config_of(sections: list[Section], where: str) -> Config:
    yolos = [section for section in sections if section.kind == "yolo"]
    filters = [section.number("filters", 1) for section in sections if section.kind == "convolutional"]
    tiny, spp = len(yolos) == 2, sum(section.kind == "maxpool" for section in sections) == 3
    if len(yolos) not in (2, 3) or len(filters) < 13 or (not tiny and len(filters) < 75):
        raise UserError(f"{len(filters)} convolutions and {len(yolos)} [yolo] layers: expected yolov3, -tiny or -spp")
    for yolo in yolos:
        if yolo.keys.get("scale_x_y", "1") not in ("1", "1.0") or yolo.number("new_coords", 0):
            raise UserError(f"line {yolo.line}: [yolo] with scale_x_y or new_coords: expected YOLOv3's own decoding")
    stage_starts = range(7) if tiny else [0, 1, 4, 9, 26, 43]
    values = {
        "backbone": "darknet_tiny" if tiny else "darknet53",
        "channels": [filters[start] for start in stage_starts],
        "spp": spp,
        "strides": [16, 32] if tiny else [8, 16, 32],
        "anchors": [_masked_anchors(yolo) for yolo in reversed(yolos)],
        "activation": "leaky",
        "decode": "darknet",
        "pool_padding": "lowest",
        "norm_eps": EPSILON,
    }
    model = checked_model(build(ModelConfig, values, where), where)
    classes = yolos[0].number("classes", 20)
    if not 1 <= classes <= MOST_CLASSES:
        raise UserError(f"line {yolos[0].line}: [yolo] classes={classes}: expected 1 to {MOST_CLASSES}")
    _refuse_forks(sections[0])
    size = _size_of(sections[0], max(model.strides))
    for number, (found, expected) in enumerate(zip(sections[1:], cfg_sections(model, classes, size)[1:], strict=False)):
        _compare(found, expected, number)
    if len(sections) != len(cfg_sections(model, classes, size)):
        raise UserError(f"{len(sections) - 1} layers: expected {len(cfg_sections(model, classes, size)) - 1}")
    run = RunConfig(data="", cfg=_cfg_name(model), imgsz=size)
    return Config(run, model, Hyperparameters(), tuple(f"class{number}" for number in range(classes)))


def _size_of(net: Section, stride: int) -> tuple[int, int]:
    """Return height and width of the input; UserError for one that the network cannot have."""
    height, width = (net.number(key, UNSAID_SIDE) for key in ("height", "width"))
    for key, side in (("height", height), ("width", width)):
        if side % stride or not stride <= side <= LARGEST_INPUT:
            expected = f"a multiple of {stride} up to {LARGEST_INPUT}"
            raise UserError(f"line {net.line}: [net] {key}={side}: expected {expected}")
    return height, width


def _masked_anchors(yolo: Section) -> list[list[float]]:
    """Return the anchors that a [yolo] layer's mask chooses."""
    numbers = yolo.numbers("anchors")
    pairs = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=False)]
    mask = [int(number) for number in yolo.numbers("mask")] or list(range(len(pairs)))
    if not all(0 <= place < len(pairs) for place in mask):
        raise UserError(f"line {yolo.line}: [yolo] mask names anchors that are not there")
    return [pairs[place] for place in mask]


COMPARED = {
    "convolutional": {"filters": 1, "size": 1, "stride": 1, "pad": 0, "batch_normalize": 0, "groups": 1},
    "maxpool": {"size": 1, "stride": 1},
    "upsample": {"stride": 2},
    "yolo": {"classes": 20},
}
# Keys that forks of Darknet know, with the values at which they change nothing; `dilation=2` and the like are refused.
UNCHANGED: dict[str, dict[str, tuple[str, ...]]] = {
    "convolutional": {
        **dict.fromkeys(("dilation", "groups"), ("1",)),
        **dict.fromkeys(("antialiasing", "assisted_excitation", "binary", "deform", "flipped", "reverse"), ("0",)),
        **dict.fromkeys(("rotate", "share_index", "stretch", "stretch_sway", "sway", "tanh", "xnor"), ("0",)),
    },
    "maxpool": dict.fromkeys(("antialiasing", "avgpool", "maxpool_depth", "out_channels"), ("0",)),
    "shortcut": {"activation": ("linear",), **dict.fromkeys(("weights_type", "weights_normalization"), ("none",))},
    "upsample": {"scale": ("1", "1.0")},
    "route": {"groups": ("1",), "group_id": ("0",)},
}
# Keys that are compared with the topology, or that change the training alone.
READ = {
    "convolutional": {"filters", "size", "stride", "pad", "batch_normalize", "activation", "stopbackward"},
    "maxpool": {"size", "stride"},
    "shortcut": {"from"},
    "upsample": {"stride"},
    "route": {"layers"},
}


def _compare(found: Section, expected: Section, number: int) -> None:
    """Raise UserError where a layer, counted from 0, is not the one of the topology."""
    place = f"line {found.line}: [{printable(found.kind, 40)}]"
    if found.kind != expected.kind:
        raise UserError(f"{place}: yolov3 has [{expected.kind}] here")
    _refuse_forks(found)
    for key, default in COMPARED.get(found.kind, {}).items():
        if found.number(key, default) != expected.number(key, default):
            raise UserError(f"{place} {key}={found.number(key, default)}: yolov3 has {expected.number(key, default)}")
    for key in ("layers", "from"):
        if _relative(found, key, number) != _relative(expected, key, number):
            raise UserError(f"{place} {key}={printable(found.keys.get(key), 40)}: yolov3 has {expected.keys.get(key)}")
    if found.kind == "convolutional" and found.keys.get("activation") != expected.keys["activation"]:
        activation = printable(found.keys.get("activation"), 40)
        raise UserError(f"{place} activation={activation}: yolov3 has {expected.keys['activation']}")


def _refuse_forks(section: Section) -> None:
    """Raise UserError at a key with which Darknet computes something else than YOLOv3, or that nobody here knows."""
    if section.kind in ("net", "network") and section.number("channels", 3) != 3:
        raise UserError(f"line {section.line}: [net] channels={section.keys['channels']}: photos have 3")
    read, unchanged = READ.get(section.kind), UNCHANGED.get(section.kind, {})
    for key, value in section.keys.items() if read is not None else ():
        expected = unchanged.get(key, ())
        if key in ("stride_x", "stride_y"):
            expected = (section.keys.get("stride", "1"),)
        elif key == "padding":
            size = section.number("size", 1)
            # Where a convolution has pad=1 its padding is half its size, whatever this says.
            own = size - 1 if section.kind == "maxpool" else size // 2
            expected = (value,) if section.number("pad", 0) else (str(own),)
        if key not in (read or ()) and value not in expected:
            like = f"yolov3 has {expected[0]}" if expected else "yolov3 has no such key"
            raise UserError(
                f"line {section.line}: [{section.kind}] {printable(key, 40)}={printable(value, 40)}: another network "
                f"than is computed here: {like}"
            )


def _relative(section: Section, key: str, number: int) -> list[int]:
    """Read layers relative to this one (`number`): Darknet counts those that are not negative from the first."""
    return [int(layer) if layer < 0 else int(layer) - number for layer in section.numbers(key)]


def _conv(filters: int, size: int, stride: int = 1, norm: bool = True) -> Section:
    keys = {"batch_normalize": "1"} if norm else {}
    keys |= {"filters": str(filters), "size": str(size), "stride": str(stride), "pad": "1"}
    return Section("convolutional", {**keys, "activation": "leaky" if norm else "linear"})


def _pool(size: int, stride: int) -> Section:
    return Section("maxpool", {"size": str(size), "stride": str(stride)})


def _route(*layers: int) -> Section:
    return Section("route", {"layers": ",".join(map(str, layers))})


def cfg_sections(model: ModelConfig, num_classes: int, image_size: tuple[int, int]) -> list[Section]:
    """Return the .cfg of a model, as Darknet's own files have it."""
    height, width = image_size
    net = {"batch": "1", "subdivisions": "1", "width": str(width), "height": str(height), "channels": "3"}
    body = _tiny_sections if model.backbone == "darknet_tiny" else _full_sections
    return [Section("net", net), *body(model, num_classes)]


def _yolo_sections(model: ModelConfig, num_classes: int) -> list[list[Section]]:
    """Return per level, finest first, the last convolution and its [yolo] layer."""
    pairs = sorted({tuple(pair) for level in model.anchors for pair in level}, key=lambda pair: pair[0] * pair[1])
    anchors = ", ".join(f"{w:g},{h:g}" for w, h in pairs)
    levels = []
    for level in model.anchors:
        mask = ",".join(str(pairs.index(tuple(pair))) for pair in level)
        keys = {"mask": mask, "anchors": anchors, "classes": str(num_classes), "num": str(len(pairs))}
        levels.append([_conv(len(level) * (5 + num_classes), 1, norm=False), Section("yolo", keys)])
    return levels


def _tiny_sections(model: ModelConfig, num_classes: int) -> list[Section]:
    *_, c4, _, c5 = model.channels
    fine, coarse = _yolo_sections(model, num_classes)
    layers = []
    for number, filters in enumerate(model.channels):
        layers.append(_conv(filters, 3))
        if number < 6:
            layers.append(_pool(2, 2 if number < 5 else 1))
    layers += [_conv(c5 // 4, 1), _conv(c5 // 2, 3), *coarse]
    layers += [_route(-4), _conv(c5 // 8, 1), Section("upsample", {"stride": "2"}), _route(-1, 8)]
    return [*layers, _conv(c5 // 4, 3), *fine]


def _full_sections(model: ModelConfig, num_classes: int) -> list[Section]:
    stem, *stages = model.channels
    fine, middle, coarse = _yolo_sections(model, num_classes)
    layers, ends = [_conv(stem, 3)], []
    for filters, depth in zip(stages, (1, 2, 8, 8, 4), strict=True):
        layers.append(_conv(filters, 3, 2))
        for _ in range(depth):
            shortcut = Section("shortcut", {"from": "-3", "activation": "linear"})
            layers += [_conv(filters // 2, 1), _conv(filters, 3), shortcut]
        ends.append(len(layers) - 1)
    c3, c4, c5 = stages[-3:]
    half = c5 // 2
    layers += [_conv(half, 1), _conv(c5, 3), _conv(half, 1)]
    if model.spp:
        layers += [_pool(5, 1), _route(-2), _pool(9, 1), _route(-4), _pool(13, 1), _route(-1, -3, -5, -6)]
        layers += [_conv(half, 1)]
    layers += [_conv(c5, 3), _conv(half, 1), _conv(c5, 3), *coarse]
    for coarser, filters, end, last in ((c5, c4, ends[3], middle), (c4, c3, ends[2], fine)):
        layers += [_route(-4), _conv(coarser // 4, 1), Section("upsample", {"stride": "2"}), _route(-1, end)]
        for _ in range(3):
            layers += [_conv(filters // 2, 1), _conv(filters, 3)]
        layers += last
    return layers


Layer = ConvBlock | nn.Conv2d


def _layers(network: Network, cutoff: int | None) -> list[Layer]:
    """Return the convolutions in Darknet's order, each level's last one after its neck.

    With `cutoff` those before it.
    """
    necks = {"out5": -1, "out4": -2, "out3": -3}
    layers: list[Layer] = []
    for name, module in network.named_modules():
        if isinstance(module, ConvBlock):
            layers.append(module)
            level = necks.get(name.removeprefix("neck."))
            head = network.head.convs[level] if level is not None else None
            if isinstance(head, nn.Conv2d):
                layers.append(head)
    return layers if cutoff is None else layers[: _convolutions_before(network, cutoff)]


def _convolutions_before(network: Network, cutoff: int) -> int:
    """Return the number of convolutions among the first `cutoff` layers of the .cfg."""
    tiny = hasattr(network.backbone, "conv0")
    model = cast(ModelConfig, model_config("yolov3-tiny" if tiny else "yolov3", {}))
    return sum(section.kind == "convolutional" for section in cfg_sections(model, 1, (416, 416))[1 : cutoff + 1])


def _tensors(layer: Layer) -> Iterator[tuple[str, Tensor]]:
    """Yield a convolution's tensors in Darknet's order."""
    if isinstance(layer, ConvBlock):
        for name in ("bias", "weight", "running_mean", "running_var"):
            yield name, getattr(layer.norm, name)
        yield "conv", layer.conv.weight
    else:
        for name, tensor in (("bias", layer.bias), ("conv", layer.weight)):
            assert tensor is not None
            yield name, tensor


def _fill(network: Network, values: np.ndarray, config: Config, cutoff: int | None, path: Path) -> set[str]:
    """Copy the floats of .weights into the network; returns the names of the tensors that it got."""
    layers = _layers(network, cutoff)
    wanted = sum(tensor.numel() for layer in layers for _, tensor in _tensors(layer))
    if wanted != len(values):
        names = f"{_cfg_name(config.yolov3)}, {len(config.names)} classes"
        which = "" if cutoff is None else f", first {cutoff} layers"
        raise UserError(f"{printable(path)}: holds {len(values)} floats: {names}{which}: expected {wanted}")
    position, filled = 0, set()
    with torch.no_grad():
        for layer in layers:
            for _, tensor in _tensors(layer):
                part = values[position : position + tensor.numel()]
                tensor.copy_(torch.from_numpy(part.copy()).view(tensor.shape))
                position += tensor.numel()
                filled.add(tensor.data_ptr())
    for merge in _merges(network):
        merge.conv.weight.data = _reversed_groups(merge.conv.weight.data)
        filled.add(merge.conv.weight.data_ptr())
    state = network.state_dict()
    return {name for name, tensor in state.items() if tensor.data_ptr() in filled or "num_batches" in name}


def _merges(network: Network) -> list[ConvBlock]:
    """Return the blocks whose inputs Darknet joins in another order."""
    return [module.merge for module in network.modules() if isinstance(module, SpatialPyramidPooling)]


def _reversed_groups(weight: Tensor) -> Tensor:
    """Return the pooled inputs in the other order: Darknet's route joins 13, 9, 5 and the identity."""
    return torch.cat(weight.chunk(4, dim=1)[::-1], dim=1)


def _cfg_name(model: ModelConfig) -> str:
    return "yolov3-tiny" if model.backbone == "darknet_tiny" else "yolov3-spp" if model.spp else "yolov3"


def _named_config(cfg: str, num_classes: int) -> Config:
    """Return Darknet's own yolov3, -tiny or -spp."""
    changes = {"activation": "leaky", "decode": "darknet", "pool_padding": "lowest", "norm_eps": EPSILON}
    if cfg == "yolov3-tiny":
        changes["anchors"] = TINY_ANCHORS
    names = tuple(f"class{number}" for number in range(num_classes))
    return Config(RunConfig(data="", cfg=cfg, imgsz=(416,)), model_config(cfg, changes), Hyperparameters(), names)


def _config_by_length(path: Path, floats: int) -> Config:
    """Return Darknet's own model with as many classes as the number of floats means; UserError if there is none."""
    for cfg in ("yolov3-tiny", "yolov3", "yolov3-spp"):
        one, two = (_floats(_named_config(cfg, classes)) for classes in (1, 2))
        classes, rest = divmod(floats - one, two - one)
        if not rest and 0 <= classes < MOST_CLASSES:
            return _named_config(cfg, classes + 1)
    raise UserError(
        f"{printable(path)}: {floats} floats are no whole yolov3, -tiny or -spp of Darknet's own widths: put its .cfg "
        "beside it, or name --cutoff for a truncated backbone"
    )


def _floats(config: Config) -> int:
    with torch.device("meta"):
        layers: Sequence[Layer] = _layers(build_network(config.yolov3, len(config.names)), None)
    return sum(math.prod(tensor.shape) for layer in layers for _, tensor in _tensors(layer))


def _cutoff_in_name(path: Path) -> int | None:
    """Return 74 for darknet53.conv.74."""
    match = re.search(r"\.conv\.(\d+)$", path.name)
    return int(match[1]) if match else None
