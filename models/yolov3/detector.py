"""The detector: images and targets to losses, images to detections (torchvision's contract)."""

from collections.abc import Sequence

from torch import Tensor, device, nn

from alignyolo.anchors import Anchors, build_anchors
from alignyolo.targets import Targets
from models.postprocess import Postprocess
from models.yolov3.loss import DetectionLoss


class Detector(nn.Module):
    """A network with its anchors, its loss and its postprocessing."""

    def __init__(
        self,
        network: nn.Module,
        strides: Sequence[int],
        anchor_sizes: Sequence[Sequence[Sequence[float]]],
        loss: DetectionLoss | None = None,
        postprocess: Postprocess | None = None,
    ):
        super().__init__()
        self.network = network
        self.strides = tuple(strides)
        self.anchor_sizes = anchor_sizes
        self.loss = loss
        self.postprocess = postprocess or Postprocess()
        self._anchors: dict[tuple[tuple[int, int], device], Anchors] = {}

    def anchors(self, image_size: tuple[int, int], where: device | str) -> Anchors:
        """The anchors over an image of (height, width) pixels, made once per size and device."""
        key = (image_size, where)
        if key not in self._anchors:
            self._anchors[key] = build_anchors(image_size, self.strides, self.anchor_sizes, where)
        return self._anchors[key]

    def with_network(self, network: nn.Module) -> "Detector":
        """The same detector around other weights."""
        return Detector(network, self.strides, self.anchor_sizes, self.loss, self.postprocess)

    def forward(self, images: Tensor, targets: Targets | None = None) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Images (B, 3, H, W) in [0, 1]: losses {box, objectness, class} with targets, else detections per image.

        Targets may lie on the host: then nothing in here makes the host wait for the images' device.
        Detections are {boxes (N, 4) xyxy pixels of the input, scores (N,), labels (N,)}, best first.
        """
        raw = self.network(images)
        size, device = tuple(images.shape[-2:]), images.device
        anchors = self.anchors(size, device)
        if targets is None:
            return self.postprocess(raw, anchors)
        # Assigned where the truths are: on the host, while a GPU computes, which would have to wait for the counts.
        assignment = self.loss.assign(self.anchors(size, targets.boxes.device), targets, len(images))
        return self.loss(raw, anchors, targets.to(device), assignment.to(device))
