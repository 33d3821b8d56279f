"""Batches of samples, the same for any number of worker processes."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from data.dataset import DetectionDataset, Sample
from data.order import epoch_order
from utils.letterbox import Letterbox
from utils.targets import Targets


class Batch(NamedTuple):
    """images (B, 3, H, W) uint8 RGB, channels last in memory; truths; rows (B,) in the LabelIndex; B letterboxes."""

    images: Tensor
    targets: Targets
    index: Tensor
    letterboxes: list[Letterbox | None]


class EpochSampler(Sampler):
    """Yields (epoch, i) for this rank's share of n images, in a new order every epoch if shuffled.

    Shuffled shares are filled up to equal lengths by images from the start; in order, each image comes exactly once.
    """

    def __init__(self, n: int, seed: int, shuffle: bool, rank: int = 0, world_size: int = 1) -> None:
        self.n = n
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, counted from 0, that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        missing = 0 if self.shuffle else self.rank
        return max(-(-(self.n - missing) // self.world_size), 0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = epoch_order(self.n, self.seed, self.epoch).tolist() if self.shuffle else range(self.n)
        for place in range(len(self)):
            yield self.epoch, order[(self.rank + place * self.world_size) % self.n]


def collate(samples: list[Sample]) -> Batch:
    """Stacks samples of one image size; the truths become one flat list."""
    images, boxes, labels, index, letterboxes = zip(*samples, strict=True)
    stacked = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return Batch(stacked, Targets.stack(list(boxes), list(labels)), torch.tensor(index), list(letterboxes))


def build_loader(
    dataset: DetectionDataset,
    batch_size: int,
    workers: int,
    shuffle: bool,
    seed: int,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """A loader of Batches; its `sampler.set_epoch` chooses the epoch, its worker processes live as long as it."""
    # Forked workers share the photo cache and start in no time; elsewhere the platform knows best.
    fork = workers > 0 and sys.platform == "linux"
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochSampler(len(dataset), seed, shuffle, rank, world_size),
        num_workers=workers,
        collate_fn=collate,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        multiprocessing_context="fork" if fork else None,
        # Its own generator: a loader must not move the random numbers of the training loop.
        generator=torch.Generator().manual_seed(seed),
    )


def _start_worker(_: int) -> None:
    # One thread per process: threads would only fight for the cores, and OpenCV's do not survive a fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
