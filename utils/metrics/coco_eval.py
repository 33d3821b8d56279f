"""COCO's and LVIS's precision and recall, and TIDE's errors, by hotcoco: the one place that knows its API."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import hotcoco
import numpy as np
from numpy.typing import NDArray

from utils.metrics.truths import Truths, to_xywh

MAX_DETECTIONS = 100  # per image and class, as COCO counts
MAX_DETECTIONS_LVIS = 300  # per image, as LVIS counts
COCO_IOUS = np.linspace(0.5, 0.95, 10)
ERROR_KINDS = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}
IN_NO_RANGE = -1.0  # an area below all ranges
# Long over short side; as COCO's areas, both limits belong to a bin: an object of exactly 2 counts in two of them.
RATIO_BINS = {"ratio_below_2": (0, 2), "ratio_2_to_4": (2, 4), "ratio_from_4": (4, 1e10)}
SIZE_BINS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # areas in square pixels


class Boxes(NamedTuple):
    """Boxes of a data set: image (K,), boxes (K, 4) xyxy original pixels, labels (K,), scores (K,)."""

    image: NDArray
    boxes: NDArray
    labels: NDArray
    scores: NDArray

    def take(self, rows: NDArray) -> "Boxes":
        """Return the chosen rows (a mask or indices); a mask that takes all of them copies nothing."""
        return self if rows.dtype == bool and rows.all() else Boxes(*(part[rows] for part in self))


class Errors(NamedTuple):
    """What each of TIDE's kinds of error costs in AP50, as fractions (NaN without truths), and how many there are."""

    lost: dict[str, float]
    counts: dict[str, int]


def measured_classes(truths: Truths, num_classes: int) -> NDArray:
    """Return the classes (P,) to measure: those with truths, which of thousands may be few; all where that is one.

    Where one is all there is, numpy adds up in another order than for several.
    """
    classes = np.unique(truths.labels)
    return classes if len(classes) > 1 else np.arange(num_classes)


def coco_precision_recall(
    truths: Truths, detections: Boxes, classes: NDArray, ious: Sequence[float] = tuple(COCO_IOUS)
) -> tuple[NDArray, NDArray]:
    """Return precision (K IoUs, 101 recalls, P, 4 areas) and final recall (K IoUs, P, 4 areas); NaN without truths.

    `classes` (P,) rise, and are all that have truths or more.
    """
    precision = np.full((len(ious), 101, len(classes), 4), np.nan)
    recall = np.full((len(ious), len(classes), 4), np.nan)
    known = np.unique(truths.labels)
    if not len(known):
        return precision, recall
    evaluation = _evaluation(truths, detections, known)
    evaluation.params.iou_thrs = list(map(float, ious))
    found, rows = _accumulated(evaluation), np.searchsorted(classes, known)
    precision[:, :, rows], recall[:, rows] = _defined(found["precision"][..., 0]), _defined(found["recall"][..., 0])
    return precision, recall


def precision_by_ratio(
    truths: Truths, detections: Boxes, classes: NDArray, limits: Sequence[tuple[float, float]]
) -> NDArray:
    """Return precision (10 IoUs, 101 recalls, P, len(limits)) of objects with these side ratios, long over short.

    COCO's own rule for sizes: truths outside the limits are ignored, and so are unmatched detections outside them.
    `classes` (P,) rise, and are all that have truths or more.
    """
    precision = np.full((10, 101, len(classes), len(limits)), np.nan)
    known = np.unique(truths.labels)
    if not len(known):
        return precision
    # The evaluator sorts boxes into ranges by their `area`, whatever that number means.
    own = replace(truths, area=side_ratios(truths.xywh))
    evaluation = _evaluation(own, detections, known, side_ratios(to_xywh(detections.boxes)))
    evaluation.params.area_rng = [list(map(float, each)) for each in limits]
    evaluation.params.area_rng_lbl = [str(number) for number in range(len(limits))]
    precision[:, :, np.searchsorted(classes, known)] = _defined(_accumulated(evaluation)["precision"][..., 0])
    return precision


def _defined(values: NDArray) -> NDArray:
    """Return the evaluator's values with NaN where it writes -1: where there are no truths."""
    return np.where(values < 0, np.nan, values)


def tide_errors(truths: Boxes, detections: Boxes, num_classes: int) -> Errors:
    """Tell what false alarms and misses cost in AP50 by their kind, over truths and detections that all count.

    The kinds are TIDE's (Bolya et al. 2020, section 2.2), at IoU .5 and, where background begins, .1. A cost is what
    AP50, the mean over classes with truths, would gain if every error of the kind were mended. Misses are mended by
    leaving the truth out; a class of which nothing was found keeps its AP of 0 then, so that it costs nothing.
    """
    if not len(truths.labels):
        counts = dict.fromkeys(ERROR_KINDS.values(), 0) | {"background": len(detections.labels)}
        return Errors(dict.fromkeys(ERROR_KINDS.values(), float("nan")), counts)
    images = 1 + max(truths.image.max(), detections.image.max(initial=0))
    truth_set = hotcoco.COCO.from_arrays(
        [{"id": number} for number in range(images)],
        [{"id": number, "name": str(number)} for number in range(num_classes)],
        truths.image,
        truths.labels,
        to_xywh(truths.boxes),
    )
    evaluation = hotcoco.COCOeval(truth_set, truth_set.load_res(_result_rows(detections.image, detections)), "bbox")
    evaluation.params.iou_thrs = [0.5]
    evaluation.params.max_dets = [MAX_DETECTIONS_LVIS]
    evaluation.params.area_rng, evaluation.params.area_rng_lbl = [[0.0, 1e10]], ["all"]
    evaluation.evaluate()
    found = evaluation.tide_errors(pos_thr=0.5, bg_thr=0.1)
    return Errors(
        {name: float(found["delta_ap"][kind]) for kind, name in ERROR_KINDS.items()},
        {name: int(found["counts"][kind]) for kind, name in ERROR_KINDS.items()},
    )


def side_ratios(xywh: NDArray) -> NDArray:
    """Return long over short side (K,) of boxes (K, 4), at most what the last bin takes: a side may be 0."""
    sides = np.maximum(xywh[:, 2:], 1e-9)
    return np.minimum(sides.max(1, initial=0) / sides.min(1, initial=np.inf), RATIO_BINS["ratio_from_4"][1])


def labels_by_group(truths: Truths, num_classes: int) -> dict[str, NDArray]:
    """Count the objects of every class (C,) in each of SIZE_BINS and RATIO_BINS; one on a limit is in both groups.

    Crowds and difficult objects are not counted, as nothing has to find them.
    """
    kept = ~truths.ignored
    counts = {}
    for values, bins in ((truths.area, SIZE_BINS), (side_ratios(truths.xywh), RATIO_BINS)):
        for name, (low, high) in bins.items():
            inside = kept & (values >= low) & (values <= high)
            counts[name] = np.bincount(truths.labels[inside], minlength=num_classes)
    return counts


def counted_detections(detections: Boxes, truths: Truths) -> Boxes:
    """Keep what COCO counts: the 100 best scores of each image and class; LVIS: the 300 best of each image, of classes
    that are known to be present or absent there. Of equal scores the earlier ones, in the order given.
    """
    if truths.federated is None:
        groups = detections.image * (1 + detections.labels.max(initial=0)) + detections.labels
        return detections.take(_best_rows(detections, groups, MAX_DETECTIONS))
    best = detections.take(_best_rows(detections, detections.image, MAX_DETECTIONS_LVIS))
    known = np.concatenate([np.column_stack([truths.image, truths.labels]), truths.federated.absent])
    return best.take(among(best, known))


def among(boxes: Boxes, pairs: NDArray) -> NDArray:
    """Return which boxes (K,) stand in one of the pairs (P, 2) of image and label."""
    step = 1 + max(boxes.labels.max(initial=0), pairs[:, 1].max(initial=0))
    return np.isin(boxes.image * step + boxes.labels, pairs[:, 0] * step + pairs[:, 1])


def _best_rows(boxes: Boxes, groups: NDArray, limit: int) -> NDArray:
    """Return a mask of the `limit` highest scores of each group (K,); of equal scores the earlier rows."""
    kept = np.ones(len(groups), bool)
    # Few groups have too many, and only those need sorting. Counted in a table where that is not much larger.
    if groups.max(initial=0) < 4 * max(len(groups), 1 << 16):
        rows = np.flatnonzero((np.bincount(groups) > limit)[groups]) if len(groups) else np.zeros(0, int)
    else:
        values, counts = np.unique(groups, return_counts=True)
        rows = np.flatnonzero(np.isin(groups, values[counts > limit]))
    order = rows[np.lexsort((-boxes.scores[rows], groups[rows]))]
    opens = np.diff(groups[order], prepend=-1) != 0
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(opens, position, 0))
    kept[order[rank >= limit]] = False
    return kept


def _evaluation(
    truths: Truths, detections: Boxes, classes: NDArray, detection_area: NDArray | None = None
) -> hotcoco.COCOeval:
    """Return the evaluator of the detections of these classes, their area as given or that of their boxes.

    Images are numbered in the order of their ids, which decides between equal scores.
    """
    number = np.empty(len(truths.image_ids), np.int64)
    number[np.argsort(truths.image_ids, kind="stable")] = np.arange(len(number))
    kept = np.isin(detections.labels, classes)
    detections = detections.take(kept)
    rows = _with_difficult_repeated(truths, detections)
    truth_set = hotcoco.COCO.from_arrays(
        _images(truths, number),
        _categories(truths, classes),
        number[truths.image[rows]],
        truths.labels[rows],
        truths.xywh[rows],
        area=np.where(truths.difficult, IN_NO_RANGE, truths.area)[rows],
        iscrowd=truths.crowd[rows],
    )
    detection_set = truth_set.load_res(_result_rows(number[detections.image], detections))
    if detection_area is not None and len(detections.labels):
        detection_set.update_anns(ids=np.arange(1, 1 + len(detections.labels)), area=detection_area[kept])
    federated = truths.federated is not None
    evaluation = hotcoco.COCOeval(truth_set, detection_set, "bbox", lvis_style=federated)
    evaluation.params.max_dets = [MAX_DETECTIONS_LVIS if federated else MAX_DETECTIONS]
    return evaluation


def _accumulated(evaluation: hotcoco.COCOeval) -> dict[str, NDArray]:
    """Return the evaluator's arrays; it writes -1 where there are no truths."""
    evaluation.evaluate()
    evaluation.accumulate()
    found: dict[str, NDArray] | None = evaluation.eval
    assert found is not None
    return found


def _with_difficult_repeated(truths: Truths, detections: Boxes) -> NDArray:
    """Return the rows of the truths, those of difficult objects as often as detections could find them.

    VOC's rule is that a difficult object counts neither as found nor as missed, however many detections find it. What
    lies in no range of areas is neither, but once each: so there is one for each detection of its image and class.
    """
    rows = np.arange(len(truths.labels))
    if not truths.difficult.any():
        return rows
    step = 1 + max(truths.labels.max(initial=0), detections.labels.max(initial=0))
    pairs, count = np.unique(detections.image * step + detections.labels, return_counts=True)
    wanted = truths.image * step + truths.labels
    place = np.searchsorted(pairs, wanted).clip(max=max(len(pairs) - 1, 0))
    there = count[place] * (pairs[place] == wanted) if len(pairs) else np.zeros(len(rows), np.int64)
    return np.repeat(rows, np.where(truths.difficult, there, 1))


def _images(truths: Truths, number: NDArray) -> list[dict]:
    """Return the images, with what LVIS knows about them."""
    images: list[dict] = [{"id": each} for each in number.tolist()]
    if truths.federated is not None:
        for key, pairs in (
            ("neg_category_ids", truths.federated.absent),
            ("not_exhaustive_category_ids", truths.federated.not_exhaustive),
        ):
            for image in images:
                image[key] = []
            for row, label in pairs.tolist():
                images[row][key].append(label)
    return images


def _categories(truths: Truths, classes: NDArray) -> list[dict]:
    """Return the categories, with LVIS's frequency."""
    categories: list[dict] = [{"id": label, "name": str(label)} for label in classes.tolist()]
    if truths.federated is not None:
        for category in categories:
            category["frequency"] = truths.federated.frequency[category["id"]]
    return categories


def _result_rows(image: NDArray, detections: Boxes) -> NDArray:
    """Return COCO results as rows (K, 7): image, left, top, width, height, score, category."""
    rows = np.empty((len(image), 7))
    rows[:, 0], rows[:, 5], rows[:, 6] = image, detections.scores, detections.labels
    rows[:, 1:3] = detections.boxes[:, :2]
    np.subtract(detections.boxes[:, 2:], detections.boxes[:, :2], out=rows[:, 3:5])
    return rows
