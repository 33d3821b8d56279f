"""The building blocks of Darknet backbones and YOLOv3 necks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.kernels.fused_norm import activate, activates, fuses, norm_act
from models.kernels.norm_silu_pool import LowMemoryMaxPool2d, norm_silu, norm_silu_pool, saves_memory
from models.kernels.winograd import WinogradConv2d


class SiLU(nn.Module):
    """x * sigmoid(x); in place where no gradient is wanted: with one, torch would copy x before it overwrites it."""

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape."""
        return functional.silu(x, inplace=not torch.is_grad_enabled())


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"silu": SiLU, "leaky": lambda: nn.LeakyReLU(0.1, inplace=True)}


def max_pool(kernel: int, stride: int, padding: int = 0, cpu_kernels: bool = True) -> nn.MaxPool2d:
    """Make a max-pool: torch's own, or with `cpu_kernels` the one that takes less memory for the gradient on a CPU."""
    return (LowMemoryMaxPool2d if cpu_kernels else nn.MaxPool2d)(kernel, stride, padding)


def halves(pool: nn.MaxPool2d) -> bool:
    """Tell whether a pool is the one that compiled kernels have: 2 x 2 pixels become one."""
    return (pool.kernel_size, pool.stride, pool.padding) == (2, 2, 0)


class ConvBlock(nn.Module):
    """Convolve, normalise by the batch, activate: (B, inputs, H, W) -> (B, outputs, H / stride, W / stride).

    Without `cpu_kernels` all of it is torch's own arithmetic, on a CPU too.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        activation: str = "silu",
        cpu_kernels: bool = True,
    ):
        super().__init__()
        convolution = WinogradConv2d if cpu_kernels else nn.Conv2d
        self.conv: nn.Conv2d = convolution(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.activation = ACTIVATIONS[activation]()
        # Only of SiLU: a leaky ReLU in place keeps nothing that could be made again.
        self.recomputes = cpu_kernels and type(self.activation) is SiLU
        self.fused_channels = outputs if cpu_kernels else 0
        # Set where a copy without normalisation evaluates many images: loading what is compiled takes a second.
        self.compiled_evaluation = False
        self.slope = getattr(self.activation, "negative_slope", None)

    def forward(self, x: Tensor, pool: nn.MaxPool2d | None = None, added: Tensor | None = None) -> Tensor:
        """Convolve, normalise, activate; pool where there is a pool, or add a tensor of the same shape."""
        if self.compiled_evaluation:
            return self._evaluate(x, pool, added)
        x = self.conv(x)
        if self.fused_channels and fuses(x, self.norm):
            halved = pool is not None and halves(pool)
            x = norm_act(x, self.norm, self.slope, halved, added)
            return x if pool is None or halved else pool(x)
        if self.recomputes and saves_memory(x, self.norm):
            if pool is not None:
                return norm_silu_pool(x, self.norm, pool)
            x = norm_silu(x, self.norm)
            return x if added is None else added + x
        x = self.activation(self.norm(x))
        x = x if added is None else added + x
        return x if pool is None else pool(x)

    def _evaluate(self, x: Tensor, pool: nn.MaxPool2d | None, added: Tensor | None) -> Tensor:
        assert isinstance(self.conv, WinogradConv2d)  # what sets the flag looks at that
        x, bias = self.conv.without_bias(x)
        if activates(x):
            halved = pool is not None and halves(pool)
            x = activate(x, bias, self.slope, halved, added)
            return x if pool is None or halved else pool(x)
        x = self.activation(x if bias is None else x + bias.view(-1, 1, 1))
        x = x if added is None else added + x
        return x if pool is None else pool(x)


class Residual(nn.Module):
    """x + conv3x3(conv1x1(x)) with half the channels between (YOLOv3, Darknet-53)."""

    def __init__(self, channels: int, activation: str, cpu_kernels: bool = True):
        super().__init__()
        self.reduce = ConvBlock(channels, channels // 2, 1, activation=activation, cpu_kernels=cpu_kernels)
        self.expand = ConvBlock(channels // 2, channels, 3, activation=activation, cpu_kernels=cpu_kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, channels, H, W)."""
        return self.expand(self.reduce(x), added=x)


class Downsample(nn.Sequential):
    """A stride 2 convolution to `outputs` channels, then `depth` residual blocks: one stage of Darknet-53."""

    def __init__(self, inputs: int, outputs: int, depth: int, activation: str, cpu_kernels: bool = True):
        blocks = [Residual(outputs, activation, cpu_kernels) for _ in range(depth)]
        super().__init__(ConvBlock(inputs, outputs, 3, 2, activation, cpu_kernels), *blocks)


class SpatialPyramidPooling(nn.Module):
    """1x1 reduction, max-pools of 5, 9 and 13 beside the identity, 1x1 back to `outputs` (YOLOv3-SPP)."""

    def __init__(self, inputs: int, outputs: int, activation: str, cpu_kernels: bool = True):
        super().__init__()
        self.reduce = ConvBlock(inputs, inputs // 2, 1, activation=activation, cpu_kernels=cpu_kernels)
        self.pools = nn.ModuleList(max_pool(kernel, 1, kernel // 2, cpu_kernels) for kernel in (5, 9, 13))
        self.merge = ConvBlock(inputs // 2 * 4, outputs, 1, activation=activation, cpu_kernels=cpu_kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, inputs, H, W) -> (B, outputs, H, W)."""
        x = self.reduce(x)
        return self.merge(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))
