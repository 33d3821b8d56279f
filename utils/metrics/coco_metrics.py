"""COCO's metrics on any data set, by hotcoco; precision, recall and F1 at the best confidence."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from utils.errors import printable
from utils.metrics.coco_eval import (
    COCO_IOUS,
    ERROR_KINDS,
    RATIO_BINS,
    Boxes,
    among,
    coco_precision_recall,
    counted_detections,
    labels_by_group,
    measured_classes,
    precision_by_ratio,
    tide_errors,
)
from utils.metrics.truths import FREQUENCIES, Truths, plain_truths

IOU_COLUMNS = ("ap50", "ap55", "ap60", "ap65", "ap70", "ap75", "ap80", "ap85", "ap90", "ap95")
ERROR_COLUMNS = tuple(f"tide_{name}" for name in ERROR_KINDS.values())
AREA_COLUMNS = ("ap_small", "ap_medium", "ap_large")
COLUMNS = ("ap", *IOU_COLUMNS, *AREA_COLUMNS, "ar", "precision", "recall", "f1")
ALL = "all"  # the mean over classes, in tables and files
GROUP_LABELS = "labels_"  # what the counts of objects in a group of sizes or side ratios begin with
WEIGHTED = "_weighted"  # what the means end with that weigh each class by its objects in the group
FEW_LABELS = 10  # with fewer objects in a group, the AP of a class there is mostly chance
MATCH_IOU = 0.5  # for precision, recall, F1 and the confusion matrix
CURVE_CONFIDENCES = np.linspace(0, 1, 1001)
TABLE_HEADS = ("AP", "50", "55", "60", "65", "70", "75", "80", "85", "90", "95", "S", "M", "L", "AR", "P", "R", "F1")


class Curves(NamedTuple):
    """Precision (C, 101) over recall (101,) at IoU .5 and f1 (C, S) over confidence (S,); NaN without labels."""

    recall: NDArray
    precision: NDArray
    confidence: NDArray
    f1: NDArray


@dataclass(frozen=True, eq=False)
class Metrics:
    """COCO's metrics as fractions, NaN where undefined, overall (mean over classes with labels) and per class.

    `confidence` is where the mean F1 is best, None where no class with labels has a detection. `confusion`
    (C + 1, C + 1), predicted x true, counts at that confidence: in the last row missed labels, in the last column false
    alarms. `at_iou` is the AP at each threshold that was asked for, of `all` and of every class. Where errors are asked
    for, `overall` says in columns tide_... what each kind costs in AP50, and `error_counts` how many there are at any
    confidence. Where groups by side ratio are asked for, every class has its own AP of them and, in `labels_...`, its
    objects in each group; `overall` has in ..._weighted the mean that weighs each class by these.
    """

    overall: dict[str, float]
    per_class: dict[str, dict[str, float]]
    confidence: float | None
    counts: dict[str, int]
    curves: Curves
    matches: "Matches"
    at_iou: dict[str, dict[str, float]] = field(default_factory=dict)
    error_counts: dict[str, int] = field(default_factory=dict)

    @cached_property
    def confusion(self) -> NDArray:
        """The confusion matrix, made where it is looked at: with 5,000 classes it takes 100 MB and a second."""
        return self.matches.confusion(self.confidence)

    def to_json(self) -> dict:
        """Return plain types only, with None where undefined; the overall columns are at the top."""
        per_class = {name: _plain(values) for name, values in self.per_class.items()}
        values = {**_plain(self.overall), "confidence": self.confidence, "counts": self.counts, "per_class": per_class}
        if self.at_iou:
            values["at_iou"] = {iou: _plain(row) for iou, row in self.at_iou.items()}
        if self.error_counts:
            values["error_counts"] = self.error_counts
        return values

    def rows(self) -> list[dict]:
        """Return one row for all classes and one per class, for a CSV file; None where undefined."""
        labels = {name: count for name, count in self.counts.items() if name.startswith(GROUP_LABELS)}
        overall = {"class": ALL, "labels": self.counts["labels"], **self.overall, **labels}
        return [_plain(row) for row in (overall, *({"class": name, **row} for name, row in self.per_class.items()))]

    def table(self, per_class: bool = True) -> str:
        """Return a text table in percent of at most 120 columns, with the overall row last."""
        lines = [_table_line("class", "labels", TABLE_HEADS)]
        if per_class:
            lines += [_table_line(name, row["labels"], _percents(row)) for name, row in self.per_class.items()]
        lines.append(_table_line(ALL, self.counts["labels"], _percents(self.overall)))
        where = (
            "no detection of a class that has labels"
            if self.confidence is None
            else f"P, R, F1 at confidence {self.confidence:.3f}"
        )
        classes = f"{self.counts['classes_with_labels']} of {self.counts['classes']} classes with labels"
        lines.append(f"percent; mean over {classes}; {where}")
        ignored = [f"{self.counts[f'{kind}_labels']} {kind}" for kind in ("crowd", "difficult")]
        if any(self.counts[f"{kind}_labels"] for kind in ("crowd", "difficult")):
            lines.append(f"neither found nor missed: {' and '.join(ignored)} labels")
        groups = [f"AP {name} {_percent(self.overall[f'ap_{name}'])}" for name in FREQUENCIES.values() if self._grouped]
        lines += [", ".join(groups)] if groups else []
        ratios = [(name, self.overall.get(f"ap_{name}", np.nan)) for name in RATIO_BINS]
        shown = [f"{name.removeprefix('ratio_').replace('_', ' ')} {_percent(ap)}" for name, ap in ratios if ap == ap]
        lines += [f"AP by side ratio: {', '.join(shown)}", *self._thin_groups()] if shown else []
        costs = [f"{name} {_percent(self.overall[f'tide_{name}'])}" for name in self.error_counts]
        lines += [f"AP50 lost by error: {', '.join(costs)}"] if costs else []
        lines += [f"AP at IoU {iou}: {_percent(row[ALL])}" for iou, row in self.at_iou.items()]
        return "\n".join(lines)

    def classes_of(self, group: str) -> tuple[int, int]:
        """Return how many classes have objects in a group of sizes or side ratios, and how many of them have few."""
        labels = [row[f"{GROUP_LABELS}{group}"] for row in self.per_class.values()]
        return sum(count > 0 for count in labels), sum(0 < count < FEW_LABELS for count in labels)

    def _thin_groups(self) -> list[str]:
        """Say which means over classes by side ratio rest on classes with few objects, and what they are weighted."""
        lines = []
        for name in RATIO_BINS:
            classes, few = self.classes_of(name)
            if few:
                weighted = _percent(self.overall[f"ap_{name}{WEIGHTED}"])
                group = name.removeprefix("ratio_").replace("_", " ")
                lines.append(
                    f"side ratio {group}: {few} of {classes} classes have fewer than {FEW_LABELS} such objects; "
                    f"weighted by objects, AP {weighted}"
                )
        return lines

    @property
    def _grouped(self) -> bool:
        return "ap_rare" in self.overall


class CocoMetrics:
    """Collects the detections of a data set image by image and scores them against its truths."""

    def __init__(
        self,
        sizes: ArrayLike,
        starts: ArrayLike,
        boxes: ArrayLike,
        labels: ArrayLike,
        names: Sequence[str],
        ious: Sequence[float] = (),
    ):
        """Take the truths: sizes (N, 2); boxes (M, 4) xyxy original pixels and labels (M,).

        Those of image i stand from starts[i] to starts[i + 1]. `ious` are more thresholds to report AP at.
        """
        counted, found, ids = np.asarray(starts), _float64(boxes), _int64(labels)
        if not np.diff(counted).sum() == len(found) == len(ids) or len(counted) != len(np.asarray(sizes)) + 1:
            raise ValueError("starts, boxes and labels of the truths disagree in length")
        self._begin(plain_truths(counted, found, ids, len(names)), names, ious)

    @classmethod
    def of(cls, truths: Truths, names: Sequence[str], ious: Sequence[float] = ()) -> "CocoMetrics":
        """Begin with truths that know more than boxes and labels.

        Crowds, difficult objects, areas and ids of a COCO or LVIS file.
        """
        collector = cls.__new__(cls)
        collector._begin(truths, names, ious)
        return collector

    def _begin(self, truths: Truths, names: Sequence[str], ious: Sequence[float]) -> None:
        self.num_images = len(truths.starts) - 1
        self.names = _unique(names)
        self.details, self.ious = truths, tuple(ious)
        self.truths = Boxes(truths.image, truths.boxes, truths.labels, np.ones(len(truths.labels)))
        self._parts: dict[int, Boxes] = {}
        self._undecodable: set[int] = set()

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.names)

    def add(self, image: int, boxes: ArrayLike, scores: ArrayLike, labels: ArrayLike) -> None:
        """Add an image's detections, once: boxes (K, 4) xyxy original pixels, scores (K,), labels (K,)."""
        ids = _int64(labels)
        part = Boxes(np.full(len(ids), image), _float64(boxes).reshape(-1, 4), ids, _float64(scores))
        if image in self._parts or not 0 <= image < self.num_images:
            raise ValueError(f"image {image} was added before or is not one of {self.num_images}")
        if not len(part.boxes) == len(part.scores) == len(part.labels):
            raise ValueError(f"image {image}: boxes, scores and labels disagree in length")
        if len(part.labels) and not 0 <= part.labels.min() <= part.labels.max() < len(self.names):
            raise ValueError(f"image {image}: labels must be 0 to {len(self.names) - 1}")
        self._parts[image] = part

    def note_undecodable(self, images: Iterable[int]) -> None:
        """Note the images that could not be decoded, whose objects nothing could find; metrics count them."""
        self._undecodable.update(images)

    def take_over(self, others: Sequence["CocoMetrics"]) -> None:
        """Add what other processes have collected of the same data set; an image that is here already stays."""
        for other in others:
            self._parts = {**other._parts, **self._parts}
            self._undecodable |= other._undecodable

    def detections_of(self, image: int) -> Boxes:
        """Return the detections of one image."""
        return self._parts.get(image, Boxes(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))

    def compute(self, by_ratio: bool = False, errors: bool = False) -> Metrics:
        """Score what was added so far; images without an `add` count as images without detections.

        With `by_ratio`, which takes as long again, there is also the AP of objects by side ratio, of all and of every
        class, and how many objects each group has; with `errors` what each of TIDE's kinds of error costs.
        """
        added, num_classes = self.detections(), len(self.names)
        finite = np.isfinite(added.boxes).all(1) & np.isfinite(added.scores)
        detections = counted_detections(added.take(finite), self.details)
        ious = (*COCO_IOUS, *self.ious)
        measured = measured_classes(self.details, num_classes)
        precision, recall = coco_precision_recall(self.details, detections, measured, ious)
        at_list, precision, recall = precision[10:, ..., 0].mean(1).T, precision[:10], recall[:10]
        # By columns, as sums over classes have been made so far.
        at_list = np.asfortranarray(_of_all(at_list, measured, num_classes))

        matches = match_truths(detections, self.truths, self.details, num_classes)
        point = best_operating_point(matches)
        columns = np.column_stack([_average_precisions(precision), recall[..., 0].mean(0)])
        values = np.column_stack([_of_all(columns, measured, num_classes), *point[1:]])
        groups = _by_group(self.details, detections, measured, values) if by_ratio else _NO_GROUPS
        per_class = {
            name: {"labels": int(count), **dict(zip(COLUMNS, row.tolist(), strict=True)), **groups.of_class(label)}
            for label, (name, count, row) in enumerate(zip(self.names, matches.labels, values, strict=True))
        }
        overall = dict(zip(COLUMNS, _mean_of_defined(values).tolist(), strict=True))
        found = tide_errors(matches.truths, matches.detections, num_classes) if errors else None
        return Metrics(
            overall=overall
            | _by_frequency(values[:, 0], self.details)
            | groups.overall
            | ({f"tide_{name}": cost for name, cost in found.lost.items()} if found else {}),
            per_class=per_class,
            confidence=point.confidence,
            counts=self._counts(matches.labels, finite) | groups.counts,
            curves=_curves(_of_all(precision[0, :, :, 0].T, measured, num_classes), matches),
            matches=matches,
            at_iou={
                f"{iou:g}": {ALL: mean, **dict(zip(self.names, column, strict=True))}
                for iou, mean, column in zip(
                    self.ious, _mean_of_defined(at_list).tolist(), at_list.T.tolist(), strict=True
                )
            },
            error_counts=found.counts if found else {},
        )

    def _counts(self, labels: NDArray, finite: NDArray) -> dict[str, int]:
        """Count what there is: labels (C,) that count, and which detections (D,) are finite."""
        return {
            "images": self.num_images,
            "undecodable_images": len(self._undecodable),
            "labels": int(labels.sum()),
            "detections": len(finite),
            "non_finite_detections": int(np.count_nonzero(~finite)),
            "classes": self.num_classes,
            "classes_with_labels": int(np.count_nonzero(labels)),
            "crowd_labels": int(self.details.crowd.sum()),
            "difficult_labels": int((self.details.difficult & ~self.details.crowd).sum()),
        }

    def detections(self) -> Boxes:
        """Return all that was added; the order matters only within an image, where it decides between equal scores."""
        if not self._parts:
            return Boxes(np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))
        return Boxes(*map(np.concatenate, zip(*self._parts.values(), strict=True)))


def match_boxes(boxes: NDArray, scores: NDArray, group: NDArray, truth_boxes: NDArray, truth_group: NDArray) -> NDArray:
    """Match greedily as COCO at IoU .5 within groups: (D, 4), (D,), (D,), (T, 4), (T,) -> (D,) truth or -1.

    By falling score, each detection takes the free truth of its group with the largest IoU; of equal ones the last.
    """
    detection, truth = _pairs(group, truth_group)
    iou = _paired_iou(boxes[detection], truth_boxes[truth])
    near = iou >= MATCH_IOU
    detection, truth, iou = detection[near], truth[near], iou[near]

    found: dict[int, int] = {}
    taken = set()
    order = np.lexsort((-truth, -iou, detection, -scores[detection]))
    for one, other in zip(detection[order].tolist(), truth[order].tolist(), strict=True):
        if one not in found and other not in taken:
            found[one] = other
            taken.add(other)
    matched = np.full(len(boxes), -1, np.int64)
    matched[list(found)] = list(found.values())
    return matched


@dataclass(frozen=True, eq=False)
class Matches:
    """The detections that count and the truth (D,) that each finds in its class, or -1; truths that count; labels (C,)
    of those by class. Detections on crowds and on difficult objects are not among them.

    `by_score` (D,) are the detections by falling score, `by_class` (D,) by class and then by falling score.
    """

    detections: Boxes
    truths: Boxes
    truth: NDArray
    labels: NDArray
    by_score: NDArray
    by_class: NDArray

    def confusion(self, confidence: float | None) -> NDArray:
        """Return the confusion matrix (C + 1, C + 1) of the detections with at least this confidence."""
        return confusion_matrix(self.detections, self.truths, self.truth, confidence, len(self.labels))


def match_truths(detections: Boxes, truths: Boxes, details: Truths, num_classes: int) -> Matches:
    """Match within each image and class at IoU .5; what then lies on an ignored truth is left out."""
    counting = truths.take(~details.ignored)
    group, truth_group = (part.image * num_classes + part.labels for part in (detections, counting))
    matched = match_boxes(detections.boxes, detections.scores, group, counting.boxes, truth_group)
    free = matched < 0
    left_out = np.zeros(len(matched), bool)
    for rows, crowd in ((details.crowd, True), (details.difficult & ~details.crowd, False)):
        if rows.any():
            left_out[free] |= _lies_on(detections.take(free), truths.take(rows), num_classes, crowd)
    if details.federated is not None:
        left_out[free] |= among(detections.take(free), details.federated.not_exhaustive)
    labels = np.bincount(counting.labels, minlength=num_classes)
    kept = detections.take(~left_out)
    return Matches(kept, counting, matched[~left_out], labels, *_ranked(kept))


def _lies_on(detections: Boxes, truths: Boxes, num_classes: int, crowd: bool) -> NDArray:
    """Return which detections (D,) overlap a truth of their image and class by .5.

    Its IoU, or for a crowd their own share.
    """
    group, truth_group = (part.image * num_classes + part.labels for part in (detections, truths))
    detection, truth = _pairs(group, truth_group)
    overlap = _paired_iou(detections.boxes[detection], truths.boxes[truth], crowd)
    lies = np.zeros(len(group), bool)
    lies[detection[overlap >= MATCH_IOU]] = True
    return lies


def pairwise_best_iou(detections: Boxes, truths: Boxes, num_classes: int) -> NDArray:
    """Return the largest IoU (D,) of detections with a truth of their image, and class unless num_classes is 0."""
    group, truth_group = (
        part.image * max(num_classes, 1) + part.labels * (num_classes > 0) for part in (detections, truths)
    )
    detection, truth = _pairs(group, truth_group)
    best = np.zeros(len(group))
    np.fmax.at(best, detection, _paired_iou(detections.boxes[detection], truths.boxes[truth]))
    return best


def _pairs(group: NDArray, truth_group: NDArray) -> tuple[NDArray, NDArray]:
    """Return all pairs (K,), (K,) of a detection and a truth of the same group: (D,), (T,)."""
    truth_order = np.argsort(truth_group, kind="stable")
    # Most detections stand in a group without truths, and need not be searched for.
    rows = np.flatnonzero(np.isin(group, truth_group))
    first = np.searchsorted(truth_group[truth_order], group[rows], "left")
    count = np.searchsorted(truth_group[truth_order], group[rows], "right") - first
    detection = np.repeat(rows, count)
    step = np.arange(len(detection)) - np.repeat(np.cumsum(count) - count, count)
    return detection, truth_order[np.repeat(first, count) + step]


class OperatingPoint(NamedTuple):
    """Precision, recall and F1 (C,) of the detections with at least this confidence; NaN for classes without labels."""

    confidence: float | None
    precision: NDArray
    recall: NDArray
    f1: NDArray


def best_operating_point(matches: Matches) -> OperatingPoint:
    """Find the confidence with the best mean F1 over classes with labels."""
    scores, labels, num_labels, correct = (
        matches.detections.scores,
        matches.detections.labels,
        matches.labels,
        matches.truth >= 0,
    )
    has_labels = num_labels[labels] > 0
    confidence = _best_confidence(matches, has_labels) if has_labels.any() else None
    kept = np.zeros(len(scores), bool) if confidence is None else has_labels & (scores >= confidence)
    found = np.bincount(labels[kept], minlength=len(num_labels))
    right = np.bincount(labels[kept & correct], minlength=len(num_labels))
    with np.errstate(invalid="ignore"):
        recall = right / num_labels
        precision, f1 = (
            np.where(num_labels > 0, value, np.nan)
            for value in (right / np.maximum(found, 1), 2 * right / np.maximum(found + num_labels, 1))
        )
    return OperatingPoint(confidence, precision, recall, f1)


def _best_confidence(matches: Matches, has_labels: NDArray) -> float:
    """Find the highest score at which the mean F1 of all detections down to it is largest; has_labels (D,).

    Each detection changes the F1 of its own class only, so the mean is a running sum of those changes.
    """
    scores, labels, num_labels = matches.detections.scores, matches.detections.labels, matches.labels
    order, by_class = matches.by_score, matches.by_class
    if not has_labels.all():
        order, by_class = order[has_labels[order]], by_class[has_labels[by_class]]
    f1 = _running_f1(labels[by_class], matches.truth[by_class] >= 0, num_labels)
    opens = np.diff(labels[by_class], prepend=-1) > 0
    change = np.empty(len(scores))
    change[by_class] = f1 - np.where(opens, 0, np.roll(f1, 1))
    mean_f1 = (np.cumsum(change[order]) / np.count_nonzero(num_labels)).round(12)  # rounded: equal sums must tie
    ends = np.append(np.diff(scores[order]) < 0, True)  # equal scores pass a threshold together
    return float(scores[order][ends][np.argmax(mean_f1[ends])])


def _ranked(detections: Boxes) -> tuple[NDArray, NDArray]:
    """Return rows by falling score, and rows by class and within it by falling score; of equal ones the earlier first.

    What need not be stable, and small numbers, are sorted in a fraction of the time: so equal scores come after.
    """
    order = np.argsort(-detections.scores)
    scores = detections.scores[order]
    starts = np.diff(scores, prepend=np.inf) != 0
    tied = np.flatnonzero(~starts | np.append(~starts[1:], False))
    order[tied] = order[tied][np.lexsort((order[tied], -scores[tied]))]
    small = np.int16 if detections.labels.max(initial=0) < 1 << 15 else np.int64
    ranked = detections.labels[order].astype(small)
    return order, order[np.argsort(ranked, kind="stable")]


def _running_f1(labels: NDArray, correct: NDArray, num_labels: NDArray) -> NDArray:
    """Return F1 of a class after each of its detections, which stand together by falling score.

    (D,), (D,), (C,) -> (D,).
    """
    counts = np.bincount(labels, minlength=len(num_labels))
    start = np.repeat(np.cumsum(counts) - counts, counts)
    found = np.arange(len(labels)) - start + 1
    total = np.concatenate([[0], np.cumsum(correct)])
    right = total[1:] - total[start]
    return 2 * right / (found + num_labels[labels])


def confusion_matrix(
    detections: Boxes, truths: Boxes, matched: NDArray, confidence: float | None, num_classes: int
) -> NDArray:
    """Count (C + 1, C + 1), predicted x true, from `confidence` on; last row missed, last column false alarms.

    Matches within a class (D,) come first, so the diagonal is what precision and recall count; what is left of
    detections and truths is then matched whatever the class.
    """
    kept = np.zeros(len(matched), bool) if confidence is None else detections.scores >= confidence
    truth_of = np.where(kept, matched, -1)
    rest = np.flatnonzero(kept & (truth_of < 0))
    missed = _unfound(truth_of, len(truths.labels))
    left, open_truths = detections.take(rest), truths.take(missed)
    again = match_boxes(left.boxes, left.scores, left.image, open_truths.boxes, open_truths.image)
    truth_of[rest[again >= 0]] = missed[again[again >= 0]]

    predicted, true = detections.labels[kept], np.append(truths.labels, num_classes)[truth_of[kept]]
    missed = truths.labels[_unfound(truth_of, len(truths.labels))]
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int32)
    np.add.at(confusion, (predicted, true), 1)
    np.add.at(confusion, (num_classes, missed), 1)
    return confusion


def _unfound(truth_of: NDArray, count: int) -> NDArray:
    """Return which of `count` truths no detection has, where truth_of (D,) is the truth of each or -1."""
    unfound = np.ones(count, bool)
    unfound[truth_of[truth_of >= 0]] = False
    return np.flatnonzero(unfound)


def _average_precisions(precision: NDArray) -> NDArray:
    """Return columns ap, ap50 to ap95, ap_small, ap_medium, ap_large (P, 14) of COCO's precision (10, 101, P, 4)."""
    everywhere, by_area = precision[..., 0], precision[..., 1:]
    return np.column_stack([everywhere.mean((0, 1)), everywhere.mean(1).T, by_area.mean((0, 1))])


def _of_all(values: NDArray, classes: NDArray, num_classes: int) -> NDArray:
    """Return rows (C, K) of all classes from those (P, K) of `classes`; NaN for the others."""
    spread = np.full((num_classes, values.shape[1]), np.nan)
    spread[classes] = values
    return spread


def _curves(precision: NDArray, matches: Matches) -> Curves:
    """Return what the precision-recall and the F1 plot show, the former (C, 101) at IoU .5."""
    order, num_labels = matches.by_class, matches.labels
    labels, scores = matches.detections.labels[order], matches.detections.scores[order]
    running = _running_f1(labels, matches.truth[order] >= 0, np.maximum(num_labels, 1))
    f1 = np.full((len(num_labels), len(CURVE_CONFIDENCES)), np.nan)
    for label in np.flatnonzero(num_labels):
        own = slice(*np.searchsorted(labels, [label, label + 1]))
        kept = np.searchsorted(-scores[own], -CURVE_CONFIDENCES, "right")
        f1[label] = np.append(0, running[own])[kept]
    return Curves(np.linspace(0, 1, 101), precision, CURVE_CONFIDENCES, f1)


def _paired_iou(boxes: NDArray, others: NDArray, crowd: bool = False) -> NDArray:
    """Return IoU, or with a crowd the share of the box, of aligned pairs: (K, 4), (K, 4) -> (K,), NaN without area."""
    overlap = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = overlap.clip(0).prod(1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    if not crowd:
        union = union + (others[:, 2:] - others[:, :2]).prod(1) - intersection
    with np.errstate(invalid="ignore", divide="ignore"):
        return intersection / union


def _mean_of_defined(values: NDArray) -> NDArray:
    """Return the mean over the first axis of what is not NaN; NaN where nothing is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(0) / defined.sum(0)


def _by_frequency(ap: NDArray, truths: Truths) -> dict[str, float]:
    """Return LVIS's AP (C,) of rare, common and frequent classes; nothing for other data sets."""
    if truths.federated is None:
        return {}
    frequency = np.array(truths.federated.frequency)
    return {
        f"ap_{name}": float(_mean_of_defined(ap[frequency == letter][:, None])[0])
        for letter, name in FREQUENCIES.items()
    }


class _Groups(NamedTuple):
    """Measures of groups by size and side ratio: of all, (C,) by class, and objects (C,) by class."""

    overall: dict[str, float]
    by_class: dict[str, NDArray]
    labels: dict[str, NDArray]

    def of_class(self, label: int) -> dict[str, float]:
        """Return the columns of one class."""
        labels = {name: int(counts[label]) for name, counts in self.labels.items()}
        return {name: float(values[label]) for name, values in self.by_class.items()} | labels

    @property
    def counts(self) -> dict[str, int]:
        """How many objects there are in each group."""
        return {name: int(counts.sum()) for name, counts in self.labels.items()}


_NO_GROUPS = _Groups({}, {}, {})


def _by_group(truths: Truths, detections: Boxes, classes: NDArray, values: NDArray) -> _Groups:
    """Return AP, AP50 and AP75 by RATIO_BINS of all and of every class, and the means of AP weighted by objects.

    `values` (C, columns) are the measures of every class, with AP by size among them. `classes` (P,) have truths.
    """
    num_classes = len(values)
    ap = precision_by_ratio(truths, detections, classes, list(RATIO_BINS.values())).mean(1)
    overall: dict[str, float] = {}
    by_class: dict[str, NDArray] = {}
    for column, found in {"ap": ap.mean(0), "ap50": ap[0], "ap75": ap[5]}.items():
        names = [f"{column}_{name}" for name in RATIO_BINS]
        overall |= dict(zip(names, _mean_of_defined(found).tolist(), strict=True))
        by_class |= dict(zip(names, _of_all(found, classes, num_classes).T, strict=True))
    labels = labels_by_group(truths, num_classes)
    of_sizes = {column: values[:, COLUMNS.index(column)] for column in AREA_COLUMNS}
    for name, counts in labels.items():
        own = (of_sizes | by_class)[f"ap_{name}"]
        defined = np.isfinite(own) & (counts > 0)
        weighted = np.average(own[defined], weights=counts[defined]) if defined.any() else np.nan
        overall[f"ap_{name}{WEIGHTED}"] = float(weighted)
    return _Groups(overall, by_class, {f"{GROUP_LABELS}{name}": counts for name, counts in labels.items()})


def _float64(values: ArrayLike) -> NDArray:
    """Copy to the CPU in double precision; torch would read a list of Python's numbers as float32."""
    return np.asarray(
        values.detach().to("cpu", torch.float64) if isinstance(values, torch.Tensor) else values, np.float64
    )


def _int64(values: ArrayLike) -> NDArray:
    return np.asarray(values.detach().to("cpu", torch.int64) if isinstance(values, torch.Tensor) else values, np.int64)


def _unique(names: Sequence[str]) -> list[str]:
    """Return the names, with the class number appended to those that occur more than once or name the mean."""
    count = Counter([ALL, *names])
    return [name if count[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def _plain(row: dict) -> dict:
    """Replace NaN by None in a row."""
    return {key: None if value != value else value for key, value in row.items()}


def _percents(row: dict) -> list[str]:
    """Return the metric columns of a row as short percentages."""
    return [_percent(row[key]) for key in COLUMNS]


def _percent(value: float) -> str:
    return "n/a" if value != value else f"{100 * value:.1f}".replace("100.0", "100")


def _table_line(name: str, labels: object, cells: Sequence[str]) -> str:
    """Return one line of the table: name (20), labels (8) and 18 cells of 5 characters."""
    return f"{printable(name, 20):<20}{labels:>8}" + "".join(f"{cell:>5}" for cell in cells)
