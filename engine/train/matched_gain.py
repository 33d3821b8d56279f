"""The box gain that makes two losses start equal, so that a comparison sees their shape and not their size."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignyolo.anchors import Anchors, build_anchors
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets
from data.labels.index import LabelIndex
from models.build import build_assigner, build_similarity
from utils.config.knobs import Config
from utils.letterbox import Letterbox

MOST_IMAGES = 5000  # a mean over more changes nothing that training could notice
CHUNK = 64


class InitialLoss(NamedTuple):
    """Mean loss of the positives while every prediction is its anchor, the same of IoU, and how many there were."""

    loss: float
    iou_loss: float
    positives: int

    @property
    def ratio(self) -> float:
        """How much larger the loss starts than IoU's."""
        return self.loss / self.iou_loss


def letterboxed_targets(index: LabelIndex, images: Sequence[int], image_size: tuple[int, int]) -> Targets:
    """The truths of some images where validation shows them to the network, as one batch in that order."""
    boxes, labels = [], []
    for image in images:
        image_boxes, image_labels = index.of(image)
        boxes.append(torch.from_numpy(Letterbox.fit(tuple(index.sizes[image]), image_size).boxes(image_boxes)))
        labels.append(torch.from_numpy(image_labels))
    return Targets.stack(boxes, labels)


def initial_loss(
    similarity: Callable[[Tensor, Tensor], Tensor],
    assigner: Callable,
    anchors: Anchors,
    index: LabelIndex,
    image_size: tuple[int, int],
) -> InitialLoss:
    """Measures the initial loss on at most 5,000 images, evenly spaced, without augmentation; NaN without positives."""
    chosen = np.linspace(0, len(index) - 1, min(len(index), MOST_IMAGES)).round().astype(int).tolist()
    total, iou_total, positives = 0.0, 0.0, 0
    for start in range(0, len(chosen), CHUNK):
        images = chosen[start : start + CHUNK]
        targets = letterboxed_targets(index, images, image_size)
        assignment = assigner(anchors, targets, len(images))
        predicted, truths = anchors.boxes[assignment.anchor], targets.boxes[assignment.target]
        total += float((1 - similarity(predicted, truths)).double().sum())
        iou_total += float((1 - iou(predicted, truths)).double().sum())
        positives += len(predicted)
    return InitialLoss(total / max(positives, 1), iou_total / max(positives, 1), positives)


def with_matched_gain(config: Config, index: LabelIndex) -> Config:
    """The config with the number that `box_gain_match: iou` stands for; prints what was measured."""
    hyper, model = config.hyper, config.model
    if hyper.box_gain_match != "iou":
        return config
    size = config.run.image_size
    anchors = build_anchors(size, model.strides, model.anchors)
    measured = initial_loss(build_similarity(hyper), build_assigner(hyper, model), anchors, index, size)
    ratio = measured.ratio if measured.iou_loss > 0 else 1.0
    print(
        f"box gain: divided by {ratio:.4f} = initial {hyper.box_loss} loss {measured.loss:.4f} / IoU loss "
        f"{measured.iou_loss:.4f} over {measured.positives} positives (box_gain_match: iou)"
    )
    return replace(config, hyper=replace(hyper, box_gain_match=ratio))
