"""winograd.py's convolutions with compiled sums and differences: in bf16 too, and with fewer channels.

In bf16 tiles and their products are rounded to bf16, after sums in float32 (in training of float32 weights): outputs
and gradients are 2 to 3 times as far from exact ones as a convolution in bf16 is, about half a per cent. Left to torch
is evaluation of few images (detect.py), which would wait for the kernels to be loaded. On CPUs with AMX, which multiply
whole matrices, only many channels gain in bf16: there multiplications cost less than reading memory.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from alignyolo.derivatives import first_derivatives_only
from models.kernels import compiled
from models.kernels.kept_memory import scratch
from models.kernels.work_order import WorkOrder
from utils.device import cpu_capabilities, mkl_is_slow

# Numbers that a thread takes at a time, and those of a vector.
PART, LANES = 1 << 14, 16
# Below so many channels (inputs and outputs as resistors in parallel) or tiles the sums cost more than what is saved.
LEAST_CHANNELS = {torch.bfloat16: 40, torch.float32: 64}
LEAST_WITH_AMX, LEAST_TO_EVALUATE_WITH_AMX = 150, 300  # in bf16
LEAST_TILES = 100


def pays(conv: nn.Conv2d, x: Tensor) -> bool:
    """Tell whether a plain 3 x 3 convolution of x (B, C, H, W) on a CPU gains by it, in training or for many images."""
    autocast, weight = torch.is_autocast_enabled("cpu"), conv.weight.dtype
    if conv.compiled_evaluation:
        fits = weight is x.dtype and not autocast
    else:
        fits = torch.is_grad_enabled() and weight is torch.float32 and autocast == (x.dtype is torch.bfloat16)
    if not fits or not wide_enough(conv, x.dtype) or x.numel() < 4 * LEAST_TILES * x.shape[1]:
        return False
    fast = x.dtype is torch.float32 or bf16_pays()
    return fast and x.is_contiguous(memory_format=torch.channels_last) and compiled.available()


def wide_enough(conv: nn.Conv2d, dtype: torch.dtype) -> bool:
    """Tell whether a 3 x 3 convolution has the channels for it on this CPU."""
    channels, outputs = conv.in_channels, conv.out_channels
    least: float = LEAST_CHANNELS.get(dtype, math.inf)
    if dtype is torch.bfloat16 and cpu_capabilities().get("amx_bf16"):
        least = LEAST_TO_EVALUATE_WITH_AMX if conv.compiled_evaluation else LEAST_WITH_AMX
    return min(channels, outputs) >= LANES and channels * outputs >= least * (channels + outputs)


def bf16_pays() -> bool:
    """Tell whether bf16 can gain by it on this CPU: where it multiplies bf16."""
    return bool(cpu_capabilities().get("avx512_bf16"))


def convolved(x: Tensor, weight: Tensor) -> Tensor:
    """Compute conv2d(x, weight, padding=1), channels-last: (B, C, H, W) and (K, C, 3, 3) -> (B, K, H, W)."""
    return _Winograd.apply(x, weight)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        tiles, weights = _to_tiles("tile_loops.input_tiles", x, "input"), _weight_tiles(weight, x.dtype)
        products = _product(tiles, weights.transpose(1, 2), "output")
        return _to_images("tile_loops.output_of_tiles", products, x.shape)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        of_x = of_weight = None
        tiles = _to_tiles("tile_loops.output_tiles_gradient", gradient, "output")
        if wants_weight:
            of_tiles = _product(tiles.transpose(1, 2), _to_tiles("tile_loops.input_tiles", x, "input"), "weight")
            of_weight = _weight_gradient(of_tiles, weight)
        if wants_x:
            of_tiles = _product(tiles, _weight_tiles(weight, x.dtype), "input")
            of_x = _to_images("tile_loops.input_gradient", of_tiles, x.shape)
        return of_x, of_weight


def _product(one: Tensor, other: Tensor, where: str) -> Tensor:
    """Multiply the matrices of two batches of them, whose rows or columns lie one after the other."""
    out = scratch(where, (len(one), one.shape[1], other.shape[2]), one.dtype)
    if one.dtype is not torch.float32 or not mkl_is_slow() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return torch.bmm(one, other, out=out)
    for product, rows, columns in zip(out, one, other, strict=True):
        product.copy_(torch.ops.mkldnn._linear_pointwise(rows, columns.t(), None, "none", [], ""))
    return out


def _to_tiles(kernel: str, images: Tensor, where: str) -> Tensor:
    """Turn (B, C, H, W) into (16, tiles, C)."""
    images = images.contiguous(memory_format=torch.channels_last)
    batch, channels, height, width = images.shape
    rows, columns = batch * ((height + 1) // 2), (width + 1) // 2
    tiles = scratch(where, (16, rows * columns, channels), images.dtype)
    _through(kernel, images, tiles, images.shape)
    return tiles


def _to_images(kernel: str, tiles: Tensor, shape: torch.Size) -> Tensor:
    """Turn (16, tiles, C) into (B, C, H, W), of which `shape` has all but C."""
    batch, _, height, width = shape
    images = tiles.new_empty(batch, height, width, tiles.shape[2]).permute(0, 3, 1, 2)
    _through(kernel, tiles, images, images.shape)
    return images


def _through(kernel: str, x: Tensor, out: Tensor, shape: torch.Size) -> None:
    """Run a kernel that goes through all tiles of images of a shape (B, C, H, W)."""
    batch, channels, height, width = shape
    rows, columns = batch * ((height + 1) // 2), (width + 1) // 2
    order = _Order(x.dtype, rows, columns * channels * 4, channels)
    order.set(X=x, OUT=out, HEIGHT=height, WIDTH=width)
    compiled.run_together(kernel, x.dtype, order)


class _Order(WorkOrder):
    """A work order of tile_loops.py: so many rows with so many numbers in each."""

    def __init__(self, dtype: torch.dtype, rows: int, numbers: int, channels: int):
        super().__init__()
        part_rows = max(1, PART // numbers)
        self.set(PARTS=-(-rows // part_rows), PART_ROWS=part_rows, ROWS=rows, CHANNELS=channels)


def _weight_tiles(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn (K, C, 3, 3) into (16, K, C)."""
    outputs, channels = weight.shape[:2]
    tiles = scratch("weight", (16, outputs, channels), dtype)
    order = _Order(dtype, outputs, 16 * channels, channels)
    given = weight.detach().to(compiled.COMPUTED[dtype], memory_format=torch.channels_last)
    order.set(WEIGHT=given, OUT=tiles)
    compiled.run_together("tile_loops.weight_tiles", dtype, order)
    return tiles


def _weight_gradient(tiles: Tensor, weight: Tensor) -> Tensor:
    """Turn (16, K, C) into (K, C, 3, 3), channels-last, as the weights are."""
    outputs, channels = tiles.shape[1:]
    gradient = torch.empty_like(weight, memory_format=torch.channels_last)
    order = _Order(tiles.dtype, outputs, 16 * channels, channels)
    order.set(X=tiles, WEIGHT=gradient)
    compiled.run_together("tile_loops.weight_gradient", tiles.dtype, order)
    return gradient
