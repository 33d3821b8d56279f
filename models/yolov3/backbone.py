"""Darknet backbones: images to feature maps C3, C4, C5 (strides 8, 16, 32)."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.yolov3.blocks import ConvBlock, Downsample, max_pool


class Darknet53(nn.Module):
    """Darknet-53 (YOLOv3, Table 1), which has no pools to pad: (B, 3, H, W) -> C3, C4, C5."""

    def __init__(self, channels: Sequence[int], activation: str, pool_padding: str = "zeros", cpu_kernels: bool = True):
        super().__init__()
        stem, c1, c2, c3, c4, c5 = channels
        self.stem = ConvBlock(3, stem, 3, 1, activation, cpu_kernels)
        self.stage1 = Downsample(stem, c1, 1, activation, cpu_kernels)
        self.stage2 = Downsample(c1, c2, 2, activation, cpu_kernels)
        self.stage3 = Downsample(c2, c3, 8, activation, cpu_kernels)
        self.stage4 = Downsample(c3, c4, 8, activation, cpu_kernels)
        self.stage5 = Downsample(c4, c5, 4, activation, cpu_kernels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features of strides 8, 16 and 32."""
        c2 = self.stage2(self.stage1(self.stem(images)))
        c3 = self.stage3(c2)
        c4 = self.stage4(c3)
        c5 = self.stage5(c4)
        return c3, c4, c5


POOL_PADDING = {"zeros": 0.0, "lowest": float("-inf")}


class DarknetTiny(nn.Module):
    """The backbone of YOLOv3-tiny, convolutions between max-pools: (B, 3, H, W) -> C4, C5."""

    def __init__(self, channels: Sequence[int], activation: str, pool_padding: str = "zeros", cpu_kernels: bool = True):
        super().__init__()
        c0, c1, c2, c3, c4, c5, c6 = channels
        self.pool = max_pool(2, 2, cpu_kernels=cpu_kernels)
        self.conv0 = ConvBlock(3, c0, 3, 1, activation, cpu_kernels)
        self.conv1 = ConvBlock(c0, c1, 3, 1, activation, cpu_kernels)
        self.conv2 = ConvBlock(c1, c2, 3, 1, activation, cpu_kernels)
        self.conv3 = ConvBlock(c2, c3, 3, 1, activation, cpu_kernels)
        self.conv4 = ConvBlock(c3, c4, 3, 1, activation, cpu_kernels)
        self.conv5 = ConvBlock(c4, c5, 3, 1, activation, cpu_kernels)
        pad = nn.ConstantPad2d((0, 1, 0, 1), POOL_PADDING[pool_padding])
        self.pool_same = nn.Sequential(pad, max_pool(2, 1, cpu_kernels=cpu_kernels))
        self.conv6 = ConvBlock(c5, c6, 3, 1, activation, cpu_kernels)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return features of strides 16 and 32."""
        x = self.conv0(images, self.pool)
        x = self.conv1(x, self.pool)
        x = self.conv2(x, self.pool)
        x = self.conv3(x, self.pool)
        c4 = self.conv4(x)
        c5 = self.conv6(self.pool_same(self.conv5(self.pool(c4))))
        return c4, c5


BACKBONES: dict[str, type[nn.Module]] = {"darknet53": Darknet53, "darknet_tiny": DarknetTiny}
