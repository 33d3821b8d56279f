"""The images of a split as training or evaluation samples."""

import contextlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from data.augment.augmentation import (
    Augmentation,
    Composition,
    Draft,
    Labelled,
    develop,
    draw_gains,
    draw_mosaic,
    draw_share,
    draw_single,
)
from data.augment.on_device import Stored
from data.augment.pixels import Recipe, paint
from data.images import REDUCED, ImageError, read_image
from data.labels.index import LabelIndex
from data.path_array import FlatPaths
from data.photo_files import in_users_words
from data.sampling import Partners
from utils.errors import UserError, printable
from utils.hardware import usable_cores
from utils.letterbox import Letterbox

MAX_REPLACEMENTS = 100
# Samples whose photos are held at once, so that their boxes are computed together.
TOGETHER = 4

log = logging.getLogger(__name__)

# A row, (epoch, row), or (epoch, row, (h, w)).
Key = int | tuple[int, int] | tuple[int, int, tuple[int, int]]


class Sample(NamedTuple):
    """image (3, H, W) uint8 RGB, boxes (T, 4) float32 xyxy network pixels, labels (T,) int64, row in the LabelIndex.

    The image lies channels last in memory; letterbox says how the photo was fitted, None if it was augmented.
    A training sample of photos on a device has the image's recipe instead.
    """

    image: Tensor | Recipe
    boxes: Tensor
    labels: Tensor
    index: int  # type: ignore[assignment]  # a tuple has a method of this name
    letterbox: Letterbox | None


class Samples(NamedTuple):
    """The samples of a batch, and the array (B, H, W, 3) uint8 that holds their images; None where they are recipes."""

    samples: list[Sample]
    images: np.ndarray | None = None


class DetectionDataset(Dataset):
    """`dataset[epoch, i]` is image i, augmented for that epoch or else letterboxed; `dataset[i]` is epoch 0.

    `dataset[epoch, i, size]` is a training sample of another size (h, w), in which the scaled photo has room.
    A sample depends on seed, epoch, i and size alone. `cache` keeps all photos, scaled to image_size, in memory.
    Mosaics are made of any photos, or with `group` of those that are as near in the epoch's order
    (data/sampling.py). Deep photos are scaled by `photo_bits` (data/images.py).
    """

    def __init__(
        self,
        index: LabelIndex,
        image_size: tuple[int, int],
        augmentation: Augmentation | None = None,
        seed: int = 0,
        cache: bool = False,
        group: int = 0,
        photo_bits: int = 0,
    ) -> None:
        self.index, self.photo_bits = index, photo_bits
        # All that workers read are arrays: these, and the index's own.
        self._paths = FlatPaths(index.images)
        self.image_size = image_size
        self.augmentation = augmentation
        self.seed = seed
        self.partners = Partners(len(index), seed, group)
        # The photos of a group, for as long as mosaics are made of them.
        self._decoded: dict[int, np.ndarray] = {}
        # In shared memory: what one worker finds undecodable, all and the parent know.
        self._undecodable = torch.zeros(len(index), dtype=torch.bool).share_memory_()
        self._cache: Tensor | None = None
        self._starts = np.zeros(0, np.int64)
        # The (h, w) of the scaled photos, and what leads boxes there (N, 4).
        self._inner = scaled_sizes(index, image_size)
        self._ratios = np.tile(self._inner / index.sizes, 2)[:, [1, 0, 1, 0]].astype(np.float32)
        self._on_device = False
        if cache:
            self._cache = self._all_photos(torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        return self.__getitems__([key]).samples[0]

    def __getitems__(self, keys: Sequence[Key]) -> Samples:
        """Return the samples of a batch, of one size.

        A DataLoader asks for them at once, and need not copy their images.
        """
        size = keys[0][2] if isinstance(keys[0], tuple) and len(keys[0]) == 3 else self.image_size
        images = None if self._on_device else np.empty((len(keys), *size, 3), np.uint8)
        places = [(key[0], key[1]) if isinstance(key, tuple) else (0, key) for key in keys]
        if self.augmentation is None:
            assert images is not None  # recipes are a training's
            shown = [self._letterboxed(row, image) for (_, row), image in zip(places, images, strict=True)]
            return Samples(shown, images)
        samples: list[Sample] = []
        for first in range(0, len(keys), TOGETHER):
            rows, drafts = zip(*(self._draft(*place, size) for place in places[first : first + TOGETHER]), strict=True)
            for row, drawn in zip(rows, develop(drafts), strict=True):
                image = drawn.image if images is None else paint(drawn.image, images[len(samples)])
                samples.append(_sample(drawn._replace(image=image), row, None))
        return Samples(samples, images)

    def store(self, device: torch.device) -> Tensor:
        """Move all photos, scaled, to a device: (pixels, 3) uint8. Samples hold recipes from now on.

        The tensor is not kept here: loading processes have no use for it, and must not touch a GPU.
        """
        pixels = self._all_photos(device)
        self._on_device = True
        return pixels.view(-1, 3)

    @property
    def undecodable_rows(self) -> list[int]:
        """Rows of the photos that could not be decoded so far, in any worker."""
        return self._undecodable.nonzero().flatten().tolist()

    @property
    def undecodable(self) -> list[str]:
        """Paths of the photos that could not be decoded so far, in any worker."""
        return [self._paths[row] for row in self.undecodable_rows]

    @property
    def _fate(self) -> str:
        """Say what becomes of a photo that cannot be decoded."""
        measured = "image measured as a grey picture, its objects count as missed"
        return measured if self.augmentation is None else "image left out"

    def _letterboxed(self, row: int, image: np.ndarray) -> Sample:
        letterbox = self._fit(row)
        boxes, labels = self.index.of(row)
        try:
            photo = self._photo(row)
            assert isinstance(photo, np.ndarray)  # those that stay on a device are a training's
            image = letterbox.pad(photo, image)
        except ImageError:
            # Its truths still count, or a broken photo would make the result look better.
            image = letterbox.pad(np.empty((0, 0, 3), np.uint8), image)
        return _sample(Labelled(image, letterbox.boxes(boxes), labels), row, letterbox)

    def _draft(self, epoch: int, row: int, size: tuple[int, int]) -> tuple[int, Draft]:
        """Return what is drawn for a row's image, and the row whose photo stands in for an unreadable one."""
        settings = self.augmentation
        assert settings is not None
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, row])))
        closed = settings.close_mosaic_from is not None and epoch >= settings.close_mosaic_from
        row, first = self._read(row, rng)
        share = 1.0
        drawn: tuple[Composition, ...]
        if closed or rng.random() >= settings.mosaic:
            drawn = (draw_single(first, size, settings, rng),)
        else:
            partners = self.partners.of(epoch, row)
            drawn = (self._mosaic(first, partners, rng),)
            if rng.random() < settings.mixup:
                _, other = self._read(int(partners[rng.integers(len(partners))]), rng)
                drawn, share = (*drawn, self._mosaic(other, partners, rng)), draw_share(rng)
        return row, Draft(drawn, share, draw_gains(settings, rng))

    def _mosaic(self, first: Labelled, partners: np.ndarray, rng: Generator) -> Composition:
        assert self.augmentation is not None
        others = [self._read(row, rng)[1] for row in partners[rng.integers(len(partners), size=3)].tolist()]
        parts = [first, *others]
        parts = [parts[place] for place in rng.permutation(4)]
        return draw_mosaic(parts, self.image_size, self.augmentation, rng)

    def _read(self, row: int, rng: Generator) -> tuple[int, Labelled]:
        """Return a photo scaled to fit, with its boxes, and its row.

        Another one, drawn, where the row's cannot be decoded.
        """
        for _ in range(MAX_REPLACEMENTS):
            try:
                photo = self._photo(row)
            except ImageError:
                row = int(rng.integers(len(self)))
                continue
            boxes, labels = self.index.of(row)
            return row, Labelled(photo, boxes * self._ratios[row], labels)
        raise UserError(f"{MAX_REPLACEMENTS} images drawn in a row cannot be decoded, such as {self.undecodable[0]}")

    def _fit(self, row: int) -> Letterbox:
        return Letterbox.fit(self.index.sizes[row].tolist(), self.image_size)

    def _photo(self, row: int) -> np.ndarray | Stored:
        """Return the photo scaled to fit the image size, not to be written to.

        ImageError, logged once, if it is unusable.
        """
        if not len(self._starts):
            return self._remembered(row) if self.partners.group else self._load(row)
        if self._undecodable[row]:
            raise ImageError(self._paths[row], "cannot be decoded")
        start, (height, width) = self._starts[row], self._inner[row].tolist()
        if self._cache is None:
            return Stored(int(start) // 3, (height, width, 3))
        return self._cache.numpy()[start : start + height * width * 3].reshape(height, width, 3)

    def _remembered(self, row: int) -> np.ndarray:
        photo = self._decoded.pop(row, None)
        # The last one used is the last one to go.
        self._decoded[row] = photo = self._load(row) if photo is None else photo
        if len(self._decoded) > self.partners.group:
            del self._decoded[next(iter(self._decoded))]
        return photo

    def _load(self, row: int) -> np.ndarray:
        path, fit = self._paths[row], self._fit(row)
        reduce = 1
        # Evaluation takes the better filter over all pixels; not worth its time where the image is distorted anyway.
        if self.augmentation is not None:
            reduce = max(factor for factor in REDUCED if fit.scale * factor <= 1 or factor == 1)
        try:
            photo = read_image(path, reduce, self.photo_bits)
            if np.abs(np.array(photo.shape[:2]) * reduce - self.index.sizes[row]).max() >= reduce:
                raise ImageError(path, "has another size than when its labels were read")
        except ImageError as error:
            if not self._undecodable[row]:
                self._undecodable[row] = True
                log.warning("%s: %s", self._fate, in_users_words(printable(error)))
            raise
        return fit.resize(photo, cv2.INTER_AREA if self.augmentation is None else cv2.INTER_LINEAR)

    def _all_photos(self, device: torch.device) -> Tensor:
        """Return the bytes of all photos, scaled, one after the other on a device.

        From now on none is read from disk.
        """
        first = _first_rows(self.index)
        sizes = _stored_bytes(self.index, self.image_size, first)
        starts = sizes.cumsum() - sizes
        # A tensor: worker processes that are not forked get it as shared memory instead of a copy each.
        photos = torch.empty(int(sizes.sum()), dtype=torch.uint8, device=device)

        def load(row: int) -> None:
            with contextlib.suppress(ImageError):
                photos[starts[row] : starts[row] + sizes[row]] = torch.from_numpy(self._load(row).reshape(-1))

        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(load, np.unique(first).tolist()))
        self._undecodable.copy_(self._undecodable[first])
        self._starts = starts[first]
        return photos


def cache_bytes(index: LabelIndex, image_size: tuple[int, int]) -> int:
    """Return the memory that the photos of a split take when scaled to fit image_size (h, w), repeated ones once."""
    return int(_stored_bytes(index, image_size, _first_rows(index)).sum())


def scaled_sizes(index: LabelIndex, image_size: tuple[int, int]) -> np.ndarray:
    """Return the (h, w) (N, 2) that the photos of a split have when scaled to fit image_size (h, w)."""
    # Letterbox.inner of all at once: COCO has 118,000.
    scale = (image_size / index.sizes).min(axis=1, keepdims=True)
    return np.rint(index.sizes * scale).clip(1).astype(np.int64)


def _first_rows(index: LabelIndex) -> np.ndarray:
    """Find for each row (N,) the first one with the same photo: a split may repeat them (data/sampling.py)."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(image, row) for row, image in enumerate(index.images)], np.int64)


def _stored_bytes(index: LabelIndex, image_size: tuple[int, int], first: np.ndarray) -> np.ndarray:
    """Return the bytes (N,) of a row's photo when scaled to fit image_size (h, w); 0 if an earlier row has the same."""
    return scaled_sizes(index, image_size).prod(axis=1) * 3 * (first == np.arange(len(index)))


def _sample(labelled: Labelled, row: int, letterbox: Letterbox | None) -> Sample:
    image, boxes, labels = labelled
    pixels = torch.from_numpy(image).permute(2, 0, 1) if isinstance(image, np.ndarray) else image
    return Sample(pixels, torch.from_numpy(boxes), torch.from_numpy(labels), row, letterbox)
