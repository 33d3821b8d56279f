"""Batches of samples, the same for any number of worker processes."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from alignyolo.targets import Targets
from data.augment.on_device import Recipes
from data.dataset import DetectionDataset, Samples, scaled_sizes
from data.pixel_limit import allow_pixels, pixel_limit
from data.sampling import epoch_order
from utils.letterbox import Letterbox

SIGNAL_S = 5.0


class Batch(NamedTuple):
    """images (B, 3, H, W) uint8 RGB, channels last in memory; truths; rows (B,) in the LabelIndex; B letterboxes.

    From a data set whose photos lie on a device come the images' recipes, which DevicePhotos turns into images there.
    """

    images: Tensor | Recipes
    targets: Targets
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of this name
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
        """Choose the epoch, counted from 0, that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        missing = 0 if self.shuffle else self.rank
        return max(-(-(self.n - missing) // self.world_size), 0)

    def __iter__(self) -> Iterator[tuple]:
        order = epoch_order(self.n, self.seed, self.epoch).tolist() if self.shuffle else range(self.n)
        for place in range(len(self)):
            yield self.epoch, order[(self.rank + place * self.world_size) % self.n]


class RectSampler(EpochSampler):
    """Yields (epoch, i, (h, w)): batches of photos of similar shape, each of the least size that holds its photos.

    sizes (n, 2) are the scaled photos'; a size is in multiples of the stride. The batches, of `batch_size` images over
    all ranks, stay as they are and come in a new order every epoch, one that is not full at the end.
    """

    def __init__(
        self, sizes: NDArray, batch_size: int, stride: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(len(sizes), seed, True, rank, world_size)
        order = np.argsort(sizes[:, 0] / sizes[:, 1], kind="stable")
        self.batches = np.split(order, range(batch_size, len(order), batch_size))
        self.sizes = [tuple((-(-sizes[rows].max(0) // stride) * stride).tolist()) for rows in self.batches]

    def __iter__(self) -> Iterator[tuple]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.batches), generator=generator).tolist()
        short = len(self.batches) - 1
        for number in [*(each for each in order if each != short), short]:
            rows = self.batches[number]
            for place in range(-(-len(rows) // self.world_size)):
                row = rows[(self.rank + place * self.world_size) % len(rows)]
                yield self.epoch, int(row), self.sizes[number]


def collate(group: Samples) -> Batch:
    """Return the samples of a batch as one; their truths become one flat list."""
    images, boxes, labels, index, letterboxes = zip(*group.samples, strict=True)
    whole = None if group.images is None else torch.from_numpy(group.images).permute(0, 3, 1, 2)
    stacked = Recipes.stack(list(images)) if whole is None else whole
    return Batch(stacked, Targets.stack(list(boxes), list(labels)), torch.tensor(index), list(letterboxes))


class PatientLoader(DataLoader):
    """A DataLoader that names a killed loading process even when the connection to it broke before the signal came."""

    def __iter__(self) -> Any:
        try:
            yield from super().__iter__()
        except (EOFError, ConnectionError):
            # The dead process's sockets close before SIGCHLD arrives, whose handler in torch raises what has happened.
            time.sleep(SIGNAL_S)
            raise


def build_loader(
    dataset: DetectionDataset,
    batch_size: int,
    workers: int,
    shuffle: bool,
    seed: int,
    drop_last: bool = False,
    rank: int = 0,
    world_size: int = 1,
    rect_stride: int = 0,
) -> DataLoader:
    """Return a loader of Batches; its `sampler.set_epoch` chooses the epoch, its worker processes live as long as it.

    With a `rect_stride`, training batches hold photos of similar shape and are as small as they allow.
    """
    sampler = EpochSampler(len(dataset), seed, shuffle, rank, world_size)
    if rect_stride:
        sizes = scaled_sizes(dataset.index, dataset.image_size)
        sampler = RectSampler(sizes, batch_size * world_size, rect_stride, seed, rank, world_size)
    # Forked workers share the photo cache and start in no time; elsewhere the platform knows best.
    fork = workers > 0 and sys.platform == "linux"
    return PatientLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=cast("Callable[[list[Any]], Any]", collate),  # a list, by its __getitems__
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=partial(_start_worker, most_pixels=pixel_limit()),
        multiprocessing_context="fork" if fork else None,
        # Its own generator: a loader must not move the random numbers of the training loop.
        generator=torch.Generator().manual_seed(seed),
    )


def _start_worker(_: int, most_pixels: int) -> None:
    allow_pixels(most_pixels)  # a process that is not forked starts with the usual limit
    # One thread per process: threads would only fight for the cores, and OpenCV's do not survive a fork.
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    sys.excepthook = _told_by_the_trainer
    # Ctrl-C and a closed terminal reach all processes at once: the training process decides what becomes of these.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _told_by_the_trainer(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say nothing when a batch finds nobody to take it: the training process has said why it ended."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)
