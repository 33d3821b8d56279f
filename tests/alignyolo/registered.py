"""The registered similarities and assigners as the tests call them: settings bound, everything they need given."""

from functools import partial

from alignyolo.anchors import Anchors
from alignyolo.assign.assignment import Assigner, Assignment, Context
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
    return assigner(name, **settings)(Context(anchors, targets, batch_size))
