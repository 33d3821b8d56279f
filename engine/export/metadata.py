"""What an exported file may say about itself: checked before anything computes with it."""

from collections.abc import Mapping
from typing import Any

from utils.config.knobs import RunConfig, build
from utils.errors import UserError

# What val.py takes from the training run, of weights and of a file alike, where its flags do not say otherwise.
VAL_SETTINGS = ("conf", "nms_iou", "max_det", "bad_labels", "max_pixels")
LAYOUTS = ("decoded", "raw", "nms")
DECODINGS = ("bounded", "darknet")
LARGEST_SIDE = 2**16
LIMITS = {"conf": 1.0, "nms_iou": 1.0, "max_det": 2.0**31}  # the largest value of each


def require_ours(values: Mapping[str, Any], layout: Any, model: Any, limits: Any) -> None:
    """Raise ValueError, which says what is wrong, unless a file's metadata is such as export.py writes.

    `values` holds imgsz, batch, stride and args, `model` the model's config, `limits` those of a file with NMS.
    """
    size, stride = values["imgsz"], values["stride"]
    _require(_whole(stride), f"stride {stride!r}")
    _require(isinstance(size, list | tuple) and len(size) == 2 and all(map(_whole, size)), f"imgsz {size!r}")
    _require(all(side % stride == 0 for side in size), f"imgsz {size!r} for a stride of {stride}")
    _require(_whole(values["batch"]), f"batch {values['batch']!r}")
    _require(isinstance(values["args"], dict), f"args {values['args']!r}")
    _require(layout in LAYOUTS, f"layout {layout!r}")
    _require(isinstance(limits, dict), f"nms_limits {limits!r}")
    for name, value in limits.items():
        _require(name in LIMITS and _number(value, 0, LIMITS[name]), f"nms_limits {name!r}: {value!r}")
    _require(isinstance(model, dict), f"model {model!r}")
    if "detector" in model:  # one of torchvision's, whose boxes are decoded in the file
        _require(layout != "raw", f"layout {layout!r}")
        return
    _require(model["decode"] in DECODINGS, f"decode {model['decode']!r}")
    _require(_number(model["xy_reach"], 0, 2), f"xy_reach {model['xy_reach']!r}")
    if layout == "raw":
        require_levels(model["strides"], model["anchors"], stride)


def settings_of(values: Any, photo_bits: Any) -> dict[str, Any]:
    """Return what a file says of its training run, for a RunConfig; ValueError where that could not be said there.

    Files of older versions say nothing of it.
    """
    _require(isinstance(values, dict), f"val_settings {values!r}")
    for name in values:
        _require(name in VAL_SETTINGS, f"val_settings {name!r}")
    try:
        run = build(RunConfig, {**values, "photo_bits": photo_bits}, "val_settings")
    except UserError as error:
        raise ValueError(str(error)) from None
    return {name: getattr(run, name) for name in (*values, "photo_bits")}


def require_levels(strides: Any, anchors: Any, stride: int) -> None:
    """Raise ValueError unless there are anchors (w, h) for every one of the strides, which divide `stride`."""
    _require(isinstance(strides, list) and bool(strides) and all(map(_whole, strides)), f"strides {strides!r}")
    _require(all(stride % each == 0 for each in strides), f"strides {strides!r} for a stride of {stride}")
    _require(isinstance(anchors, list) and len(anchors) == len(strides), f"anchors {anchors!r}")
    for level in anchors:
        whole = isinstance(level, list) and bool(level)
        _require(whole and all(isinstance(each, list) and len(each) == 2 for each in level), f"anchors {level!r}")
        _require(all(_number(side, 0, LARGEST_SIDE) for each in level for side in each), f"anchors {level!r}")


def _require(right: bool, what: str) -> None:
    if not right:
        raise ValueError(what)


def _whole(value: Any) -> bool:
    """Say whether a value is a whole number from 1 to what an image side can be."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_SIDE


def _number(value: Any, low: float, high: float) -> bool:
    """Say whether a value is a number in a range."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
