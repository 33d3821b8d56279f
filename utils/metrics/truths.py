"""The truths of a split: boxes by image, and what an original COCO or LVIS file knows about them besides."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}


@dataclass(frozen=True, eq=False)
class Federated:
    """LVIS: pairs (K, 2) of image and label that are known to be absent, pairs whose objects are not all annotated,
    and per class r, c or f (rare, common, frequent).
    """

    absent: NDArray
    not_exhaustive: NDArray
    frequency: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Truths:
    """Of image i the rows starts[i] to starts[i + 1]: boxes (M, 4) xyxy original pixels, labels (M,).

    xywh (M, 4) and area (M,) as the file holds them, times `factors` (N, 2): pixels of each photo for one of the file,
    across and down, None where all are 1; crowd (M,) regions and difficult (M,) objects count neither as found nor as
    missed. image_ids (N,) and category_ids (C,) are the file's own; source says where all of it is from.
    """

    starts: NDArray
    boxes: NDArray
    labels: NDArray
    xywh: NDArray
    area: NDArray
    crowd: NDArray
    difficult: NDArray
    image_ids: NDArray
    category_ids: tuple[int, ...]
    source: str = "labels"
    federated: Federated | None = None
    factors: NDArray | None = None

    @property
    def image(self) -> NDArray:
        """The row of the image (M,) of each truth."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    @property
    def ignored(self) -> NDArray:
        """Truths (M,) that count neither as found nor as missed."""
        return self.crowd | self.difficult


def plain_truths(starts: NDArray, boxes: NDArray, labels: NDArray, num_classes: int) -> Truths:
    """Return the truths of YOLO labels; images and classes are numbered from 1, as pycocotools expects."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    xywh = to_xywh(boxes)
    none = np.zeros(len(boxes), bool)
    starts = np.asarray(starts, np.int64)
    return Truths(
        starts=starts,
        boxes=boxes,
        labels=np.asarray(labels, np.int64),
        xywh=xywh,
        area=xywh[:, 2] * xywh[:, 3],
        crowd=none,
        difficult=none,
        image_ids=np.arange(1, len(starts)),
        category_ids=tuple(range(1, num_classes + 1)),
    )


def to_xywh(boxes: NDArray) -> NDArray:
    """Return boxes (M, 4) xyxy as left, top, width, height."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def ragged(lists: Sequence[Sequence[int]]) -> NDArray:
    """Return lists of labels per image as pairs (K, 2) of image and label."""
    image = np.repeat(np.arange(len(lists)), [len(each) for each in lists])
    labels = np.fromiter((label for each in lists for label in each), np.int64, len(image))
    return np.column_stack([image, labels])
