"""Batch normalisation, activation and 2 x 2 pool on a CPU as a few passes over memory, in training and evaluation.

Torch reads and writes the whole output of a convolution a dozen times between it and the next one. Here it is read for
the statistics, once more to write what comes behind the pool, and backwards once to write its gradient; beside it are
kept, of every four pixels, the one that was chosen and its place. All is computed in float32 (float64 from float64),
so that of bf16 only the result is rounded. In evaluation the normalisation is part of the convolution, and one pass is
left. The loops are norm_loops.py's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from alignyolo.derivatives import first_derivatives_only
from models.kernels import compiled
from models.kernels.norm_silu_pool import saves_memory
from models.kernels.work_order import WorkOrder

# Numbers of a part of the work, which one thread does; the split is the same for any number of threads.
PART, SUMMED_PART = 1 << 15, 1 << 17
MOST_SUMMED_ROWS = 256
# Pixels of fewer channels are done together, up to this many numbers: the innermost loop is not to be short.
LEAST_CHANNELS, WIDE = 16, 64
# Numbers of each channel that the loops keep in a table: mean, scale, shift, and two for the gradient.
TABLE_ROWS = 5
# The first of these, up to the shift, are all that evaluation needs; and the numbers of one vector.
EVALUATED_ROWS, LANES = 3, 16


def fuses(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Tell whether the compiled loops can normalise and activate x (B, C, H, W), which wants a gradient on a CPU."""
    if not saves_memory(x, norm) or x.dtype not in compiled.COMPUTED or x.shape[1] < LEAST_CHANNELS or not x.numel():
        return False
    parts = [norm.weight, norm.bias, norm.running_mean, norm.running_var]
    return (
        x.is_contiguous(memory_format=torch.channels_last)
        and norm.momentum is not None
        and all(part is not None and part.dtype is compiled.COMPUTED[x.dtype] for part in parts)
        and compiled.available()
    )


def norm_act(
    x: Tensor, norm: nn.BatchNorm2d, slope: float | None, pool: bool = False, added: Tensor | None = None
) -> Tensor:
    """Normalise by the batch and activate; then pool 2 x 2 pixels, or add a tensor of the same shape, where asked.

    (B, C, H, W) -> (B, C, H, W), behind the pool (B, C, H // 2, W // 2). The activation is SiLU, or a leaky ReLU of a
    `slope` below zero. Only where `fuses` says so.
    """
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormAct.apply(x, norm.weight, norm.bias, added, norm, slope, pool)


def activates(x: Tensor) -> bool:
    """Tell whether the compiled loops can activate x (B, C, H, W), a convolution's output on a CPU, in evaluation."""
    if x.device.type != "cpu" or x.requires_grad or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    fits = x.dtype in compiled.COMPUTED and x.shape[1] >= LEAST_CHANNELS and x.numel() > 0
    return fits and x.is_contiguous(memory_format=torch.channels_last) and compiled.available()


def activate(
    x: Tensor, bias: Tensor | None, slope: float | None, pool: bool = False, added: Tensor | None = None
) -> Tensor:
    """Add the bias to x and activate; then pool 2 x 2 pixels, or add a tensor of the same shape, where asked.

    As `norm_act`, for networks without normalisation, in evaluation: x may be overwritten. Only where `activates`.
    """
    batch, channels, height, width = x.shape
    copies = _copies(batch * height * width, channels)
    table = x.new_ones(EVALUATED_ROWS, channels * copies, dtype=compiled.COMPUTED[x.dtype])
    table[-1] = 0.0 if bias is None else bias.repeat(copies)
    order = _Order(x, table, slope)
    if pool:
        out = torch.empty_like(x[:, :, : height // 2, : width // 2], memory_format=torch.channels_last)
        order.set(HEIGHT=height, WIDTH=width, OUT=out)
        order.run_pool(x)
        return out
    # The last sixteen channels of a row may overlap those before, which must not be activated twice.
    out = torch.empty_like(x) if table.shape[1] % LANES else x
    if added is not None:
        order.set(ADDED=added.contiguous(memory_format=torch.channels_last))
    order.set(OUT=out)
    order.run_through(x, copies)
    return out


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        added: Tensor | None,
        norm: nn.BatchNorm2d,
        slope: float | None,
        pool: bool,
    ) -> Tensor:
        batch, channels, height, width = x.shape
        copies = _copies(batch * height * width, channels)
        deviations = x.new_empty(channels, dtype=compiled.COMPUTED[x.dtype])
        table = deviations.new_empty(TABLE_ROWS, channels * copies)
        order = _Order(x, table, slope)
        order.sums("norm_loops.statistics", x, copies)
        order.set(WEIGHT=weight, BIAS=bias, DEVIATIONS=deviations)
        order.set(RUNNING_MEAN=norm.running_mean, RUNNING_VARIANCE=norm.running_var, EPS=norm.eps)
        order.set(MOMENTUM=norm.momentum)
        compiled.run_alone("norm_loops.finish_statistics", x.dtype, order)
        ctx.slope, ctx.copies = slope, copies
        if pool:
            out = torch.empty_like(x[:, :, : height // 2, : width // 2], memory_format=torch.channels_last)
            chosen, places = torch.empty_like(out), torch.empty_like(out, dtype=torch.uint8)
            order.set(HEIGHT=height, WIDTH=width, OUT=out, CHOSEN=chosen, PLACES=places)
            order.run_pool(x)
            ctx.save_for_backward(x, table, deviations, chosen, places)
            return out
        out = torch.empty_like(x)
        if added is not None:
            order.set(ADDED=added.contiguous(memory_format=torch.channels_last))
        order.set(OUT=out)
        order.run_through(x, copies)
        ctx.save_for_backward(x, table, deviations)
        return out

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, table, deviations, *pooled = ctx.saved_tensors
        batch, channels, height, width = x.shape
        # `to` alone would leave the gaps of a part of a larger gradient, as behind `cat` and slices.
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        of_weight, of_bias, out = torch.empty_like(deviations), torch.empty_like(deviations), torch.empty_like(x)
        order = _Order(pooled[0] if pooled else x, table, ctx.slope)
        order.set(GRADIENT=gradient, OUT=out, TABLE_COPIES=ctx.copies, COUNT=batch * height * width)
        order.sums(
            "norm_loops.gradient_sums", gradient, min(_copies(gradient.numel() // channels, channels), ctx.copies)
        )
        order.set(WEIGHT=of_weight, BIAS=of_bias, DEVIATIONS=deviations)
        compiled.run_alone("norm_loops.finish_gradient_sums", x.dtype, order)
        if pooled:
            order.set(X=x, CHOSEN=pooled[0], PLACES=pooled[1], HEIGHT=height, WIDTH=width)
            order.run("norm_loops.backward_pool", batch * -(-height // 2), PART // (2 * width * channels), channels)
        else:
            order.run_through(x, ctx.copies)
        found = (out, of_weight, of_bias, gradient)
        wanted = zip(found, ctx.needs_input_grad[:4], strict=True)
        return *(each if needed else None for each, needed in wanted), None, None, None


def _copies(pixels: int, channels: int) -> int:
    """Return how many pixels make a row of the loops."""
    copies = 1
    while channels * copies * 2 <= WIDE and pixels % (copies * 2) == 0:
        copies *= 2
    return copies


class _Order(WorkOrder):
    """A work order over x, with its table of numbers for each channel."""

    def __init__(self, x: Tensor, table: Tensor, slope: float | None):
        super().__init__()
        self.dtype, self.table = x.dtype, table
        self.set(X=x, TABLE=table, LONG=table.shape[1], KIND=0 if slope is None else 1, SLOPE=slope or 0.0)

    def run(self, kernel: str, rows: int, part_rows: int, channels: int) -> None:
        """Run a kernel over rows of so many channels, part_rows of them (at least one) at a time."""
        part_rows = max(part_rows, 1)
        self.set(PARTS=-(-rows // part_rows), PART_ROWS=part_rows, ROWS=rows, CHANNELS=channels)
        compiled.run_together(kernel, self.dtype, self)

    def run_pool(self, x: Tensor) -> None:
        """Go through all pixels of x (B, C, H, W), two rows at a time."""
        batch, channels, height, width = x.shape
        self.run("norm_loops.forward_pool", batch * (height // 2), PART // (2 * width * channels), channels)

    def run_through(self, x: Tensor, copies: int) -> None:
        """Go through all pixels of x (B, C, H, W), so many of them to a row."""
        wide = x.shape[1] * copies
        self.run("norm_loops.through", x.numel() // wide, PART // wide, wide)

    def sums(self, kernel: str, x: Tensor, copies: int) -> None:
        """Run a kernel that adds up over the pixels of x, part by part."""
        wide = x.shape[1] * copies
        rows = x.numel() // wide
        part_rows = min(MOST_SUMMED_ROWS, -(-SUMMED_PART // wide))
        self.set(SUMS=self.table.new_empty(-(-rows // part_rows), 2, wide), COPIES=copies)
        self.run(kernel, rows, part_rows, wide)
