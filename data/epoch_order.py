"""The order of an epoch, which the sampler walks and in which mosaics find their partners."""

import numpy as np
import torch


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The rows 0 to n - 1 in an epoch's random order (n,)."""
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
        """The rows (at least one, itself among them) that a row's partners are drawn from."""
        if not self.group:
            return self.order
        if epoch != self.epoch:
            self.epoch, self.order = epoch, epoch_order(self.n, self.seed, epoch)
            self.place[self.order] = np.arange(self.n)
        # The last group is filled up with rows of the one before.
        first = min(self.place[row] // self.group * self.group, self.n - self.group)
        return self.order[first : first + self.group]
