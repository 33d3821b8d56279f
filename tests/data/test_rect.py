"""--rect: batches of photos of similar shape, padded no more than they need, each photo once an epoch."""

from collections import Counter

import cv2
import numpy as np
import pytest

from data.augment.augmentation import Augmentation
from data.dataset import DetectionDataset
from data.labels.index import load_labels
from data.loader import RectSampler, build_loader

SIZES = [(40, 80), (80, 40), (80, 80), (41, 79), (60, 80), (80, 61), (33, 77), (50, 80), (80, 50), (80, 30), (64, 80)]
STILL = Augmentation(
    hsv_h=0, hsv_s=0, hsv_v=0, degrees=0, translate=0, scale=0, shear=0, perspective=0, flipud=0, fliplr=0, mosaic=0
)


@pytest.fixture
def index(tmp_path):
    images, labels = [], []
    for number, (height, width) in enumerate(SIZES):
        images.append(tmp_path / f"{number:02}.png")
        labels.append(tmp_path / f"{number:02}.txt")
        cv2.imwrite(str(images[-1]), np.full((height, width, 3), number + 1, np.uint8))
        labels[-1].write_text("0 0.5 0.5 1 1\n")
    return load_labels(images, labels, 1, tmp_path / "cache")


def batches_of(index, epoch=0, rank=0, world_size=1, batch=4, workers=0):
    dataset = DetectionDataset(index, (96, 96), STILL)
    loader = build_loader(dataset, batch, workers, True, 0, rank=rank, world_size=world_size, rect_stride=32)
    loader.sampler.set_epoch(epoch)
    return list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_every_photo_comes_once_at_its_own_scale_in_the_least_padding(workers, index):
    batches = batches_of(index, workers=workers)
    assert Counter(row for batch in batches for row in batch.index.tolist()) == Counter(range(len(SIZES)))
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    assert len({tuple(batch.images.shape[-2:]) for batch in batches}) > 1
    for batch in batches:
        scaled = [np.round(np.array(SIZES[row]) * 96 / max(SIZES[row])) for row in batch.index.tolist()]
        least = (-(-np.max(scaled, axis=0) // 32) * 32).astype(int)
        assert tuple(batch.images.shape[-2:]) == tuple(least)
        for place, (height, width) in enumerate(scaled):
            x1, y1, x2, y2 = batch.targets.boxes[batch.targets.image == place][0].tolist()
            assert (y2 - y1, x2 - x1) == (pytest.approx(height), pytest.approx(width))
            shown = batch.images[place, 0] == batch.index[place] + 1
            assert int(shown.sum()) == height * width


def test_photos_of_a_batch_are_of_similar_shape_and_epochs_differ_in_order_only(index):
    first, second = ([frozenset(batch.index.tolist()) for batch in batches_of(index, epoch)] for epoch in (0, 3))
    assert set(first) == set(second)
    ratios = sorted([[h / w for h, w in (SIZES[row] for row in rows)] for rows in first], key=min)
    assert all(max(low) <= min(high) for low, high in zip(ratios, ratios[1:], strict=False))
    orders = {tuple(map(tuple, (batch.index.tolist() for batch in batches_of(index, epoch)))) for epoch in range(8)}
    assert len(orders) > 1


def test_ranks_share_every_batch_and_its_size(index):
    whole, shares = batches_of(index), [batches_of(index, rank=rank, world_size=2, batch=2) for rank in (0, 1)]
    assert len(whole) == len(shares[0]) == len(shares[1])
    for together, *parts in zip(whole, *shares, strict=True):
        assert {row for part in parts for row in part.index.tolist()} == set(together.index.tolist())
        assert {part.images.shape[-2:] for part in parts} == {together.images.shape[-2:]}


def test_a_non_square_input_bounds_the_batches():
    sizes = np.array([[64, 40], [64, 96], [30, 96]])
    sampler = RectSampler(sizes, 1, 32, seed=0)
    assert {key[2] for key in sampler} == {(64, 64), (64, 96), (32, 96)}
    assert len(sampler) == 3
