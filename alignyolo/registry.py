"""Which box losses and assigners there are, by name, without importing torch.

An entry says where its code is, which keys of the configuration it reads, and what it asks for besides boxes. A new
box loss or assigner is one file and one line here: names, flags, checks and the tests that try every entry follow.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Entry:
    """Say of one choice where its code is and what it reads.

    `place` is "module:name" of a function or class. `keys` maps its keywords to the configuration keys they come from;
    `fixed` are keywords that the choice itself sets. `needs` names what a similarity is handed besides two boxes
    (`image_size`, `over_ranks`, `training`: see alignyolo/similarities/bound.py).
    """

    place: str
    meaning: str
    keys: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    paper: str = ""

    def load(self) -> Any:
        """Import and return the function or class."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(module), name)

    def bind(self, **settings: Any) -> Any:
        """Call the function or class with the entry's own keywords and the given settings."""
        return self.load()(**{**self.fixed, **settings})

    def settings(self, config: Any) -> dict[str, Any]:
        """Return the keywords with the values that an object with the configuration's keys has for them."""
        return {keyword: getattr(config, key) for keyword, key in self.keys.items()}


_IOU, _SCA = "alignyolo.similarities.iou", "alignyolo.similarities.sca"
_ALPHA, _CORNER = {"alpha": "sca_alpha"}, {"corner": "sca_corner"}

SIMILARITIES: dict[str, Entry] = {
    "iou": Entry(f"{_IOU}:iou", "intersection over union"),
    "giou": Entry(f"{_IOU}:giou", "IoU less the empty share of the enclosing box", paper="Rezatofighi et al. 2019"),
    "diou": Entry(f"{_IOU}:diou", "IoU less the distance of the centres", paper="Zheng et al. 2020"),
    "ciou": Entry(f"{_IOU}:ciou", "DIoU less the difference of the aspect ratios", paper="Zheng et al. 2020"),
    "sca": Entry(
        f"{_SCA}:sca", "overlap of the sides less the distance of two corners", {**_ALPHA, **_CORNER}, paper="SCALoss"
    ),
    "so": Entry(f"{_SCA}:so", "overlap of the sides alone", paper="SCALoss, Table 6 f"),
    "cd": Entry(f"{_SCA}:cd", "distance of two corners alone", _CORNER, paper="SCALoss, Table 6 b"),
    "center": Entry(f"{_IOU}:center", "distance of the centres alone", paper="SCALoss, Table 6 a"),
    "iou_cd": Entry(
        f"{_SCA}:iou_cd", "IoU less the distance of two corners", {**_ALPHA, **_CORNER}, paper="SCALoss, Table 6 e"
    ),
}
"""Box losses, as similarities: the loss is 1 - similarity."""

_THRESHOLDS = {"positive": "assign_positive", "negative": "assign_negative"}
_GAUSSIAN = {"alpha": "ggiou_alpha", "beta": "ggiou_beta", "sigma": "ggiou_sigma"}
_LEAST = {"min_positives": "min_positives"}

METRICS: dict[str, Entry] = {
    "iou": Entry("alignyolo.gaussian_iou:ggiou", "intersection over union", fixed={"alpha": 0.0}),
    "ggiou": Entry("alignyolo.gaussian_iou:ggiou", "Gaussian guided IoU", _GAUSSIAN, paper="GGIoU, Eq. 4"),
}
"""Metrics that weigh a pair of boxes without a gradient."""

ASSIGNERS: dict[str, Entry] = {
    "anchor_ratio": Entry(
        "alignyolo.assign.anchor_ratio:AnchorRatio",
        "anchors of similar sides, in the object's cell and its nearest neighbour per axis",
        {"anchor_t": "anchor_t"},
        paper="ultralytics/yolov3",
    ),
    "best_anchor": Entry(
        "alignyolo.assign.best_anchor:BestAnchor",
        "the one anchor of the best shape, in the object's cell",
        {"ignore_iou": "ignore_iou"},
        paper="Redmon and Farhadi 2018",
    ),
    "iou": Entry(
        "alignyolo.assign.yolo_head:MetricThreshold",
        "anchors of an IoU above a threshold",
        {**_THRESHOLDS, **_LEAST},
        fixed={"alpha": 0.0},
    ),
    "ggiou": Entry(
        "alignyolo.assign.yolo_head:MetricThreshold",
        "anchors of a GGIoU above a threshold",
        {**_THRESHOLDS, **_LEAST, **_GAUSSIAN},
        paper="GGIoU",
    ),
}
"""Assigners of YOLOv3's heads, which cannot reach every box from every anchor."""

DENSE_ASSIGNERS: dict[str, Entry] = {
    "iou": Entry(
        "alignyolo.assign.dense:DenseThreshold",
        "anchors of an IoU above a threshold",
        _THRESHOLDS,
        fixed={"metric": "iou"},
    ),
    "ggiou": Entry(
        "alignyolo.assign.dense:DenseThreshold",
        "anchors of a GGIoU above a threshold",
        {**_THRESHOLDS, **_GAUSSIAN},
        fixed={"metric": "ggiou"},
        paper="GGIoU",
    ),
}
"""Assigners of detectors whose anchors reach any box (RetinaNet, SSD, both stages of Faster R-CNN)."""
