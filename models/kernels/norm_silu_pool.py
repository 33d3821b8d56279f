"""Normalisation, SiLU and max-pooling that take less memory for the gradient on a CPU, with torch's results to the bit.

Of a convolution, its normalisation, SiLU and pool, torch keeps the outputs of the first three; here it is the first.
The others are made again when the gradient arrives. (In-Place Activated BatchNorm, Bulo et al. 2018, does likewise by
inverting its activation; SiLU has no inverse.) Where a pool follows, the two outputs before it exist for a few images
at a time only, so that they leave no holes behind among what is kept.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from alignyolo.derivatives import first_derivatives_only

# Bytes of the images that are normalised and pooled together.
PART = 1 << 23


def norm_silu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Return silu(norm(x)) in training, normalised by the batch (B, C, H, W).

    Keeps x, and neither of its two results.
    """
    _count_batch(norm)
    return _NormSiLU.apply(x, norm.weight, norm.bias, norm)


def norm_silu_pool(x: Tensor, norm: nn.BatchNorm2d, pool: nn.MaxPool2d) -> Tensor:
    """Return pool(silu(norm(x))) in training: (B, C, H, W) -> (B, C, H', W'); keeps x and where the maxima were.

    To the bit where an image fills the CPU's vectors, as with 16 channels; what is left over torch rounds otherwise.
    """
    _count_batch(norm)
    window = [[length, length] for length in (pool.kernel_size, pool.stride, pool.padding)]
    return _NormSiLUPool.apply(x, norm.weight, norm.bias, norm, window)


def _count_batch(norm: nn.BatchNorm2d) -> None:
    """Count the batch as torch's own normalisation does."""
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def saves_memory(x: Tensor, norm: nn.Module | None = None) -> bool:
    """Tell whether x (B, C, H, W) wants a gradient on a CPU, and norm, if any, uses the batch's statistics.

    Elsewhere torch's own: cuDNN has kernels for it, a compiler fuses, a norm over several processes is another class.
    """
    if x.device.type != "cpu" or not (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False
    # One value a channel has no deviation: torch says so in words, its bare operation computes NaN.
    return norm is None or (type(norm) is nn.BatchNorm2d and norm.training and x.numel() > x.shape[1])


class LowMemoryMaxPool2d(nn.MaxPool2d):
    """Pool as torch does, but keep for the gradient where the maxima were instead of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) -> (B, C, H', W')."""
        if not saves_memory(x):
            return super().forward(x)
        return _MaxPool.apply(x, self.kernel_size, self.stride, self.padding)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        statistics = norm.running_mean, norm.running_var
        y, mean, inverse_std = torch.native_batch_norm(
            x, weight, bias, *statistics, True, norm.momentum or 0.0, norm.eps
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = norm.eps
        return functional.silu(y, inplace=True)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        y = _normalised(x, weight, bias, mean, inverse_std)
        if gradient.stride() == y.stride():
            torch.ops.aten.silu_backward.grad_input(gradient, y, grad_input=y)
        else:
            # Its layout decides in which order the normalisation adds up: torch's choice, as without this function.
            y = torch.ops.aten.silu_backward(gradient, y)
        return *_norm_backward(ctx, y, x, weight, mean, inverse_std), None


class _NormSiLUPool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, window: list[list[int]]
    ) -> Tensor:
        statistics = norm.running_mean, norm.running_var
        mean, variance = torch.ops.aten.batch_norm_update_stats(x, *statistics, norm.momentum)
        inverse_std = (1 / (variance.double() + norm.eps).sqrt()).to(variance.dtype)
        shapes = torch.ops.aten.max_pool2d_with_indices(torch.empty_like(x, device="meta"), *window)
        pooled, places = (torch.empty_like(shape, device=x.device) for shape in shapes)
        for part in _parts(x):
            y = functional.silu(_normalised(x[part], weight, bias, mean, inverse_std), inplace=True)
            torch.ops.aten.max_pool2d_with_indices.out(y, *window, out=pooled[part], indices=places[part])
        ctx.save_for_backward(x, weight, bias, mean, inverse_std, places)
        ctx.eps, ctx.window = norm.eps, window
        return pooled

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std, places = ctx.saved_tensors
        inner = torch.empty_like(x)
        for part in _parts(x):
            y = _normalised(x[part], weight, bias, mean, inverse_std)
            spread = _pool_backward(gradient[part], y, ctx.window, places[part])
            torch.ops.aten.silu_backward.grad_input(spread, y, grad_input=inner[part])
        return *_norm_backward(ctx, inner, x, weight, mean, inverse_std), None, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        window = [[kernel, kernel], [stride, stride], [padding, padding]]
        y, places = torch.ops.aten.max_pool2d_with_indices(x, *window)
        ctx.save_for_backward(places)
        ctx.window, ctx.shape, ctx.strides = window, x.shape, x.stride()
        return y

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        # Of the input only the layout is read.
        like = gradient.new_empty_strided(ctx.shape, ctx.strides)
        return _pool_backward(gradient, like, ctx.window, places), None, None, None


def _parts(x: Tensor) -> Iterator[slice]:
    """Yield slices of neighbouring images of x (B, C, H, W), as many as make up PART bytes."""
    images = max(1, PART // (x[0].numel() * x.element_size()))
    return (slice(first, first + images) for first in range(0, len(x), images))


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse_std: Tensor) -> Tensor:
    """Return x normalised by these statistics.

    The deviation goes into the weight, as in training, for the same bits.
    """
    ones = torch.ones_like(mean)
    return functional.batch_norm(x, mean, ones, weight * inverse_std, bias, training=False, eps=0.0)


def _norm_backward(
    ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse_std: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of x, weight and bias."""
    statistics = None, None, mean, inverse_std
    wanted = list(ctx.needs_input_grad[:3])
    return torch.ops.aten.native_batch_norm_backward(gradient, x, weight, *statistics, True, ctx.eps, wanted)


def _pool_backward(gradient: Tensor, x: Tensor, window: list[list[int]], places: Tensor) -> Tensor:
    """Return the gradient of the input x of a max-pool, of which only shape and layout are read."""
    return torch.ops.aten.max_pool2d_with_indices_backward(gradient, x, *window, [1, 1], False, places)
