"""The network as it leaves the project: batch normalisation folded, outputs in the layout that was asked for."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.kernels.winograd import WinogradConv2d
from models.yolov3.blocks import ConvBlock
from models.yolov3.decoding import Decoding, scores_of
from models.yolov3.detector import Detector
from models.yolov3.network import Network
from utils.config.knobs import Config, ModelConfig

NetworkKind = TypeVar("NetworkKind", bound=nn.Module)


def folded(network: NetworkKind, compiled: bool = False) -> NetworkKind:
    """Return a copy of the network in evaluation mode, its batch normalisation folded into the convolutions.

    With `compiled`, kernels compiled for this CPU serve it, where the network uses them in training.
    """
    network = copy.deepcopy(network).eval().float().requires_grad_(False)
    for block in [module for module in network.modules() if isinstance(module, ConvBlock)]:
        block.conv = fuse_conv_bn_eval(block.conv, block.norm)
        block.norm = nn.Identity()  # type: ignore[assignment]
        if compiled and isinstance(block.conv, WinogradConv2d):
            block.compiled_evaluation = block.conv.compiled_evaluation = True
    return network


class Bfloat16Network(nn.Module):
    """A copy of the network that computes its features in bfloat16 and its last convolutions in float32.

    Rounded outputs would cost a tenth of a pixel more, and the last convolutions take hardly any time.
    """

    def __init__(self, network: Network, compiled: bool = False):
        super().__init__()
        self.network = folded(network, compiled).to(torch.bfloat16)
        self.network.head.float()

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into raw outputs (B, A, 5 + C) in float32."""
        network = self.network
        with torch.autocast(images.device.type, enabled=False):
            features = network.neck(*network.backbone(images.to(torch.bfloat16)))
            return network.head([feature.float() for feature in features])


def for_detection(network: nn.Module, bf16: bool = False, compiled: bool = False) -> nn.Module:
    """Copy a network of any family as fast as it can be without another answer, or with `bf16` with a rounded one.

    A family without a form of its own for bf16 computes in it under autocast. `compiled` is that of `folded`.
    """
    if bf16 and isinstance(network, Network):
        return Bfloat16Network(network, compiled)
    return folded(network, compiled)


class ZeroPaddedPool(nn.Module):
    """A 2x2 max-pool of stride 1 with a row and a column of zeros after the last, as maxima of shifted maps.

    onnxruntime would fuse zero padding and a pooling node into a pooling that pads with -inf, which is another result
    wherever all values are negative (SiLU).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (B, C, H, W)."""
        x = torch.maximum(x, functional.pad(x[:, :, :, 1:], (0, 1, 0, 0)))
        return torch.maximum(x, functional.pad(x[:, :, 1:], (0, 0, 0, 1)))


class ExportNetwork(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to `raw` (B, A, 5 + C) or `decoded` (B, 4 + C, A): cx, cy, w, h, class scores.

    The grid is computed from the features' shape, so that a traced graph serves any image size.
    """

    proposes = False
    follows_device = False  # a trace of it computes on whichever device its weights and its input are

    def __init__(self, network: Network, model: ModelConfig, layout: str):
        super().__init__()
        self.network = folded(network)
        if model.backbone == "darknet_tiny":
            # Padding with -inf is a number that ncnn cannot read; float16's lowest is as low, in files of either kind.
            zeros = model.pool_padding == "zeros"
            lowest = nn.ConstantPad2d((0, 1, 0, 1), torch.finfo(torch.float16).min)
            self.network.backbone.pool_same = ZeroPaddedPool() if zeros else nn.Sequential(lowest, nn.MaxPool2d(2, 1))
        self.strides, self.decoding = model.strides, Decoding(model.decode, model.xy_reach)
        self.raw = layout == "raw"
        self.anchors = nn.ParameterList(
            nn.Parameter(torch.tensor(level).view(1, -1, 1, 1, 2), requires_grad=False) for level in model.anchors
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs of all levels, finest first, each in the order (anchor, row, column)."""
        features = self.network.neck(*self.network.backbone(images))
        levels = torch.cat(self._levels(features), dim=1)
        return levels if self.raw else levels.transpose(1, 2)

    def _levels(self, features: Sequence[Tensor]) -> list[Tensor]:
        head, levels = self.network.head, []
        for conv, feature, stride, anchors in zip(head.convs, features, self.strides, self.anchors, strict=True):
            raw = conv(feature)
            batch, _, rows, columns = raw.shape
            raw = raw.view(batch, -1, head.outputs, rows, columns).permute(0, 1, 3, 4, 2)
            if self.raw:
                levels.append(raw.reshape(batch, -1, head.outputs))
                continue
            y, x = self._places(raw)
            y, x = y.view(1, 1, -1, 1, 1).expand(1, 1, rows, columns, 1), x.view(1, 1, 1, -1, 1)
            centers = (torch.cat([x.expand(1, 1, rows, columns, 1), y], dim=-1) + 0.5) * stride
            center, size = self.decoding.center_and_size(raw[..., :4], centers, anchors, stride)
            parts = torch.cat([center, size, scores_of(raw[..., 4:])], dim=-1)
            levels.append(parts.reshape(batch, -1, head.outputs - 1))
        return levels

    def _places(self, raw: Tensor) -> list[Tensor]:
        """Return the numbers, from 0, of the rows (H,) and of the columns (W,) of raw (B, A, H, W, 5 + C).

        A trace holds the device of an arange as a constant, and none for what is made like another tensor: that takes
        operations which not every converter knows.
        """
        if self.follows_device:
            lines = (raw[0, 0, :, 0, 0], raw[0, 0, 0, :, 0])
            return [torch.ones_like(line, dtype=torch.float32).cumsum(0) - 1 for line in lines]
        return [torch.arange(count, dtype=torch.float32, device=raw.device) for count in raw.shape[2:4]]


def export_network(detector: Detector, config: Config, layout: str) -> ExportNetwork:
    """Make the exported form of a YOLOv3."""
    return ExportNetwork(detector.network, config.yolov3, layout)
