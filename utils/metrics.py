"""COCO's metrics on any data set, by faster-coco-eval; precision, recall and F1 at the best confidence."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import ArrayLike, NDArray

from utils.errors import printable

IOU_COLUMNS = ("ap50", "ap55", "ap60", "ap65", "ap70", "ap75", "ap80", "ap85", "ap90", "ap95")
AREA_COLUMNS = ("ap_small", "ap_medium", "ap_large")
COLUMNS = ("ap", *IOU_COLUMNS, *AREA_COLUMNS, "ar", "precision", "recall", "f1")
MAX_DETECTIONS = 100  # per image and class, as COCO counts
MATCH_IOU = 0.5  # for precision, recall, F1 and the confusion matrix
CURVE_CONFIDENCES = np.linspace(0, 1, 1001)
TABLE_HEADS = ("AP", "50", "55", "60", "65", "70", "75", "80", "85", "90", "95", "S", "M", "L", "AR", "P", "R", "F1")


class Boxes(NamedTuple):
    """Boxes of a data set: image (K,), boxes (K, 4) xyxy original pixels, labels (K,), scores (K,)."""

    image: NDArray
    boxes: NDArray
    labels: NDArray
    scores: NDArray

    def take(self, rows: NDArray) -> "Boxes":
        """The chosen rows (a mask or indices)."""
        return Boxes(*(part[rows] for part in self))


class Curves(NamedTuple):
    """Precision (C, 101) over recall (101,) at IoU .5 and f1 (C, S) over confidence (S,); NaN without labels."""

    recall: NDArray
    precision: NDArray
    confidence: NDArray
    f1: NDArray


@dataclass(frozen=True, eq=False)
class Metrics:
    """COCO's metrics as fractions, NaN where undefined, overall (mean over classes with labels) and per class.

    `confidence` is where the mean F1 is best (None without detections). `confusion` (C + 1, C + 1), predicted x true,
    counts at that confidence: in the last row missed labels, in the last column false alarms.
    """

    overall: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confidence: float | None
    counts: dict[str, int]
    curves: Curves
    confusion: NDArray

    def to_json(self) -> dict:
        """Plain types only, with None where undefined; the overall columns are at the top."""
        per_class = {name: _plain(values) for name, values in self.per_class.items()}
        return {**_plain(self.overall), "confidence": self.confidence, "counts": self.counts, "per_class": per_class}

    def rows(self) -> list[dict]:
        """One row for all classes and one per class, for a CSV file; None where undefined."""
        overall = {"class": "all", "labels": self.counts["labels"], **self.overall}
        return [_plain(row) for row in (overall, *({"class": name, **row} for name, row in self.per_class.items()))]

    def table(self, per_class: bool = True) -> str:
        """A text table in percent of at most 120 columns, with the overall row last."""
        lines = [_table_line("class", "labels", TABLE_HEADS)]
        if per_class:
            lines += [_table_line(name, row["labels"], _percents(row)) for name, row in self.per_class.items()]
        lines.append(_table_line("all", self.counts["labels"], _percents(self.overall)))
        where = "no detections" if self.confidence is None else f"P, R, F1 at confidence {self.confidence:.3f}"
        classes = f"{self.counts['classes_with_labels']} of {self.counts['classes']} classes with labels"
        lines.append(f"percent; mean over {classes}; {where}")
        return "\n".join(lines)


class CocoMetrics:
    """Collects the detections of a data set image by image and scores them against its truths."""

    def __init__(self, sizes: ArrayLike, starts: ArrayLike, boxes: ArrayLike, labels: ArrayLike, names: Sequence[str]):
        """Takes the truths: sizes (N, 2); boxes (M, 4) xyxy original pixels and labels (M,).

        Those of image i stand from starts[i] to starts[i + 1].
        """
        self.num_images = len(sizes)
        self.names = _unique(names)
        image = np.repeat(np.arange(self.num_images), np.diff(np.asarray(starts)))
        self.truths = Boxes(image, _float64(boxes).reshape(-1, 4), _int64(labels), np.ones(len(image)))
        if not len(image) == len(self.truths.boxes) == len(self.truths.labels):
            raise ValueError("starts, boxes and labels of the truths disagree in length")
        self._parts: dict[int, Boxes] = {}

    def add(self, image: int, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> None:
        """Adds an image's detections, once: boxes (K, 4) xyxy original pixels, scores (K,), labels (K,)."""
        part = Boxes(np.full(len(labels), image), _float64(boxes).reshape(-1, 4), _int64(labels), _float64(scores))
        if image in self._parts or not 0 <= image < self.num_images:
            raise ValueError(f"image {image} was added before or is not one of {self.num_images}")
        if not len(part.boxes) == len(part.scores) == len(part.labels):
            raise ValueError(f"image {image}: boxes, scores and labels disagree in length")
        if len(part.labels) and not 0 <= part.labels.min() <= part.labels.max() < len(self.names):
            raise ValueError(f"image {image}: labels must be 0 to {len(self.names) - 1}")
        self._parts[image] = part

    def take_over(self, others: Sequence["CocoMetrics"]) -> None:
        """Adds what other processes have collected of the same data set; an image that is here already stays."""
        for other in others:
            self._parts = {**other._parts, **self._parts}

    def compute(self) -> Metrics:
        """Scores what was added so far; images without an `add` count as images without detections."""
        added = self._detections()
        finite = np.isfinite(added.boxes).all(1) & np.isfinite(added.scores)
        detections = _best_per_image_and_class(added.take(finite))
        num_classes = len(self.names)
        labels = np.bincount(self.truths.labels, minlength=num_classes)

        precision, recall = coco_precision_recall(self.num_images, self.truths, detections, num_classes)
        matched = match_same_class(detections, self.truths, num_classes)
        point = best_operating_point(detections, matched >= 0, labels)
        values = np.column_stack([_average_precisions(precision), recall[..., 0].mean(0), *point[1:]])
        per_class = {
            name: {"labels": int(count), **dict(zip(COLUMNS, row.tolist(), strict=True))}
            for name, count, row in zip(self.names, labels, values, strict=True)
        }
        return Metrics(
            overall=dict(zip(COLUMNS, _mean_of_defined(values).tolist(), strict=True)),
            per_class=per_class,
            confidence=point.confidence,
            counts={
                "images": self.num_images,
                "labels": len(self.truths.labels),
                "detections": len(added.scores),
                "non_finite_detections": int(np.count_nonzero(~finite)),
                "classes": num_classes,
                "classes_with_labels": int(np.count_nonzero(labels)),
            },
            curves=_curves(precision, detections, matched >= 0, labels),
            confusion=confusion_matrix(detections, self.truths, matched, point.confidence, num_classes),
        )

    def _detections(self) -> Boxes:
        """All detections; their order matters only within an image, where it decides between equal scores."""
        if not self._parts:
            return Boxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
        return Boxes(*map(np.concatenate, zip(*self._parts.values(), strict=True)))


def coco_precision_recall(
    num_images: int, truths: Boxes, detections: Boxes, num_classes: int
) -> tuple[NDArray, NDArray]:
    """Precision (10 IoUs, 101 recalls, C, 4 areas) and final recall (10 IoUs, C, 4 areas); NaN without truths."""
    precision, recall = np.full((10, 101, num_classes, 4), np.nan), np.full((10, num_classes, 4), np.nan)
    classes = np.unique(truths.labels)
    if not len(classes):
        return precision, recall
    with _garbage_collection_paused():
        images, categories = [{"id": i} for i in range(num_images)], [{"id": i} for i in classes.tolist()]
        truth_set = COCO({"images": images, "categories": categories, "annotations": _annotations(truths)})
        relevant = detections.take(np.isin(detections.labels, classes))
        detection_set = COCO({"images": images, "categories": categories, "annotations": _annotations(relevant)})
        evaluation = COCOeval_faster(truth_set, detection_set, "bbox")
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision[:, :, classes] = evaluation.eval["precision"][..., 0]
    recall[:, classes] = evaluation.eval["recall"][..., 0]
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def match_boxes(boxes: NDArray, scores: NDArray, group: NDArray, truth_boxes: NDArray, truth_group: NDArray) -> NDArray:
    """COCO's greedy matching at IoU .5 within groups: (D, 4), (D,), (D,), (T, 4), (T,) -> (D,) truth index or -1.

    By falling score, each detection takes the free truth of its group with the largest IoU; of equal ones the last.
    """
    truth_order = np.argsort(truth_group, kind="stable")
    first = np.searchsorted(truth_group[truth_order], group, "left")
    count = np.searchsorted(truth_group[truth_order], group, "right") - first
    detection = np.repeat(np.arange(len(boxes)), count)
    step = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    truth = truth_order[np.repeat(first, count) + step]
    iou = _paired_iou(boxes[detection], truth_boxes[truth])
    near = iou >= MATCH_IOU
    detection, truth, iou = detection[near], truth[near], iou[near]

    matched, free = [-1] * len(boxes), [True] * len(truth_boxes)
    order = np.lexsort((-truth, -iou, detection, -scores[detection]))
    for one, other in zip(detection[order].tolist(), truth[order].tolist(), strict=True):
        if matched[one] < 0 and free[other]:
            matched[one], free[other] = other, False
    return np.asarray(matched, np.int64)


def match_same_class(detections: Boxes, truths: Boxes, num_classes: int) -> NDArray:
    """Matches within each image and class: (D,) truth index or -1."""
    group, truth_group = (part.image * num_classes + part.labels for part in (detections, truths))
    return match_boxes(detections.boxes, detections.scores, group, truths.boxes, truth_group)


class OperatingPoint(NamedTuple):
    """Precision, recall and F1 (C,) of the detections with at least this confidence; NaN for classes without labels."""

    confidence: float | None
    precision: NDArray
    recall: NDArray
    f1: NDArray


def best_operating_point(detections: Boxes, correct: NDArray, num_labels: NDArray) -> OperatingPoint:
    """The confidence with the best mean F1 over classes with labels: correct (D,) bool, num_labels (C,)."""
    has_labels = num_labels[detections.labels] > 0
    scores, labels, correct = detections.scores[has_labels], detections.labels[has_labels], correct[has_labels]
    if len(scores):
        confidence = _best_confidence(scores, labels, correct, num_labels)
        kept = scores >= confidence
    else:
        confidence, kept = None, np.zeros(0, bool)
    found = np.bincount(labels[kept], minlength=len(num_labels))
    right = np.bincount(labels[kept & correct], minlength=len(num_labels))
    with np.errstate(invalid="ignore"):
        recall = right / num_labels
        precision, f1 = (
            np.where(num_labels > 0, value, np.nan)
            for value in (right / np.maximum(found, 1), 2 * right / np.maximum(found + num_labels, 1))
        )
    return OperatingPoint(confidence, precision, recall, f1)


def _best_confidence(scores: NDArray, labels: NDArray, correct: NDArray, num_labels: NDArray) -> float:
    """The highest score at which the mean F1 of all detections down to it is largest.

    Each detection changes the F1 of its own class only, so the mean is a running sum of those changes.
    """
    order = np.lexsort((labels, -scores))
    by_class = order[np.argsort(labels[order], kind="stable")]
    f1 = _running_f1(labels[by_class], correct[by_class], num_labels)
    opens = np.diff(labels[by_class], prepend=-1) > 0
    change = np.empty(len(scores))
    change[by_class] = f1 - np.where(opens, 0, np.roll(f1, 1))
    mean_f1 = (np.cumsum(change[order]) / np.count_nonzero(num_labels)).round(12)  # rounded: equal sums must tie
    ends = np.append(np.diff(scores[order]) < 0, True)  # equal scores pass a threshold together
    return float(scores[order][ends][np.argmax(mean_f1[ends])])


def _running_f1(labels: NDArray, correct: NDArray, num_labels: NDArray) -> NDArray:
    """F1 of a class after each of its detections, which stand together by falling score: (D,), (D,), (C,) -> (D,)."""
    start = np.searchsorted(labels, labels)
    found = np.arange(len(labels)) - start + 1
    total = np.concatenate([[0], np.cumsum(correct)])
    right = total[1:] - total[start]
    return 2 * right / (found + num_labels[labels])


def confusion_matrix(
    detections: Boxes, truths: Boxes, matched: NDArray, confidence: float | None, num_classes: int
) -> NDArray:
    """Counts (C + 1, C + 1), predicted x true, from `confidence` on; last row missed, last column false alarms.

    Matches within a class (D,) come first, so the diagonal is what precision and recall count; what is left of
    detections and truths is then matched whatever the class.
    """
    kept = np.zeros(len(matched), bool) if confidence is None else detections.scores >= confidence
    truth_of = np.where(kept, matched, -1)
    rest = np.flatnonzero(kept & (truth_of < 0))
    missed = np.setdiff1d(np.arange(len(truths.labels)), truth_of)
    left, open_truths = detections.take(rest), truths.take(missed)
    again = match_boxes(left.boxes, left.scores, left.image, open_truths.boxes, open_truths.image)
    truth_of[rest[again >= 0]] = missed[again[again >= 0]]

    predicted, true = detections.labels[kept], np.append(truths.labels, num_classes)[truth_of[kept]]
    missed = truths.labels[np.setdiff1d(np.arange(len(truths.labels)), truth_of)]
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(confusion, (predicted, true), 1)
    np.add.at(confusion, (num_classes, missed), 1)
    return confusion


def _best_per_image_and_class(detections: Boxes) -> Boxes:
    """The 100 highest scores of each image and class, in the order given; of equal scores the earlier ones."""
    order = np.lexsort((-detections.scores, detections.labels, detections.image))
    image, labels = detections.image[order], detections.labels[order]
    opens = (np.diff(image, prepend=-1) != 0) | (np.diff(labels, prepend=-1) != 0)
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(opens, position, 0))
    return detections.take(np.sort(order[rank < MAX_DETECTIONS]))


def _average_precisions(precision: NDArray) -> NDArray:
    """Columns ap, ap50 to ap95, ap_small, ap_medium, ap_large (C, 14) of COCO's precision (10, 101, C, 4)."""
    everywhere, by_area = precision[..., 0], precision[..., 1:]
    return np.column_stack([everywhere.mean((0, 1)), everywhere.mean(1).T, by_area.mean((0, 1))])


def _curves(precision: NDArray, detections: Boxes, correct: NDArray, num_labels: NDArray) -> Curves:
    """What the precision-recall and the F1 plot show."""
    order = np.lexsort((-detections.scores, detections.labels))
    labels, scores = detections.labels[order], detections.scores[order]
    running = _running_f1(labels, correct[order], np.maximum(num_labels, 1))
    f1 = np.full((len(num_labels), len(CURVE_CONFIDENCES)), np.nan)
    for label in np.flatnonzero(num_labels):
        own = slice(*np.searchsorted(labels, [label, label + 1]))
        kept = np.searchsorted(-scores[own], -CURVE_CONFIDENCES, "right")
        f1[label] = np.append(0, running[own])[kept]
    return Curves(np.linspace(0, 1, 101), precision[0, :, :, 0].T, CURVE_CONFIDENCES, f1)


def _annotations(boxes: Boxes) -> list[dict]:
    """COCO annotations, numbered from 1 because faster-coco-eval reads 0 as unmatched."""
    x1, y1, x2, y2 = boxes.boxes.T
    width, height = x2 - x1, y2 - y1
    columns = (boxes.image, boxes.labels, np.column_stack([x1, y1, width, height]), width * height, boxes.scores)
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "score": score}
        for number, (image, label, box, area, score) in enumerate(zip(*(c.tolist() for c in columns), strict=True), 1)
    ]


def _paired_iou(boxes: NDArray, others: NDArray) -> NDArray:
    """IoU of aligned pairs: (K, 4), (K, 4) -> (K,), NaN for two boxes without area."""
    overlap = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = overlap.clip(0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1) - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return intersection / union


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Python's cyclic collector walks millions of annotation dicts again and again, for a third of the whole time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _mean_of_defined(values: NDArray) -> NDArray:
    """Mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(0) / defined.sum(0)


def _float64(values: ArrayLike) -> NDArray:
    return torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()


def _int64(values: ArrayLike) -> NDArray:
    return torch.as_tensor(values).detach().to("cpu", torch.int64).numpy()


def _unique(names: Sequence[str]) -> list[str]:
    """The names, with the class number appended to those that occur more than once."""
    return [name if list(names).count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def _plain(row: dict) -> dict:
    """The same row with None for NaN."""
    return {key: None if value != value else value for key, value in row.items()}


def _percents(row: dict) -> list[str]:
    """The metric columns of a row as short percentages."""
    return ["n/a" if row[key] != row[key] else f"{100 * row[key]:.1f}".replace("100.0", "100") for key in COLUMNS]


def _table_line(name: str, labels: object, cells: Sequence[str]) -> str:
    """One line of the table: name (20), labels (8) and 18 cells of 5 characters."""
    return f"{printable(name, 20):<20}{labels:>8}" + "".join(f"{cell:>5}" for cell in cells)
