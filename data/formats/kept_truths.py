"""What a split's annotation file knows besides the labels, kept where a set is written anew: areas, LVIS's lists."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.formats.annotation_set import Finding
from data.formats.coco_json import Category, CocoFile, CocoImage, CocoObject, masked
from data.formats.reading import MASK_AREA
from data.labels.index import LabelIndex
from utils.errors import printable
from utils.metrics.truths import Truths, to_xywh

SAME = 0.05  # pixels by which the edges of one box may differ: labels of six digits are off by hundredths
OWN_AREA = "labels that the annotation file lacks: their area is the box's"
NO_LABEL = "objects of the annotation file without a label: left out"


def kept_truths(
    truths: Truths, index: LabelIndex, names: Sequence[str | None], classes: Sequence[str], split: str
) -> tuple[CocoFile, list[Finding]]:
    """Put together a split's file, by photos that have a name, and what had to be said.

    Labels decide which objects there are: one that stands in the file keeps the box and area that it has there, others
    have the box's. What has no label because it counts neither as found nor as missed stays.
    """
    objects: list[CocoObject] = []
    added = left = 0
    for row, name in enumerate(names):
        if name is not None:
            own, more, fewer = _objects(truths, row, *index.of(row), tuple(index.sizes[row].tolist()))
            objects += own
            added, left = added + more, left + fewer
    file = CocoFile(
        Path(truths.source), _categories(truths, classes), _images(truths, index, names), tuple(objects), ()
    )
    said = ((OWN_AREA, added), (NO_LABEL, left), (MASK_AREA, masked(objects)))
    return file, [
        Finding("noted", split, printable(truths.source), "", why, str(count)) for why, count in said if count
    ]


def _categories(truths: Truths, classes: Sequence[str]) -> tuple[Category, ...]:
    frequency = truths.federated.frequency if truths.federated else ("",) * len(classes)
    return tuple(map(Category, truths.category_ids, classes, frequency))


def _images(truths: Truths, index: LabelIndex, names: Sequence[str | None]) -> tuple[CocoImage, ...]:
    ids = np.array(truths.category_ids)

    def classes(row: int, pairs: NDArray | None) -> tuple[int, ...]:
        return () if pairs is None else tuple(ids[pairs[pairs[:, 0] == row, 1]].tolist())

    absent, partly = (truths.federated.absent, truths.federated.not_exhaustive) if truths.federated else (None, None)
    numbers, sizes = truths.image_ids.tolist(), index.sizes.tolist()
    return tuple(
        CocoImage(numbers[row], name, tuple(sizes[row]), classes(row, absent), classes(row, partly))
        for row, name in enumerate(names)
        if name is not None
    )


def _objects(
    truths: Truths, row: int, boxes: NDArray, labels: NDArray, size: tuple[int, int]
) -> tuple[list[CocoObject], int, int]:
    """List a photo's objects in the order of the labels, then those that are ignored; count what only one side has."""
    image = int(truths.image_ids[row])
    own = np.arange(truths.starts[row], truths.starts[row + 1])
    counted = own[~truths.ignored[own]]
    found = _rows_of(truths, counted, boxes.astype(np.float64), labels, size)
    objects = []
    for number, box, label in zip(found, boxes.astype(np.float64), labels.tolist(), strict=True):
        if number is None:
            xywh = tuple(to_xywh(box[None])[0].tolist())
            objects.append(CocoObject(-1, image, truths.category_ids[label], xywh, xywh[2] * xywh[3], False, False))
        else:
            objects.append(_object(truths, image, number))
    objects += [_object(truths, image, number) for number in own[truths.ignored[own]].tolist()]
    return objects, found.count(None), len(counted) - len(found) + found.count(None)


def _rows_of(
    truths: Truths, counted: NDArray, boxes: NDArray, labels: NDArray, size: tuple[int, int]
) -> list[int | None]:
    """Find the truth of each label, None where there is none; a label's box ends where its photo does."""
    edges = np.clip(truths.boxes[counted], 0, np.array([size[1], size[0]] * 2, np.float64))
    free = np.ones(len(counted), bool)

    def nearest() -> Iterator[int | None]:
        for box, label in zip(boxes, labels.tolist(), strict=True):
            apart = np.abs(edges - box).max(1, initial=0.0)
            apart[~free | (truths.labels[counted] != label)] = np.inf
            best = int(apart.argmin()) if len(apart) else -1
            if best < 0 or not apart[best] < SAME:
                yield None
            else:
                free[best] = False
                yield int(counted[best])

    return list(nearest())


def _object(truths: Truths, image: int, row: int) -> CocoObject:
    xywh, category = tuple(truths.xywh[row].tolist()), truths.category_ids[truths.labels[row]]
    crowd, difficult = bool(truths.crowd[row]), bool(truths.difficult[row])
    return CocoObject(-1, image, category, xywh, float(truths.area[row]), crowd, difficult)
