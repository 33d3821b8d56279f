"""The registered similarities and assigners as the tests call them: settings bound, everything they need given."""

from functools import partial

import torch

from alignyolo.anchors import Anchors
from alignyolo.assign.assignment import Assigner, Assignment, Context, Predictions
from alignyolo.registry import ASSIGNERS, SIMILARITIES
from alignyolo.similarities.bound import similarity
from alignyolo.targets import Targets

AROUND = {"image_size": (320, 320), "over_ranks": lambda values: values, "training": False}
BOX_SIMILARITIES = {name: partial(similarity(name), **AROUND) for name in SIMILARITIES}


def assigner(name: str, **settings) -> Assigner:
    """A registered assigner of YOLO heads with settings."""
    return ASSIGNERS[name].bind(**settings)


def assign(name: str, anchors: Anchors, targets: Targets, batch_size: int, **settings) -> Assignment:
    """What a registered assigner of YOLO heads says of a batch."""
    return assigner(name, **settings)(Context(anchors, targets, batch_size, drawn(anchors, targets, batch_size)))


def drawn(anchors: Anchors, targets: Targets, batch_size: int) -> Predictions:
    """Predictions near the anchors, and scores for every class, the same in all images."""
    generator = torch.Generator().manual_seed(len(anchors.centers))
    classes = max([80, *(label + 1 for label in targets.labels.tolist())])
    noise, scores, objectness = (torch.rand(len(anchors.centers), n, generator=generator) for n in (4, classes, 1))
    boxes = anchors.boxes + (noise - 0.5).to(anchors.boxes) * 0.3 * anchors.sizes.repeat(1, 2)
    shapes = (boxes, scores.to(boxes), objectness[:, 0].to(boxes))
    return Predictions(*(part.expand(batch_size, *part.shape) for part in shapes))
