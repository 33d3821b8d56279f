"""Repeat-factor sampling: by hand, and against a plain loop over photos and classes."""

import math

import numpy as np
import pytest

from data.labels.index import LabelIndex
from data.sampling import repeat_factors, repeated


def index_of(labels):
    """A split whose photo i has the classes labels[i]; a box's first number says which it is."""
    counts = [len(part) for part in labels]
    total = sum(counts)
    boxes = np.arange(total * 4, dtype=np.float32).reshape(total, 4)
    return LabelIndex(
        tuple(f"{number}.jpg" for number in range(len(labels))),
        np.stack([np.arange(len(labels)), np.arange(len(labels))], axis=1).astype(np.int32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes,
        np.concatenate([np.asarray(part, dtype=np.int64) for part in labels]),
        None,
    )


def test_by_hand():
    """Class 1 is in one photo of four: sqrt(1 / .25) = 2. Class 0 is in all that are labelled, three: sqrt(4 / 3)."""
    split = index_of([[0, 0], [0, 1], [], [0]])
    np.testing.assert_allclose(repeat_factors(split, 1.0), [math.sqrt(4 / 3), 2, 1, math.sqrt(4 / 3)])
    assert repeated(split, 1.0).images == ("0.jpg", "0.jpg", "1.jpg", "1.jpg", "2.jpg", "3.jpg", "3.jpg")
    assert repeated(split, 0.25).images == split.images
    assert repeated(split, 0) is split


@pytest.mark.parametrize("threshold", [0.001, 0.1, 0.7])
def test_a_plain_loop_says_the_same(threshold):
    rng = np.random.default_rng(0)
    labels = [np.minimum(rng.geometric(0.3, rng.integers(0, 6)) - 1, 12).tolist() for _ in range(60)]
    split, longer = index_of(labels), repeated(index_of(labels), threshold)
    shown = []
    for number, classes in enumerate(labels):
        having = [sum(each in other for other in labels) / len(labels) for each in classes]
        factor = max([1.0, *(math.sqrt(threshold / fraction) for fraction in having)])
        shown += [number] * math.ceil(factor)
    assert longer.images == tuple(f"{number}.jpg" for number in shown)
    for row, number in enumerate(shown):
        assert longer.sizes[row].tolist() == split.sizes[number].tolist()
        for part, expected in zip(longer.of(row), split.of(number), strict=True):
            np.testing.assert_array_equal(part, expected)
