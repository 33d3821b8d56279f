"""Why AP50 is 0: what was found against what was there, in a few lines instead of a row of zeros."""

import numpy as np
from numpy.typing import NDArray

from utils.metrics.coco_metrics import MATCH_IOU, CocoMetrics, pairwise_best_iou

ENOUGH_CONFIDENCE = 0.01


def diagnose(collected: CocoMetrics, precision: str) -> str:
    """Return what can be said of a validation whose AP50 is 0.

    `precision` names the number format it was computed in.
    """
    found, truths = collected.detections(), collected.truths
    finite = np.isfinite(found.boxes).all(1) & np.isfinite(found.scores)
    broken, found = int(np.count_nonzero(~finite)), found.take(finite)
    best, best_any = (
        pairwise_best_iou(found, truths, collected.num_classes if same_class else 0) for same_class in (True, False)
    )
    facts = [f"{len(truths.labels)} labels", f"{len(found.labels)} detections", f"precision {precision}"]
    if broken:
        facts.append(f"{broken} detections not finite")
    if len(found.labels):
        facts.append(f"highest confidence {found.scores.max():.4f}")
        facts.append(f"best IoU with a label of its class {_best(best):.3f}, of any class {_best(best_any):.3f}")
    cause = _cause(len(truths.labels), found, _best(best), _best(best_any), broken)
    measured = "AP50 is 0" if len(truths.labels) else "AP is undefined"
    return f"{measured}: {'; '.join(facts)}\n  {cause}"


def _best(ious: NDArray) -> float:
    return float(ious.max(initial=0))


def _cause(labels: int, found, best: float, best_any: float, broken: int) -> str:
    """Return the likeliest cause, in one line."""
    if not labels:
        return "there is nothing to find: the split has no labels, so every detection is a false alarm"
    if not len(found.labels):
        return (
            "boxes or scores are NaN: the weights are broken, or the precision is too low"
            if broken
            else "no score passed the confidence threshold: not trained yet, or the wrong weights"
        )
    if best < MATCH_IOU <= best_any:
        return "boxes match, classes do not: compare the order of the class names with that of the training"
    if best >= MATCH_IOU:
        return "some boxes match, but they stand so far below false alarms, or are so few, that no precision is left"
    if found.scores.max() < ENOUGH_CONFIDENCE:
        return "no box matches and no score is above .01: not trained yet, or another image size than in training"
    return "boxes are confident but in the wrong places: check that the labels belong to these images"
