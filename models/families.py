"""The families of detectors: what each builds, which assigners and losses it has, and which keys it reads.

A family is one entry. Its detectors share a contract: `detector(images, targets)` gives losses, `detector(images)`
detections, `detector.candidates(images)` boxes and scores before NMS, `detector.with_network(network)` the same
detector around other weights. Importing this module does not import torch, so that flags are checked at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alignyolo.registry import ASSIGNERS, DENSE_ASSIGNERS, PROPOSAL_ASSIGNERS, SIMILARITIES, Entry
from utils.config.knobs import ENCODED_LOSSES, Config, ModelConfig, TorchvisionConfig

if TYPE_CHECKING:
    from models.detector import AnyDetector
    from utils.distributed import Group


@dataclass(frozen=True)
class Exporting:
    """Say how a family leaves the project.

    `network` is the "module:function" that makes the exported form: (detector, config, layout) -> module. Where
    `formats` is empty it can be written in all of them. `any_form`: at any size, in half precision, in int8 and raw;
    `batches`: of more than one image.
    """

    network: str
    formats: tuple[str, ...] = ()
    any_form: bool = False
    batches: bool = True

    def build(self, detector: AnyDetector, config: Config, layout: str) -> Any:
        """Make the exported form of a detector."""
        return _loaded(self.network)(detector, config, layout)


@dataclass(frozen=True)
class Family:
    """Say of a family of detectors where its code is and what it can do.

    `builder` and `weights_reader` are "module:function", imported when they are used: (config, observe, group) ->
    detector, and path -> {model, config}. `keys` are the hyperparameters that the family itself reads, besides those
    of its assigner and of its box loss, `class_keys` those that it reads where a data set has several classes.
    `exporting` says how export.py writes it. `one_size`: the network
    has one input size alone. `cpu_kernels`: models/kernels trains it on a CPU.
    """

    title: str
    builder: str
    weights_reader: str
    assigners: Mapping[str, Entry]
    keys: frozenset[str]
    exporting: Exporting
    encoded_losses: tuple[str, ...] = ()
    fits_anchors: bool = False
    one_size: bool = False
    cpu_kernels: bool = False
    class_keys: frozenset[str] = frozenset()

    @property
    def box_losses(self) -> tuple[str, ...]:
        """Return the names of the box losses that the family trains with."""
        return (*SIMILARITIES, *self.encoded_losses)

    def build(self, config: Config, observe: Callable | None, group: Group) -> AnyDetector:
        """Build the detector of a config."""
        return _loaded(self.builder)(config, observe, group)

    def read_weights(self, path: str) -> dict[str, Any]:
        """Read weights to start from; UserError if the file holds none of this family."""
        return _loaded(self.weights_reader)(path)


def _loaded(place: str) -> Callable[..., Any]:
    """Import the function at "module:function"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)


_EXPORT, _GRAPHS = "models.torchvision.export_network", ("onnx", "openvino")
_TORCHVISION, _READ = "models.torchvision.build", "models.weights.torchvision:read_torchvision"

FAMILIES: dict[str, Family] = {
    "yolov3": Family(
        "YOLOv3",
        "models.yolov3.build:build_yolov3",
        "models.weights.read:read_weights",
        ASSIGNERS,
        frozenset({"obj", "obj_target", "obj_pw", "fl_gamma"}),
        Exporting("models.yolov3.export_network:export_network", any_form=True),
        fits_anchors=True,
        cpu_kernels=True,
        class_keys=frozenset({"cls", "cls_pw", "label_smoothing"}),
    ),
    "retinanet": Family(
        "RetinaNet",
        f"{_TORCHVISION}:build_retinanet",
        _READ,
        DENSE_ASSIGNERS,
        frozenset({"cls", "fl_gamma"}),
        Exporting(f"{_EXPORT}:dense_export", _GRAPHS),
        encoded_losses=ENCODED_LOSSES,
    ),
    "ssd": Family(
        "SSD",
        f"{_TORCHVISION}:build_ssd",
        _READ,
        DENSE_ASSIGNERS,
        frozenset({"cls"}),
        Exporting(f"{_EXPORT}:dense_export", _GRAPHS),
        encoded_losses=ENCODED_LOSSES,
        one_size=True,
    ),
    "fasterrcnn": Family(
        "Faster R-CNN",
        f"{_TORCHVISION}:build_faster_rcnn",
        _READ,
        PROPOSAL_ASSIGNERS,
        frozenset({"cls", "obj", "rpn_positive", "rpn_negative"}),
        Exporting(f"{_EXPORT}:two_stage_export", _GRAPHS, batches=False),
        encoded_losses=ENCODED_LOSSES,
    ),
}


def family_of(model: ModelConfig | TorchvisionConfig) -> Family:
    """Return the family that a model YAML belongs to."""
    return FAMILIES[model.detector]


def build_detector(config: Config, observe: Callable | None = None, group: Group | None = None) -> AnyDetector:
    """Build the detector of a config, its weights drawn from the config's seed.

    `observe` sees every assignment as the losses do; `group` holds the processes of a run.
    """
    from utils.distributed import Group

    return family_of(config.model).build(config, observe, group or Group())
