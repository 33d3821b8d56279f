"""Repeat-factor sampling for long-tailed data sets such as LVIS: photos of rare classes come several times an epoch."""

from dataclasses import replace

import numpy as np

from data.labels.index import LabelIndex


def repeat_factors(index: LabelIndex, threshold: float) -> np.ndarray:
    """How often every photo comes (N,): the largest sqrt(threshold / f) of its classes, at least 1.

    f is the fraction of photos with that class (Gupta et al. 2019, LVIS, section 5; their threshold is .001).
    """
    photo = np.repeat(np.arange(len(index)), np.diff(index.starts))
    pairs = np.unique(np.stack([photo, index.labels]), axis=1)  # a class counts once a photo
    photos, classes = pairs
    fraction = np.bincount(classes) / max(len(index), 1)
    factors = np.ones(len(index))
    np.maximum.at(factors, photos, np.sqrt(threshold / fraction[classes]))
    return factors


def repeated(index: LabelIndex, threshold: float) -> LabelIndex:
    """The split with every photo as often as its factor, rounded up, says (as MMDetection does); 0 = unchanged."""
    if threshold == 0:
        return index
    factors = repeat_factors(index, threshold)
    # A factor that is whole but for rounding stays so.
    rows = np.repeat(np.arange(len(index)), np.ceil(factors - 1e-9).astype(int))
    counts = np.diff(index.starts)[rows]
    starts = np.concatenate([[0], np.cumsum(counts)])
    boxes = np.repeat(index.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
    return replace(
        index,
        images=tuple(index.images[row] for row in rows),
        sizes=index.sizes[rows],
        starts=starts,
        boxes=index.boxes[boxes],
        labels=index.labels[boxes],
    )
