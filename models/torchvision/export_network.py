"""torchvision's detectors as they leave the project: one output of decoded boxes and class scores, as YOLOv3's have."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from models.torchvision.dense_detectors import DenseDetector
from models.torchvision.faster_rcnn import TwoStageDetector
from utils.config.knobs import Config


class DenseExport(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to `decoded` (B, 4 + C, A): cx, cy, w, h in pixels, class scores."""

    raw = proposes = False

    def __init__(self, detector: DenseDetector):
        super().__init__()
        self.network: Any = still(detector.network)

    def forward(self, images: Tensor) -> Tensor:
        """Decode what the network says of every anchor."""
        codes, logits, anchors = self.network(images)
        coder = self.network.box_coder
        boxes = torch.stack([coder.decode_single(each, anchors.boxes) for each in codes.unbind()])
        return decoded(boxes, self.network.scores(logits))


class TwoStageExport(nn.Module):
    """An image (1, 3, H, W) in [0, 1] to `decoded` (1, 4 + C, N C): every pair of a proposal and a class is a box.

    Of a pair's scores only that of its class is not 0.
    """

    raw, proposes = False, True

    def __init__(self, detector: TwoStageDetector):
        super().__init__()
        self.network: Any = still(detector.network)

    def forward(self, images: Tensor) -> Tensor:
        """Decode what the second stage says of the proposals."""
        proposals, _ = self.network(images)
        coder = self.network.roi_heads.box_coder
        boxes = coder.decode_single(proposals.codes.flatten(1), proposals.boxes).unflatten(1, (-1, 4))[:, 1:]
        scores = proposals.logits.softmax(-1)[:, 1:]
        single = scores.unsqueeze(-1) * torch.eye(scores.shape[1])
        return decoded(boxes.flatten(0, 1)[None], single.flatten(0, 1)[None])


def still(network: nn.Module) -> nn.Module:
    """Copy a network, in evaluation mode and in float32, for its weights to be written."""
    return copy.deepcopy(network).eval().float().requires_grad_(False)


def decoded(boxes: Tensor, scores: Tensor) -> Tensor:
    """Join boxes (B, A, 4) xyxy and scores (B, A, C) to (B, 4 + C, A): cx, cy, w, h and the scores."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low, scores], dim=-1).transpose(1, 2)


def dense_export(detector: DenseDetector, config: Config, layout: str) -> DenseExport:
    """Make the exported form of RetinaNet or SSD."""
    return DenseExport(detector)


def two_stage_export(detector: TwoStageDetector, config: Config, layout: str) -> TwoStageExport:
    """Make the exported form of Faster R-CNN."""
    return TwoStageExport(detector)
