"""3x3 convolutions in float32 on a CPU with 16 multiplications where nine per pixel make 36.

Winograd's minimal filtering F(2x2, 3x3) as Lavin and Gray have it for networks (arXiv:1509.09308): of tiles of 4 x 4
pixels that overlap by two, sums and differences; of the 3 x 3 weights too; multiplied at each of the 16 places over all
channels as matrices; of the 16 products again sums and differences, the 2 x 2 pixels. The gradients are the same steps
backwards. Rounding: outputs and their inputs' gradients are nearer to float64 than torch's own, for fewer products are
added up; weights' gradients are off by three parts in ten million, up to 2.6 times as much as torch's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignyolo.derivatives import first_derivatives_only
from models.kernels import compiled_winograd
from utils.device import mkl_is_slow

# Below so many pixels of a batch the sums of the weights cost more than what is saved, below so many channels (inputs
# and outputs as resistors in parallel) those of the pixels.
LEAST_PIXELS = 800
LEAST_CHANNELS = 128


class WinogradConv2d(nn.Conv2d):
    """Convolve as torch does, but by Winograd's algorithm in float32 on a CPU where channels and pixels are many."""

    # Whether compiled kernels serve a copy that only evaluates, of many images: they take a second to load.
    compiled_evaluation = False

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, inputs, H, W) -> (B, outputs, H', W')."""
        y, bias = self.without_bias(x)
        return y if bias is None else y + bias.view(-1, 1, 1)

    def without_bias(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return what forward does, and the bias where it is not added yet."""
        if _plain(self, x) and compiled_winograd.pays(self, x):
            return compiled_winograd.convolved(x, self.weight), self.bias
        if _pays(self, x):
            return winograd(x, self.weight), self.bias
        return super().forward(x), None


def winograd(x: Tensor, weight: Tensor) -> Tensor:
    """Return conv2d(x, weight, padding=1).

    (B, C, H, W) and (K, C, 3, 3) -> (B, K, H, W), with gradients, channels-last.
    """
    return _Winograd.apply(x, weight)


def _plain(conv: nn.Conv2d, x: Tensor) -> bool:
    """Tell whether it is a plain 3x3 convolution on a CPU.

    Elsewhere torch's own: a GPU's library chooses for itself, and what is traced or compiled shall be one operation.
    """
    plain = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    if plain != ((3, 3), (1, 1), (1, 1), (1, 1), 1) or x.device.type != "cpu":
        return False
    return not (torch.compiler.is_compiling() or torch.jit.is_tracing())


def _pays(conv: nn.Conv2d, x: Tensor) -> bool:
    """Tell whether it is a plain 3x3 convolution, large enough, in float32: oneDNN multiplies bf16 in hardware."""
    if not _plain(conv, x) or torch.is_autocast_enabled("cpu"):
        return False
    if x.dtype != torch.float32 or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    outputs, inputs = conv.weight.shape[:2]
    channels = inputs * outputs / (inputs + outputs)
    if channels < LEAST_CHANNELS or x.numel() // inputs < LEAST_PIXELS:
        return False
    return torch.backends.mkl.is_available() and not mkl_is_slow()


class _Winograd(torch.autograd.Function):
    """Arrays are (B, H, W, C) inside; of the tiles (16, B * H / 2 * W / 2, C), the column of the place first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        # What a pass backwards needs of the tiles is made again: kept, they were four times the input.
        ctx.save_for_backward(x, weight)
        products = torch.bmm(_input_tiles(x), _weight_tiles(weight).transpose(1, 2))
        return _output_of_tiles(products, x.shape)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad
        tiles = _output_tiles_gradient(gradient)
        of_x = _input_gradient(torch.bmm(tiles, _weight_tiles(weight)), x.shape) if wants_x else None
        of_weight = _weight_gradient(torch.bmm(tiles.transpose(1, 2), _input_tiles(x))) if wants_weight else None
        return of_x, of_weight


def _input_tiles(x: Tensor) -> Tensor:
    """Return (B, C, H, W) -> (16, tiles, C)."""
    height, width = x.shape[2:]
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + width % 2, 1, 1 + height % 2))
    return _spread(_spread(padded, 1), 3).view(16, -1, x.shape[1])


def _input_gradient(tiles: Tensor, shape: torch.Size) -> Tensor:
    """Return the gradient of _input_tiles: (16, tiles, C) -> (B, C, H, W) = shape."""
    rows = _spread_gradient(_at_places(tiles, shape), 3)
    return _cropped(_spread_gradient(rows, 1), shape)


def _output_of_tiles(products: Tensor, shape: torch.Size) -> Tensor:
    """Return (16, tiles, K) -> (B, K, H, W), where shape is (B, C, H, W)."""
    return _cropped(_gather(_gather(_at_places(products, shape), 3), 1), shape)


def _output_tiles_gradient(gradient: Tensor) -> Tensor:
    """Return the gradient of _output_of_tiles: (B, K, H, W) -> (16, tiles, K)."""
    height, width = gradient.shape[2:]
    y = gradient.permute(0, 2, 3, 1)
    if height % 2 or width % 2:
        y = functional.pad(y, (0, 0, 0, width % 2, 0, height % 2))
    return _gather_gradient(_gather_gradient(y, 1), 3).view(16, -1, gradient.shape[1])


def _weight_tiles(weight: Tensor) -> Tensor:
    """Return (K, C, 3, 3) -> (16, K, C)."""
    outputs, inputs = weight.shape[:2]
    values = weight.permute(0, 2, 3, 1).reshape(outputs, 9, inputs)
    return torch.bmm(_weight_matrix(weight).expand(outputs, 16, 9), values).transpose(0, 1)


def _weight_gradient(tiles: Tensor) -> Tensor:
    """Return the gradient of _weight_tiles: (16, K, C) -> (K, C, 3, 3), channels-last."""
    outputs, inputs = tiles.shape[1:]
    values = torch.bmm(_weight_matrix(tiles).t().expand(outputs, 9, 16), tiles.transpose(0, 1))
    return values.view(outputs, 3, 3, inputs).permute(0, 3, 1, 2)


def _weight_matrix(like: Tensor) -> Tensor:
    """Return what makes the values at 16 places, the column first, of 3 x 3 weights, the row first: (16, 9)."""
    side = like.new_tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    return torch.einsum("cs,rt->crts", side, side).reshape(16, 9)


def _at_places(tiles: Tensor, shape: torch.Size) -> Tensor:
    """Return (16, tiles, C) -> (4 columns, 4 rows, B, H / 2, W / 2, C)."""
    height, width = shape[2:]
    return tiles.view(4, 4, shape[0], (height + 1) // 2, (width + 1) // 2, tiles.shape[-1])


def _cropped(y: Tensor, shape: torch.Size) -> Tensor:
    """Return (B, H, W, C) to the height and width of shape (B, ..., H, W), as (B, C, H, W)."""
    return y[:, : shape[2], : shape[3]].contiguous().permute(0, 3, 1, 2)


def _spread(x: Tensor, axis: int) -> Tensor:
    """Return four neighbours along an axis, each group two further: (..., 2n + 2, ...) -> (4, ..., n, ...)."""
    even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
    count = even.shape[axis] - 1
    first, second = even.narrow(axis, 0, count), odd.narrow(axis, 0, count)
    third, fourth = even.narrow(axis, 1, count), odd.narrow(axis, 1, count)
    out = x.new_empty(4, *first.shape)
    torch.sub(first, third, out=out[0])
    torch.add(second, third, out=out[1])
    torch.sub(third, second, out=out[2])
    torch.sub(fourth, second, out=out[3])
    return out


def _spread_gradient(tiles: Tensor, axis: int) -> Tensor:
    """Return the gradient of _spread without its padding: (4, ..., n, ...) -> (..., 2n, ...)."""
    one, two, three, four = tiles
    out, even, odd = _pairs(one, axis)
    count = one.shape[axis] - 1
    torch.sub(two, three, out=even).sub_(four)
    even.narrow(axis, 1, count).add_(four.narrow(axis, 0, count))
    torch.add(two, three, out=odd).sub_(one)
    odd.narrow(axis, 0, count).add_(one.narrow(axis, 1, count))
    return out


def _gather(products: Tensor, axis: int) -> Tensor:
    """Return two values of four products: (4, ..., n, ...) -> (..., 2n, ...)."""
    one, two, three, four = products
    out, even, odd = _pairs(one, axis)
    torch.add(two, three, out=even).add_(one)
    torch.sub(two, three, out=odd).add_(four)
    return out


def _gather_gradient(y: Tensor, axis: int) -> Tensor:
    """Return the gradient of _gather: (..., 2n, ...) -> (4, ..., n, ...)."""
    even, odd = y.unflatten(axis, (-1, 2)).unbind(axis + 1)
    out = y.new_empty(4, *even.shape)
    out[0].copy_(even)
    torch.add(even, odd, out=out[1])
    torch.sub(even, odd, out=out[2])
    out[3].copy_(odd)
    return out


def _pairs(like: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return an array for two values in each place of like along the axis, and the even and odd places of it."""
    pairs = like.new_empty(*like.shape[: axis + 1], 2, *like.shape[axis + 1 :])
    even, odd = pairs.unbind(axis + 1)
    return pairs.flatten(axis, axis + 1), even, odd
