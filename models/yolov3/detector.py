"""The detector: images and targets to losses, images to detections (torchvision's contract)."""

from collections.abc import Sequence

import torch
from torch import Tensor, device, nn

from alignyolo.anchors import Anchors, build_anchors
from alignyolo.assign.assignment import Assignment
from alignyolo.targets import Targets
from models.detector import AnyDetector
from models.postprocess import Postprocess
from models.yolov3.decoding import Decoding
from models.yolov3.loss import DetectionLoss


class Detector(AnyDetector):
    """YOLOv3: a network with its anchors, its loss and its postprocessing."""

    def __init__(
        self,
        network: nn.Module,
        strides: Sequence[int],
        anchor_sizes: Sequence[Sequence[Sequence[float]]],
        loss: DetectionLoss,
        postprocess: Postprocess,
        decoding: Decoding,
    ):
        super().__init__(network, loss, postprocess)
        self.loss: DetectionLoss = loss
        self.strides, self.anchor_sizes, self.decoding = tuple(strides), anchor_sizes, decoding
        self._anchors: dict[tuple[tuple[int, int], device], Anchors] = {}

    def anchors(self, image_size: tuple[int, int], where: device) -> Anchors:
        """Lay the anchors over an image of (height, width) pixels, once per size and device."""
        key = (image_size, where)
        if key not in self._anchors:
            self._anchors[key] = build_anchors(image_size, self.strides, self.anchor_sizes, where)
        return self._anchors[key]

    def with_network(self, network: nn.Module) -> "Detector":
        """Put the same detector around other weights."""
        return Detector(network, self.strides, self.anchor_sizes, self.loss, self.postprocess, self.decoding)

    @torch.no_grad()
    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (B, A, 4) xyxy pixels and scores (B, A, C) of images (B, 3, H, W) in [0, 1]."""
        height, width = images.shape[-2:]
        return self.decoding.candidates(self.network(images), self.anchors((height, width), images.device))

    def losses(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """Compute {box, objectness, class} of images (B, 3, H, W) in [0, 1].

        Targets may lie on the host: then nothing in here makes the host wait for the images' device.
        """
        raw = self.network(images)
        height, width = images.shape[-2:]
        anchors = self.anchors((height, width), images.device)
        return self.loss(raw, anchors, targets.to(images.device), self.assigned(raw, (height, width), targets))

    def assigned(self, raw: Tensor, image_size: tuple[int, int], targets: Targets) -> Assignment:
        """Assign the truths where they are: on the host, while a GPU computes, which would have to wait for the counts.

        An assigner that needs predictions works where these are.
        """
        if self.loss.assigner.needs_predictions:
            targets = targets.to(raw.device)
        anchors = self.anchors(image_size, targets.boxes.device)
        return self.loss.assign(anchors, targets, len(raw), raw).to(raw.device)
