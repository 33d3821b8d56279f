"""Box losses, GGIoU and target assignment for object detectors, as plain functions of xyxy boxes; needs torch alone.

Boxes are in pixels: scale normalised ones first, since against areas far below 1 an epsilon counts.
`from alignyolo import sca, ggiou, match_boxes`. Names are loaded when they are first asked for, so that
`alignyolo.registry` can list what there is without importing torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignyolo.anchors import Anchors, DenseAnchors, build_anchors
    from alignyolo.assign.assignment import Assignment, Context, Predictions
    from alignyolo.assign.dense import BACKGROUND, IGNORED, DenseThreshold, match_boxes
    from alignyolo.balance import Balance, balanced_weight
    from alignyolo.gaussian_iou import ggiou, log_ggiou
    from alignyolo.registry import ASSIGNERS, DENSE_ASSIGNERS, SIMILARITIES, Entry
    from alignyolo.similarities.bound import Similarity, similarity
    from alignyolo.similarities.iou import center, ciou, diou, giou, iou
    from alignyolo.similarities.sca import cd, iou_cd, sca, so
    from alignyolo.targets import Targets

__version__ = "0.2.0"

_PLACES = {
    "alignyolo.anchors": ("Anchors", "DenseAnchors", "build_anchors"),
    "alignyolo.assign.assignment": ("Assignment", "Context", "Predictions"),
    "alignyolo.assign.dense": ("BACKGROUND", "IGNORED", "DenseThreshold", "match_boxes"),
    "alignyolo.balance": ("Balance", "balanced_weight"),
    "alignyolo.gaussian_iou": ("ggiou", "log_ggiou"),
    "alignyolo.registry": ("ASSIGNERS", "DENSE_ASSIGNERS", "SIMILARITIES", "Entry"),
    "alignyolo.similarities.bound": ("Similarity", "similarity"),
    "alignyolo.similarities.iou": ("center", "ciou", "diou", "giou", "iou"),
    "alignyolo.similarities.sca": ("cd", "iou_cd", "sca", "so"),
    "alignyolo.targets": ("Targets",),
}
_PLACE_OF = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "ASSIGNERS",
    "BACKGROUND",
    "DENSE_ASSIGNERS",
    "IGNORED",
    "SIMILARITIES",
    "Anchors",
    "Assignment",
    "Balance",
    "Context",
    "DenseAnchors",
    "DenseThreshold",
    "Entry",
    "Predictions",
    "Similarity",
    "Targets",
    "__version__",
    "balanced_weight",
    "build_anchors",
    "cd",
    "center",
    "ciou",
    "diou",
    "ggiou",
    "giou",
    "iou",
    "iou_cd",
    "log_ggiou",
    "match_boxes",
    "sca",
    "similarity",
    "so",
]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that holds it; AttributeError for any other."""
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'alignyolo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACE_OF[name]), name)
    globals()[name] = value  # asked for once
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
