"""The sizes that --multi-scale draws: as often below the input size as above it, within half of it either way."""

import math
import random
from collections import Counter

import pytest

from engine.settings.configure import plan_run
from engine.train.epoch import largest_size, multi_scale_sizes
from utils.errors import UserError

STEPS = 4000


def drawn(strides, stride=32):
    """How often each number of strides came, for an input of so many."""
    size_at = multi_scale_sizes(stride, seed=0)
    return Counter(size_at(step, (strides * stride, strides * stride))[0] // stride for step in range(STEPS))


@pytest.mark.parametrize("strides", range(2, 8))
def test_small_sizes_are_drawn_evenly_around_the_input(strides):
    counts = drawn(strides)
    # A number n comes as often as the factor times `strides` lies nearest to it.
    for number in range(1, 2 * strides):
        share = max(min(number + 0.5, 1.5 * strides) - max(number - 0.5, 0.5 * strides), 0) / strides
        assert counts[number] / STEPS == pytest.approx(share, abs=0.035), number
    mean = sum(number * count for number, count in counts.items()) / STEPS
    assert mean == pytest.approx(strides, rel=0.02)
    assert max(counts) * 32 <= largest_size((strides * 32, strides * 32), 32)[0]


@pytest.mark.parametrize("size", [(256, 256), (640, 640), (416, 320)])
def test_ordinary_sizes_are_what_earlier_runs_drew(size):
    size_at = multi_scale_sizes(32, seed=3)
    for step in range(300):
        factor = random.Random(f"3 {step}").uniform(0.5, 1.5)
        assert size_at(step, size) == tuple(math.ceil(side * factor / 32) * 32 for side in size)


def test_an_input_of_one_stride_has_nothing_to_vary(flags):
    with pytest.raises(UserError, match="--multi-scale: 32 px is one stride"):
        plan_run({**flags, "imgsz": [32], "multi_scale": True})
    plan_run({**flags, "imgsz": [32, 64], "multi_scale": True})
