"""Which of this room's arithmetic a run has: for its record, and to compile it while the data is read."""

import torch
from torch import device, nn

from models.kernels import compiled, kernel_cache
from models.kernels.compiled_winograd import LEAST_CHANNELS as WINOGRAD_CHANNELS
from models.kernels.compiled_winograd import bf16_pays, wide_enough
from models.kernels.fused_norm import LEAST_CHANNELS
from models.kernels.norm_silu_pool import LowMemoryMaxPool2d
from models.kernels.winograd import WinogradConv2d


def cpu_kernels_in_use(network: nn.Module, where: device, switch: str, loss: object = None) -> list[str]:
    """Name what a network and its loss use on `where` in place of torch's own; nothing on other devices than a CPU.

    `switch` is the hyperparameter cpu_kernels. Convolutions of Winograd's kind compute as torch does where that is
    faster (few channels or pixels, bf16).
    """
    if where.type != "cpu" or switch == "off":
        return []
    modules = list(network.modules())
    channels = [getattr(module, "fused_channels", 0) for module in modules]
    found = {
        "compiled normalisation, activation and pool": max(channels) >= LEAST_CHANNELS and compiled.available(),
        "recomputed normalisation and activation": any(getattr(module, "recomputes", False) for module in modules),
        "max-pools that keep places": any(isinstance(module, LowMemoryMaxPool2d) for module in modules),
        "compiled Winograd convolutions": compiled.available()
        and any(
            isinstance(module, WinogradConv2d) and wide_enough(module, dtype)
            for module in modules
            for dtype in WINOGRAD_CHANNELS
        ),
        "Winograd convolutions in float32": any(isinstance(module, WinogradConv2d) for module in modules),
        "cross entropy by log": getattr(loss, "by_log", False),
        "freed memory kept": True,
    }
    return [name for name, used in found.items() if used]


def compile_ahead(dtype: torch.dtype, use: str = "training") -> None:
    """Begin to compile what training or evaluation in bf16 or float32 on this CPU needs, unless done before."""
    if compiled.available() and dtype in (torch.bfloat16, torch.float32):
        tiles = ["tile_loops"] if dtype is torch.float32 or bf16_pays() else []
        kernel_cache.compile_ahead(compiled.STORED[dtype], ["norm_loops", *tiles], use)
