"""The YOLOv3 network: backbone, neck and head, from images to raw outputs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.yolov3.backbone import BACKBONES
from models.yolov3.neck import NECKS


class Head(nn.Module):
    """One 1x1 convolution per level: K anchors with x, y, w, h, objectness and C class logits each."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], anchors_per_cell: int, num_classes: int):
        super().__init__()
        self.outputs = 5 + num_classes
        convs = [nn.Conv2d(inputs, anchors_per_cell * self.outputs, 1) for inputs in channels]
        for conv, stride in zip(convs, strides, strict=True):
            assert conv.bias is not None
            self._start_rare(conv.bias, stride, num_classes)
        self.convs = nn.ModuleList(convs)

    def _start_rare(self, bias: Tensor, stride: int, num_classes: int) -> None:
        """Start objectness at about 8 objects in a 640 px image, and classes at .6 / C (RetinaNet, section 3.3)."""
        with torch.no_grad():
            per_anchor = bias.view(-1, self.outputs)
            per_anchor[:, 4] += math.log(8 / (640 / stride) ** 2)
            per_anchor[:, 5:] += math.log(0.6 / (num_classes - 0.99999))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Feature maps, finest first -> (B, A, 5 + C); the anchors of a level are ordered (anchor, row, column)."""
        levels = []
        for conv, feature in zip(self.convs, features, strict=True):
            batch, _, rows, columns = feature.shape
            raw = conv(feature).view(batch, -1, self.outputs, rows, columns)
            levels.append(raw.permute(0, 1, 3, 4, 2).reshape(batch, -1, self.outputs))
        return torch.cat(levels, dim=1)


class Network(nn.Module):
    """YOLOv3: images (B, 3, H, W) in [0, 1] -> raw (B, A, 5 + C); H and W are multiples of the largest stride.

    Without `cpu_kernels` nothing of models/kernels is in it: all arithmetic is torch's own.
    """

    def __init__(
        self,
        backbone: str,
        channels: Sequence[int],
        strides: Sequence[int],
        anchors_per_cell: int,
        num_classes: int,
        activation: str = "silu",
        spp: bool = False,
        pool_padding: str = "zeros",
        norm_eps: float = 1e-3,
        cpu_kernels: bool = True,
    ):
        super().__init__()
        self.backbone = BACKBONES[backbone](channels, activation, pool_padding, cpu_kernels)
        self.neck = NECKS[backbone](channels, activation, spp, cpu_kernels)
        self.head = Head(self.neck.out_channels, strides, anchors_per_cell, num_classes)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = norm_eps

    def forward(self, images: Tensor) -> Tensor:
        """Return raw outputs (B, A, 5 + C)."""
        return self.head(self.neck(*self.backbone(images)))
