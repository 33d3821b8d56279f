"""Which photos an epoch shows and in which order: shuffling, partners for mosaics, repeats of rare classes."""

from dataclasses import replace

import numpy as np
import torch

from data.labels.index import LabelIndex


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Shuffle the rows 0 to n - 1 for an epoch (n,)."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator).numpy()


class Partners:
    """For each row of a split the rows that it meets in mosaics: all, or its `group` neighbours in the epoch's order.

    With groups as large as a batch, whoever makes the batch needs to decode each of its photos only once (as the cached
    mosaic of RTMDet, Lyu et al. 2022). They are new in every epoch, and a function of seed and epoch alone.
    """

    def __init__(self, n: int, seed: int, group: int = 0) -> None:
        self.n, self.seed, self.group = n, seed, min(group, n)
        self.epoch = -1
        self.order = np.arange(n)
        self.place = np.arange(n)

    def of(self, epoch: int, row: int) -> np.ndarray:
        """Return the rows (at least one, itself among them) that a row's partners are drawn from."""
        if not self.group:
            return self.order
        if epoch != self.epoch:
            self.epoch, self.order = epoch, epoch_order(self.n, self.seed, epoch)
            self.place[self.order] = np.arange(self.n)
        # The last group is filled up with rows of the one before.
        first = min(self.place[row] // self.group * self.group, self.n - self.group)
        return self.order[first : first + self.group]


def repeat_factors(index: LabelIndex, threshold: float) -> np.ndarray:
    """Compute how often every photo comes (N,): the largest sqrt(threshold / f) of its classes, at least 1.

    f is the fraction of photos with that class. For long-tailed sets such as LVIS: photos of rare classes come several
    times an epoch (Gupta et al. 2019, LVIS, section 5; their threshold is .001).
    """
    photo = np.repeat(np.arange(len(index)), np.diff(index.starts))
    pairs = np.unique(np.stack([photo, index.labels]), axis=1)  # a class counts once a photo
    photos, classes = pairs
    fraction = np.bincount(classes) / max(len(index), 1)
    factors = np.ones(len(index))
    np.maximum.at(factors, photos, np.sqrt(threshold / fraction[classes]))
    return factors


def repeated(index: LabelIndex, threshold: float) -> LabelIndex:
    """Repeat every photo of a split as often as its factor, rounded up, says (as MMDetection does); 0 = unchanged."""
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
        lines=index.lines[boxes] if len(index.lines) else index.lines,
    )
