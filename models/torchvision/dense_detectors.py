"""torchvision's detectors behind this project's contract: their networks, our matching, losses and postprocessing.

The classes are subclassed, not patched. Their own resizing is left out (letterboxed images come as they are); images in
[0, 1] are normalised with the mean and deviation that torchvision uses for each. Nothing is downloaded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import RetinaNet, ssd300_vgg16
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from alignyolo.anchors import DenseAnchors
from alignyolo.targets import Targets
from models.detector import AnyDetector
from models.torchvision.dense_loss import BoxCoder, DenseOutput

NORMS = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d}


def dense_anchors(generator: Any, images: Tensor, features: Sequence[Tensor]) -> DenseAnchors:
    """Lay the anchors over any one of a batch's images, in full precision whatever the features' is."""
    height, width = images.shape[-2:]
    shapes = [images.new_empty((0, 0, *feature.shape[-2:])) for feature in features]
    boxes = generator(ImageList(images[:1], [(height, width)]), shapes)[0]
    per_cell = generator.num_anchors_per_location()
    cells = [feature.shape[-2] * feature.shape[-1] for feature in features]
    counts = tuple(n * count for n, count in zip(per_cell, cells, strict=True))
    return DenseAnchors(boxes, counts, (height, width), tuple(height / feature.shape[-2] for feature in features))


class DenseForward:
    """The way through torchvision's detectors with dense anchors, in front of the class that holds the layers."""

    backbone: nn.Module
    transform: Any
    head: nn.Module
    anchor_generator: Any
    box_coder: BoxCoder
    scores: Callable[[Tensor], Tensor]

    def forward(self, images: Tensor) -> DenseOutput:
        """Return what the network says of every anchor over images (B, 3, H, W) in [0, 1]."""
        features = list(self.backbone(self.transform.normalize(images)).values())
        outputs = self.head(features)
        anchors = dense_anchors(self.anchor_generator, images, features)
        return DenseOutput(outputs["bbox_regression"], outputs["cls_logits"], anchors)


class RetinaNetNetwork(DenseForward, RetinaNet):
    """torchvision's RetinaNet; its class logits know no background."""

    @staticmethod
    def scores(logits: Tensor) -> Tensor:
        """Return class probabilities (..., C)."""
        return logits.sigmoid()


def resnet_fpn(name: str, fpn_channels: int, norm: str, first: int, extra: nn.Module | None) -> BackboneWithFPN:
    """Return a ResNet with a feature pyramid over its layers from number `first` (1 to 4) on, randomly initialised."""
    body = resnet.__dict__[name](weights=None, norm_layer=NORMS[norm])
    layers = range(first, 5)
    names = {f"layer{layer}": str(place) for place, layer in enumerate(layers)}
    inputs = [body.inplanes // 2 ** (4 - layer) for layer in layers]
    return BackboneWithFPN(body, names, inputs, fpn_channels, extra)


def retinanet(backbone: str, num_classes: int, fpn_channels: int = 256, norm: str = "batch") -> RetinaNetNetwork:
    """Return RetinaNet on a ResNet with levels P3 to P7, as torchvision builds it, randomly initialised."""
    extra = LastLevelP6P7(fpn_channels, fpn_channels)
    return RetinaNetNetwork(resnet_fpn(backbone, fpn_channels, norm, 2, extra), num_classes)


class SSDNetwork(DenseForward, SSD):
    """torchvision's SSD at 300 x 300 px; its first class logit is the background's."""

    @staticmethod
    def scores(logits: Tensor) -> Tensor:
        """Return class probabilities (..., C)."""
        return logits.softmax(-1)[..., 1:]


def ssd300(num_classes: int) -> SSDNetwork:
    """Return SSD300 on VGG16 as torchvision builds it, randomly initialised."""
    stock = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    normal = {"image_mean": stock.transform.image_mean, "image_std": stock.transform.image_std}
    return SSDNetwork(stock.backbone, stock.anchor_generator, (300, 300), num_classes + 1, head=stock.head, **normal)


class DenseDetector(AnyDetector):
    """A network of torchvision's with dense anchors, its loss and its postprocessing."""

    network: Any  # a DenseForward with its layers

    @torch.no_grad()
    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, A, 4) xyxy pixels and scores (B, A, C) of images (B, 3, H, W) in [0, 1]."""
        codes, logits, anchors = self.network(images)
        repeated = anchors.boxes.repeat(len(codes), 1)
        boxes = self.network.box_coder.decode_single(codes.float().flatten(0, 1), repeated)
        return boxes.view_as(codes), self.network.scores(logits.float())

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Compute {box, class} of images (B, 3, H, W) in [0, 1]."""
        return self.loss(self.network(images), targets.to(images.device))
