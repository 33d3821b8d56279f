"""COCO's and LVIS's precision and recall, by faster-coco-eval: the one place that knows its API."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from utils.metrics.truths import Truths, to_xywh

MAX_DETECTIONS = 100  # per image and class, as COCO counts
MAX_DETECTIONS_LVIS = 300  # per image, as LVIS counts
COCO_IOUS = np.linspace(0.5, 0.95, 10)
# Long over short side.
RATIO_BINS = {"ratio_below_2": (0, 2), "ratio_2_to_4": (2, 4), "ratio_from_4": (4, 1e10)}


class Boxes(NamedTuple):
    """Boxes of a data set: image (K,), boxes (K, 4) xyxy original pixels, labels (K,), scores (K,)."""

    image: NDArray
    boxes: NDArray
    labels: NDArray
    scores: NDArray

    def take(self, rows: NDArray) -> "Boxes":
        """The chosen rows (a mask or indices)."""
        return Boxes(*(part[rows] for part in self))


class _Detections(COCO):
    """Detections that are evaluated as a whole: an index of millions, which nobody looks up, costs time and memory."""

    def createIndex(self):
        """None: `loadAnns` gives all that there is, in its order."""

    def getAnnIds(self, **_):
        """The evaluator asks for those of all images and of all classes that there are."""
        return range(1, 1 + len(self.dataset["annotations"]))

    def loadAnns(self, ids):
        """All annotations."""
        return self.dataset["annotations"]


class _Evaluation(COCOeval_faster):
    """faster-coco-eval, and VOC's difficult objects: ignored, however many detections find them."""

    def _prepare(self):
        super()._prepare()
        self.difficult = [truth for truth in self.cocoGt.dataset["annotations"] if truth["difficult"]]
        for truth in self.difficult:
            truth["ignore"] = 1

    def computeIoU(self, imgId, catId):
        """IoUs (D, T); a crowd's is taken over the detection alone, a difficult object's is the usual one."""
        ious = super().computeIoU(imgId, catId)
        for truth in self.cocoGt.imgToAnns[imgId] if self.difficult else ():
            if truth["difficult"] and truth["category_id"] == catId:
                truth["iscrowd"] = 1  # from here on: this is how the matcher knows what may be found again and again
        return ious


def coco_precision_recall(
    truths: Truths, detections: Boxes, num_classes: int, ious: Sequence[float] = tuple(COCO_IOUS)
) -> tuple[NDArray, NDArray]:
    """Precision (K IoUs, 101 recalls, C, 4 areas) and final recall (K IoUs, C, 4 areas); NaN without truths."""
    precision = np.full((len(ious), 101, num_classes, 4), np.nan)
    recall = np.full((len(ious), num_classes, 4), np.nan)
    classes = np.unique(truths.labels)
    if not len(classes):
        return precision, recall
    with _garbage_collection_paused():
        evaluation = _evaluation(truths, detections.take(np.isin(detections.labels, classes)), classes)
        evaluation.params.iouThrs = np.asarray(ious, np.float64)
        evaluation.params.maxDets = [MAX_DETECTIONS if truths.federated is None else MAX_DETECTIONS_LVIS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision[:, :, classes] = evaluation.eval["precision"][..., 0]
    recall[:, classes] = evaluation.eval["recall"][..., 0]
    return np.where(precision < 0, np.nan, precision), np.where(recall < 0, np.nan, recall)


def precision_by_ratio(
    truths: Truths, detections: Boxes, num_classes: int, limits: Sequence[tuple[float, float]]
) -> NDArray:
    """Precision (10 IoUs, 101 recalls, C, len(limits)) of objects with these side ratios, long over short.

    COCO's own rule for sizes: truths outside the limits are ignored, and so are unmatched detections outside them.
    """
    precision = np.full((10, 101, num_classes, len(limits)), np.nan)
    classes = np.unique(truths.labels)
    if not len(classes):
        return precision
    with _garbage_collection_paused():
        # The evaluator sorts boxes into ranges by their `area`, whatever that number means.
        own = replace(truths, area=side_ratios(truths.xywh))
        known = detections.take(np.isin(detections.labels, classes))
        evaluation = _evaluation(own, known, classes, side_ratios(to_xywh(known.boxes)))
        evaluation.params.areaRng = [list(each) for each in limits]
        evaluation.params.areaRngLbl = [str(number) for number in range(len(limits))]
        evaluation.params.maxDets = [MAX_DETECTIONS if truths.federated is None else MAX_DETECTIONS_LVIS]
        evaluation.evaluate()
        evaluation.accumulate()
    precision[:, :, classes] = evaluation.eval["precision"][..., 0]
    return np.where(precision < 0, np.nan, precision)


def side_ratios(xywh: NDArray) -> NDArray:
    """Long over short side (K,) of boxes (K, 4)."""
    sides = np.maximum(xywh[:, 2:], 1e-9)
    return sides.max(1, initial=0) / sides.min(1, initial=np.inf)


def counted_detections(detections: Boxes, truths: Truths) -> Boxes:
    """What COCO counts: the 100 highest scores of each image and class; LVIS: the 300 highest of each image, of classes
    that are known to be present or absent there. Of equal scores the earlier ones, in the order given.
    """
    if truths.federated is None:
        return detections.take(_best_rows(detections, (detections.labels, detections.image), MAX_DETECTIONS))
    best = detections.take(_best_rows(detections, (detections.image,), MAX_DETECTIONS_LVIS))
    known = np.concatenate([np.column_stack([truths.image, truths.labels]), truths.federated.absent])
    return best.take(among(best, known))


def among(boxes: Boxes, pairs: NDArray) -> NDArray:
    """Which boxes (K,) stand in one of the pairs (P, 2) of image and label."""
    step = 1 + max(boxes.labels.max(initial=0), pairs[:, 1].max(initial=0))
    return np.isin(boxes.image * step + boxes.labels, pairs[:, 0] * step + pairs[:, 1])


def _best_rows(boxes: Boxes, keys: tuple[NDArray, ...], limit: int) -> NDArray:
    """Rows of the `limit` highest scores for each value of the keys, in the order given."""
    order = np.lexsort((-boxes.scores, *keys))
    opens = np.zeros(len(order), bool)
    for key in keys:
        opens |= np.diff(key[order], prepend=-1) != 0
    position = np.arange(len(order))
    rank = position - np.maximum.accumulate(np.where(opens, position, 0))
    return np.sort(order[rank < limit])


def _evaluation(
    truths: Truths, detections: Boxes, classes: NDArray, detection_area: NDArray | None = None
) -> _Evaluation:
    """The evaluator of these detections; images keep their ids, whose order decides between equal scores."""
    ids = truths.image_ids.tolist()
    images, federated = [{"id": i} for i in ids], truths.federated
    categories = [{"id": label} for label in classes.tolist()]
    if federated is not None:
        for key, pairs in (
            ("neg_category_ids", federated.absent),
            ("not_exhaustive_category_ids", federated.not_exhaustive),
        ):
            for image in images:
                image[key] = []
            for row, label in pairs.tolist():
                images[row][key].append(label)
        for category in categories:
            category["frequency"] = federated.frequency[category["id"]]
    rows = _annotations(truths.image_ids[truths.image], truths.labels, truths.xywh, truths.area)
    for row, crowd, difficult in zip(rows, truths.crowd.tolist(), truths.difficult.tolist(), strict=True):
        row["iscrowd"], row["difficult"] = int(crowd), difficult
    truth_set = COCO({"images": images, "categories": categories, "annotations": rows})
    xywh = to_xywh(detections.boxes)
    area = xywh[:, 2] * xywh[:, 3] if detection_area is None else detection_area
    rows = _annotations(truths.image_ids[detections.image], detections.labels, xywh, area, detections.scores)
    detection_set = _Detections({"annotations": rows})
    return _Evaluation(truth_set, detection_set, "bbox", lvis_style=federated is not None)


def _annotations(
    image_ids: NDArray, labels: NDArray, xywh: NDArray, area: NDArray, scores: NDArray | None = None
) -> list[dict]:
    """COCO annotations, numbered from 1 because faster-coco-eval reads 0 as unmatched."""
    columns = [part.tolist() for part in (image_ids, labels, xywh, area, area if scores is None else scores)]
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box, "area": area, "score": score}
        for number, (image, label, box, area, score) in enumerate(zip(*columns, strict=True), 1)
    ]


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
