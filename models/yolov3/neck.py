"""Necks: backbone features to one feature map per detection level, finest first."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.yolov3.blocks import ConvBlock, SpatialPyramidPooling


class FiveConvs(nn.Sequential):
    """Five alternating 1x1 and 3x3 convolutions, to half of `channels`; with spp the third is a pyramid pooling."""

    def __init__(self, inputs: int, channels: int, activation: str, spp: bool = False, cpu_kernels: bool = True):
        half = channels // 2
        middle = (
            SpatialPyramidPooling(channels, half, activation, cpu_kernels)
            if spp
            else ConvBlock(channels, half, 1, 1, activation, cpu_kernels)
        )
        super().__init__(
            ConvBlock(inputs, half, 1, 1, activation, cpu_kernels),
            ConvBlock(half, channels, 3, 1, activation, cpu_kernels),
            middle,
            ConvBlock(half, channels, 3, 1, activation, cpu_kernels),
            ConvBlock(channels, half, 1, 1, activation, cpu_kernels),
        )


class Lateral(nn.Module):
    """1x1 reduction and upsampling of the coarser map, concatenated with the finer one."""

    def __init__(self, inputs: int, outputs: int, activation: str, cpu_kernels: bool = True):
        super().__init__()
        self.reduce = ConvBlock(inputs, outputs, 1, 1, activation, cpu_kernels)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Return (B, inputs, H/2, W/2), (B, C, H, W) -> (B, outputs + C, H, W)."""
        return torch.cat([self.upsample(self.reduce(coarse)), fine], dim=1)


class YOLOv3Neck(nn.Module):
    """The top-down neck of YOLOv3: C3, C4, C5 -> P3, P4, P5."""

    def __init__(self, channels: Sequence[int], activation: str, spp: bool = False, cpu_kernels: bool = True):
        super().__init__()
        *_, c3, c4, c5 = channels
        self.convs5 = FiveConvs(c5, c5, activation, spp, cpu_kernels)
        self.out5 = ConvBlock(c5 // 2, c5, 3, 1, activation, cpu_kernels)
        self.lateral4 = Lateral(c5 // 2, c5 // 4, activation, cpu_kernels)
        self.convs4 = FiveConvs(c5 // 4 + c4, c4, activation, cpu_kernels=cpu_kernels)
        self.out4 = ConvBlock(c4 // 2, c4, 3, 1, activation, cpu_kernels)
        self.lateral3 = Lateral(c4 // 2, c4 // 4, activation, cpu_kernels)
        self.convs3 = FiveConvs(c4 // 4 + c3, c3, activation, cpu_kernels=cpu_kernels)
        self.out3 = ConvBlock(c3 // 2, c3, 3, 1, activation, cpu_kernels)
        self.out_channels = (c3, c4, c5)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features of strides 8, 16 and 32."""
        m5 = self.convs5(c5)
        m4 = self.convs4(self.lateral4(m5, c4))
        m3 = self.convs3(self.lateral3(m4, c3))
        return self.out3(m3), self.out4(m4), self.out5(m5)


class TinyNeck(nn.Module):
    """The neck of YOLOv3-tiny: C4, C5 -> P4, P5."""

    def __init__(self, channels: Sequence[int], activation: str, spp: bool = False, cpu_kernels: bool = True):
        super().__init__()
        if spp:
            raise ValueError("YOLOv3-tiny's neck has no spatial pyramid pooling")
        *_, c4, _, c5 = channels
        self.reduce5 = ConvBlock(c5, c5 // 4, 1, 1, activation, cpu_kernels)
        self.out5 = ConvBlock(c5 // 4, c5 // 2, 3, 1, activation, cpu_kernels)
        self.lateral4 = Lateral(c5 // 4, c5 // 8, activation, cpu_kernels)
        self.out4 = ConvBlock(c5 // 8 + c4, c5 // 4, 3, 1, activation, cpu_kernels)
        self.out_channels = (c5 // 4, c5 // 2)

    def forward(self, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of strides 16 and 32."""
        m5 = self.reduce5(c5)
        return self.out4(self.lateral4(m5, c4)), self.out5(m5)


NECKS: dict[str, type[YOLOv3Neck] | type[TinyNeck]] = {"darknet53": YOLOv3Neck, "darknet_tiny": TinyNeck}
