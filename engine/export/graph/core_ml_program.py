"""Core ML's operations in PyTorch: Apple's own runtime is on Apple's machines alone, and a file is checked on any.

Only what this project's networks are converted to. Source of the definitions: coremltools' reference of MIL operations.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Given = Mapping[str, Any]  # an operation's inputs by name
FUNCTION, WEIGHTS = "main", "Data/com.apple.CoreML/weights"


def open_program(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """Open a .mlpackage as a function of images (B, 3, H, W).

    Raises whatever coremltools does for a file that is none; NotImplementedError for an operation that is not here.
    """
    from coremltools.converters.mil.frontend.milproto import load
    from coremltools.models import MLModel

    specification = MLModel(str(path), skip_model_load=True).get_spec()
    weights = str(path / WEIGHTS)
    program = load.load(specification, specification.specificationVersion, weights)
    function = program.functions[FUNCTION]
    if missing := {each.op_type for each in function.operations if each.op_type not in {*OPERATIONS, "const"}}:
        raise NotImplementedError(f"operations {', '.join(sorted(missing))}")
    constants = {name: _value(each.val) for op in function.operations for name, each in _constants(op)}
    operations = [each for each in function.operations if each.op_type != "const"]
    (image,) = function.inputs

    def compute(images: Tensor) -> list[Tensor]:
        values = {**constants, image: images}
        for each in operations:
            given = {name: _given(part, values) for name, part in each.inputs.items()}
            made = OPERATIONS[each.op_type](given)
            parts = made if isinstance(made, tuple) else (made,)
            values.update(zip((output.name for output in each.outputs), parts, strict=True))
        return [values[output.name] for output in function.outputs]

    return compute


def _constants(operation: Any) -> list[tuple[str, Any]]:
    return [(output.name, output) for output in operation.outputs if operation.op_type == "const"]


def _given(part: Any, values: Mapping[str, Any]) -> Any:
    """Return the value of a variable, or of a list of them."""
    if isinstance(part, list | tuple):
        return [values[each.name] for each in part]
    return None if part is None else values[part.name]


def _value(constant: Any) -> Any:
    """Return a constant as a tensor where it is an array of floats, and otherwise as Python has it."""
    if isinstance(constant, np.ndarray) and constant.dtype.kind == "f" and constant.ndim:
        return torch.from_numpy(constant.copy())
    return constant.tolist() if isinstance(constant, np.ndarray | np.generic) else constant


def _padded(given: Given, window: Sequence[int], fill: float) -> Tensor:
    """Pad a map for a window of that size as `pad_type` says: valid, custom, or same, whose odd pixel is the last."""
    x, kind = given["x"], given["pad_type"]
    if kind == "valid":
        return x
    if kind == "custom":
        pairs = _pairs(given["pad"])
    else:
        steps = zip(x.shape[2:], window, given["strides"], strict=True)
        whole = [max((-(-size // step) - 1) * step + side - size, 0) for size, side, step in steps]
        pairs = [(each // 2, each - each // 2) for each in whole]
    return functional.pad(x, [side for pair in reversed(pairs) for side in pair], value=fill)


def _pairs(sides: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sides[::2], sides[1::2], strict=True))


def _conv(given: Given) -> Tensor:
    weight, dilations = given["weight"], given["dilations"]
    window = [(side - 1) * step + 1 for side, step in zip(weight.shape[2:], dilations, strict=True)]
    x = _padded(given, window, 0.0)
    return functional.conv2d(x, weight, given.get("bias"), given["strides"], 0, dilations, given["groups"])


def _max_pool(given: Given) -> Tensor:
    x = _padded(given, given["kernel_sizes"], -torch.inf)
    return functional.max_pool2d(x, given["kernel_sizes"], given["strides"], ceil_mode=given["ceil_mode"])


def _pad(given: Given) -> Tensor:
    """Pad the last dimensions, in the order that they have."""
    if given["mode"] != "constant":
        raise NotImplementedError(f"padding of mode {given['mode']}")
    sides = [side for pair in reversed(_pairs(given["pad"])) for side in pair]
    return functional.pad(given["x"], sides, value=given["constant_val"])


def _slice(given: Given) -> Tensor:
    x = given["x"]
    none = [False] * x.ndim
    begins, ends = given.get("begin_mask") or none, given.get("end_mask") or none
    squeezed, steps = given.get("squeeze_mask") or none, given.get("stride") or [1] * x.ndim
    places: list[Any] = []
    for axis in range(x.ndim):
        begin, end = given["begin"][axis], given["end"][axis]
        if squeezed[axis]:
            places.append(begin)
        else:
            places.append(slice(None if begins[axis] else begin, None if ends[axis] else end, steps[axis]))
    return x[tuple(places)]


def _split(given: Given) -> tuple[Tensor, ...]:
    x, axis = given["x"], given["axis"]
    sizes = given.get("split_sizes") or x.shape[axis] // given["num_splits"]
    return x.split(sizes, axis)


def _nearest(given: Given) -> Tensor:
    factors = (float(given["scale_factor_height"]), float(given["scale_factor_width"]))
    return functional.interpolate(given["x"], scale_factor=factors, mode="nearest")


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Given], Tensor]:
    return lambda given: function(torch.as_tensor(given["x"]), torch.as_tensor(given["y"]))


def _of_one(function: Callable[[Tensor], Tensor]) -> Callable[[Given], Tensor]:
    return lambda given: function(given["x"])


OPERATIONS: dict[str, Callable[[Given], Any]] = {
    "add": _of_two(torch.add),
    "concat": lambda given: torch.cat(given["values"], given["axis"]),
    "conv": _conv,
    "exp": _of_one(torch.exp),
    "leaky_relu": lambda given: functional.leaky_relu(given["x"], given["alpha"]),
    "max_pool": _max_pool,
    "maximum": _of_two(torch.maximum),
    "mul": _of_two(torch.mul),
    "pad": _pad,
    "real_div": _of_two(torch.div),
    "relu": _of_one(torch.relu),
    "reshape": lambda given: given["x"].reshape(given["shape"]),
    "sigmoid": _of_one(torch.sigmoid),
    "silu": _of_one(functional.silu),
    "slice_by_index": _slice,
    "split": _split,
    "sub": _of_two(torch.sub),
    "transpose": lambda given: given["x"].permute(given["perm"]),
    "upsample_nearest_neighbor": _nearest,
}
