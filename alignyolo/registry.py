"""Which box losses and assigners there are, by name, without importing torch.

An entry says where its code is, which keys of the configuration it reads, and what it asks for besides boxes. A new
box loss or assigner is one file and one line here: names, flags, checks and the tests that try every entry follow.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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


_HERE = "alignyolo.similarities"
_IOU, _SCA, _ALPHA_IOU, _PENALTIES = f"{_HERE}.iou", f"{_HERE}.sca", f"{_HERE}.alpha_iou", f"{_HERE}.penalties"
_ALPHA, _CORNER = {"alpha": "sca_alpha"}, {"corner": "sca_corner"}
_POWER, _WISE = (
    {"power": "alpha_iou_power"},
    {"alpha": "wiou_alpha", "delta": "wiou_delta", "momentum": "wiou_momentum"},
)

BASE_SIMILARITIES: dict[str, Entry] = {
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
    "eiou": Entry(f"{_PENALTIES}.eiou:eiou", "DIoU less the differences of the sides", paper="Zhang et al. 2021"),
    "focal_eiou": Entry(
        f"{_PENALTIES}.eiou:focal_eiou",
        "EIoU's loss weighted by a power of IoU",
        {"gamma": "focal_eiou_gamma"},
        paper="Zhang et al. 2021",
    ),
    "siou": Entry(f"{_PENALTIES}.siou:siou", "IoU less a distance with an angle, and shape", paper="Gevorgyan 2022"),
    "alpha_iou": Entry(f"{_ALPHA_IOU}:alpha_iou", "a power of IoU", _POWER, paper="He et al. 2021"),
    "alpha_giou": Entry(f"{_ALPHA_IOU}:alpha_giou", "GIoU, each term to a power", _POWER, paper="He et al. 2021"),
    "alpha_diou": Entry(f"{_ALPHA_IOU}:alpha_diou", "DIoU, each term to a power", _POWER, paper="He et al. 2021"),
    "alpha_ciou": Entry(f"{_ALPHA_IOU}:alpha_ciou", "CIoU, each term to a power", _POWER, paper="He et al. 2021"),
    "wiou_v1": Entry(f"{_HERE}.wiou:wiou_v1", "IoU's loss times the centres' distance", paper="Tong et al. 2023"),
    "wiou_v3": Entry(
        f"{_HERE}.wiou:WiseIoU",
        "WIoU v1 with less weight on boxes far better or worse than the mean so far",
        _WISE,
        needs=("over_ranks", "training"),
        paper="Tong et al. 2023",
    ),
    "mpdiou": Entry(
        f"{_PENALTIES}.mpdiou:mpdiou",
        "IoU less the distances of two corners over the image's diagonal",
        needs=("image_size",),
        paper="Ma and Xu 2023",
    ),
    "shape_iou": Entry(
        f"{_PENALTIES}.shape_iou:shape_iou",
        "IoU less distances weighted by the object's shape",
        {"scale": "shape_iou_scale"},
        paper="Zhang and Zhang 2023",
    ),
    "piou": Entry(f"{_HERE}.piou:piou", "IoU with a penalty by the object's sides alone", paper="Liu et al. 2024"),
    "piou_v2": Entry(
        f"{_HERE}.piou:piou_v2", "PIoU's loss, most on boxes of medium quality", {"sharpness": "piou_sharpness"}
    ),
    "nwd": Entry(
        f"{_HERE}.nwd:nwd",
        "distance of the boxes as Gaussians, in pixels: for tiny objects",
        {"constant": "nwd_constant"},
        paper="Wang et al. 2021",
    ),
    "bounded_iou": Entry(
        f"{_PENALTIES}.bounded_iou:bounded_iou",
        "the IoU that each coordinate alone allows",
        paper="Tychsen-Smith and Petersson 2018",
    ),
    "interpiou": Entry(
        f"{_HERE}.interpiou:interpiou",
        "IoU, and that of a box between prediction and object",
        {"alpha": "interpiou_alpha"},
        paper="arXiv 2507.12420",
    ),
}
"""Box losses, as similarities: the loss is 1 - similarity."""

WRAPPERS: dict[str, Entry] = {
    "inner": Entry(
        f"{_HERE}.replaced_iou:Inner",
        "IoU of both boxes scaled about their centres takes the place of IoU",
        {"ratio": "inner_ratio"},
        paper="Zhang et al. 2023",
    ),
    "focaler": Entry(
        f"{_HERE}.replaced_iou:Focaler",
        "IoU stretched between two limits takes the place of IoU",
        {"low": "focaler_low", "high": "focaler_high"},
        paper="Zhang and Zhang 2024",
    ),
}
"""What a name such as `inner_sca` or `focaler_ciou` puts in the place of IoU: any of them before any similarity."""


def _over(wrapper: Entry, name: str, base: Entry) -> Entry:
    keys, fixed = {**base.keys, **wrapper.keys}, {**base.fixed, "over": name}
    return Entry(wrapper.place, f"{name}: {wrapper.meaning}", keys, fixed, base.needs, wrapper.paper)


SIMILARITIES: dict[str, Entry] = BASE_SIMILARITIES | {
    f"{prefix}_{name}": _over(wrapper, name, base)
    for prefix, wrapper in WRAPPERS.items()
    for name, base in BASE_SIMILARITIES.items()
}
"""Every box loss by the name that `--loss` takes: the above, and each with `inner_` or `focaler_` before it."""

_THRESHOLDS = {"positive": "assign_positive", "negative": "assign_negative"}
_GAUSSIAN = {"alpha": "ggiou_alpha", "beta": "ggiou_beta", "sigma": "ggiou_sigma"}
_LEAST = {"min_positives": "min_positives"}

_SERVE = {"serve": "serve_unmatched"}
_ATSS = {"topk": "atss_topk", **_SERVE}
_SIMOTA = {"radius": "simota_radius", "topk": "simota_topk", "iou_weight": "simota_iou_weight", **_SERVE}
_TAL = {"topk": "tal_topk", "alpha": "tal_alpha", "beta": "tal_beta", "enlarge": "tal_enlarge", **_SERVE}
_DYNAMIC = "alignyolo.assign.dynamic"

METRICS: dict[str, Entry] = {
    "iou": Entry("alignyolo.gaussian_iou:ggiou", "intersection over union", fixed={"alpha": 0.0}),
    "ggiou": Entry("alignyolo.gaussian_iou:ggiou", "Gaussian guided IoU", _GAUSSIAN, paper="GGIoU, Eq. 4"),
}
"""Metrics that weigh a pair of boxes without a gradient."""

DYNAMIC_ASSIGNERS: dict[str, Entry] = {
    "atss": Entry(
        f"{_DYNAMIC}.atss:ATSS", "near anchors above mean + deviation of IoU", _ATSS, paper="Zhang et al. 2020"
    ),
    "atss_ggiou": Entry(f"{_DYNAMIC}.atss:ATSS", "ATSS with GGIoU for IoU", {**_ATSS, **_GAUSSIAN}, {"alpha": 0.3}),
    "simota": Entry(
        f"{_DYNAMIC}.simota:SimOTA", "the cheapest anchors by class and box", _SIMOTA, paper="Ge et al. 2021"
    ),
    "tal": Entry(
        f"{_DYNAMIC}.tal:TaskAligned", "anchors predicted best, by class and CIoU", _TAL, paper="Feng et al. 2021"
    ),
    "tal_ggiou": Entry(
        f"{_DYNAMIC}.tal:TaskAligned",
        "TAL with GGIoU for CIoU",
        {**_TAL, **{f"gaussian_{keyword}": key for keyword, key in _GAUSSIAN.items()}},
        fixed={"overlap": "ggiou"},
    ),
}
"""Assigners for any anchors on levels; a YOLO head tells them its reach."""

_IN_REACH = {"reach": 0.5}

ASSIGNERS: dict[str, Entry] = {
    "anchor_ratio": Entry(
        "alignyolo.assign.anchor_ratio:AnchorRatio",
        "anchors of similar sides, in the object's cell and the nearest in x and y",
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
    **{name: replace(entry, fixed={**entry.fixed, **_IN_REACH}) for name, entry in DYNAMIC_ASSIGNERS.items()},
}
"""Assigners of YOLOv3's heads, which cannot reach every box from every anchor."""

PROPOSAL_ASSIGNERS: dict[str, Entry] = {
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
"""Assigners of any boxes, on levels or not: proposals, and both stages of Faster R-CNN."""

DENSE_ASSIGNERS: dict[str, Entry] = PROPOSAL_ASSIGNERS | DYNAMIC_ASSIGNERS
"""Assigners of detectors whose anchors reach any box (RetinaNet, SSD)."""
