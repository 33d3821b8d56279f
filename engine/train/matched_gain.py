"""The box gain that makes two losses start equal, so that a comparison sees their shape and not their size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alignyolo.anchors import Anchors, build_anchors
from alignyolo.assign.assignment import Assigner, Context, Predictions
from alignyolo.similarities.iou import iou
from alignyolo.targets import Targets
from data.labels.index import LabelIndex
from models.choices import build_similarity
from models.yolov3.build import build_yolov3_assigner
from utils.config.knobs import LEAST_MATCH, Config
from utils.errors import UserError
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
        """Return how much larger the loss starts than IoU's."""
        return self.loss / self.iou_loss


def letterboxed_targets(index: LabelIndex, images: Sequence[int], image_size: tuple[int, int]) -> Targets:
    """Return the truths of some images where validation shows them to the network, as one batch in that order."""
    boxes, labels = [], []
    for image in images:
        image_boxes, image_labels = index.of(image)
        boxes.append(torch.from_numpy(Letterbox.fit(tuple(index.sizes[image]), image_size).boxes(image_boxes)))
        labels.append(torch.from_numpy(image_labels))
    return Targets.stack(boxes, labels)


def initial_loss(
    similarity: Callable[..., Tensor], assigner: Assigner, anchors: Anchors, index: LabelIndex
) -> InitialLoss:
    """Measure the initial loss on at most 5,000 images, evenly spaced, without augmentation; 0 without positives.

    An assigner that needs predictions is given the anchors for them, all of the same score.
    """
    image_size = anchors.image_size
    around = {"image_size": image_size, "over_ranks": lambda values: values, "training": False}
    chosen = np.linspace(0, len(index) - 1, min(len(index), MOST_IMAGES)).round().astype(int).tolist()
    total, iou_total, positives = 0.0, 0.0, 0
    for start in range(0, len(chosen), CHUNK):
        images = chosen[start : start + CHUNK]
        targets = letterboxed_targets(index, images, image_size)
        assignment = assigner(Context(anchors, targets, len(images), undecided(anchors, targets, len(images))))
        predicted, truths = anchors.boxes[assignment.anchor], targets.boxes[assignment.target]
        total += float((1 - similarity(predicted, truths, **around)).double().sum())
        iou_total += float((1 - iou(predicted, truths)).double().sum())
        positives += len(predicted)
    return InitialLoss(total / max(positives, 1), iou_total / max(positives, 1), positives)


def undecided(anchors: Anchors, targets: Targets, batch_size: int) -> Predictions:
    """Predict every anchor as it lies, with the same score for every class of the batch."""
    classes = int(targets.labels.max()) + 1 if len(targets.labels) else 1
    count = len(anchors.centers)
    scores = anchors.centers.new_full((batch_size, count, classes), 0.5)
    return Predictions(anchors.boxes.expand(batch_size, count, 4), scores, scores[..., 0])


def with_matched_gain(config: Config, index: LabelIndex) -> Config:
    """Return the config with the number that `box_gain_match: iou` stands for; prints what was measured.

    UserError where the loss starts so low beside IoU's that no run could be told by such a number.
    """
    hyper = config.hyper
    if hyper.box_gain_match != "iou":
        return config
    model, size = config.yolov3, config.run.image_size
    anchors = build_anchors(size, model.strides, model.anchors)
    measured = initial_loss(build_similarity(hyper), build_yolov3_assigner(hyper, model), anchors, index)
    ratio = measured.ratio if measured.iou_loss > 0 else 1.0
    if not LEAST_MATCH <= ratio < math.inf:
        raise UserError(
            f"box_gain_match iou: the {hyper.box_loss} loss starts at {measured.loss:.3g}, {ratio:.3g} of IoU's "
            f"{measured.iou_loss:.3g}: expected at least {LEAST_MATCH:g}; set the gain yourself (--set box=...) or the "
            "loss's own settings"
        )
    print(
        f"box gain: divided by {ratio:.4f} = initial {hyper.box_loss} loss {measured.loss:.4f} / IoU loss "
        f"{measured.iou_loss:.4f} over {measured.positives} positives (box_gain_match: iou)"
    )
    return replace(config, hyper=replace(hyper, box_gain_match=ratio))
