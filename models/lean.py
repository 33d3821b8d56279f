"""Normalisation, SiLU and max-pooling that keep less for the gradient on a CPU, and compute torch's results to the bit.

Of a convolution, its normalisation, SiLU and pool, torch keeps the outputs of the first three; here it is the first.
The others are made again when the gradient arrives. (In-Place Activated BatchNorm, Bulo et al. 2018, does likewise by
inverting its activation; SiLU has no inverse.)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def norm_silu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """silu(norm(x)) in training, normalised by the batch (B, C, H, W): keeps x, and neither of its two results."""
    norm.num_batches_tracked.add_(1)
    statistics = norm.running_mean, norm.running_var
    return _NormSiLU.apply(x, norm.weight, norm.bias, *statistics, norm.momentum, norm.eps)


def saves_memory(x: Tensor, norm: nn.Module | None = None) -> bool:
    """Whether x (B, C, H, W) wants a gradient on a CPU, and norm, if there is one, goes by the statistics of the batch.

    Elsewhere torch's own: cuDNN has kernels for it, a compiler fuses, a norm over several processes is another class.
    """
    if x.device.type != "cpu" or not (x.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False
    # One value a channel has no deviation: torch says so in words, its bare operation computes NaN.
    return norm is None or (type(norm) is nn.BatchNorm2d and norm.training and x.numel() > x.shape[1])


class MaxPool2d(nn.MaxPool2d):
    """torch's, but for the gradient it keeps where the maxima were, and not its input."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        if not saves_memory(x):
            return super().forward(x)
        return _MaxPool.apply(x, self.kernel_size, self.stride, self.padding)


class _NormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = eps
        return functional.silu(y, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        # The deviation goes into the weight, as in the forward pass, so that y is the same to the bit.
        ones = torch.ones_like(mean)
        y = functional.batch_norm(x, mean, ones, weight * inverse_std, bias, training=False, eps=0.0)
        if gradient.stride() == y.stride():
            torch.ops.aten.silu_backward.grad_input(gradient, y, grad_input=y)
        else:
            # Its layout decides in which order the normalisation adds up: torch's choice, as without this function.
            y = torch.ops.aten.silu_backward(gradient, y)
        wanted = list(ctx.needs_input_grad[:3])
        gradients = torch.ops.aten.native_batch_norm_backward(
            y, x, weight, None, None, mean, inverse_std, True, ctx.eps, wanted
        )
        return *gradients, None, None, None, None


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        settings = [kernel, kernel], [stride, stride], [padding, padding]
        y, places = torch.ops.aten.max_pool2d_with_indices(x, *settings)
        ctx.save_for_backward(places)
        ctx.settings, ctx.shape, ctx.strides = settings, x.shape, x.stride()
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (places,) = ctx.saved_tensors
        # Of the input only the layout is read.
        like = gradient.new_empty_strided(ctx.shape, ctx.strides)
        made = torch.ops.aten.max_pool2d_with_indices_backward(gradient, like, *ctx.settings, [1, 1], False, places)
        return made, None, None, None
