"""Student's t against printed tables, paired differences against hand calculation, and no winner without evidence."""

import math

import numpy as np
import pytest

from studies.comparison.paired import estimate, paired_difference, t_quantile, winner


@pytest.mark.parametrize(
    ("confidence", "degrees", "expected"),
    # From the tables in statistics textbooks (two-sided).
    [
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 3, 3.182),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.95, 30, 2.042),
        (0.99, 2, 9.925),
        (0.99, 4, 4.604),
        (0.90, 5, 2.015),
        (0.999, 2, 31.599),
        (0.998, 10, 4.144),
    ],
)
def test_t_quantiles(confidence, degrees, expected):
    assert t_quantile(confidence, degrees) == pytest.approx(expected, abs=1e-3)


def test_t_quantile_against_simulation():
    generator = np.random.default_rng(0)
    samples = generator.standard_normal((200_000, 4))
    t = np.abs(samples.mean(1)) / (samples.std(1, ddof=1) / 2)
    assert np.mean(t < t_quantile(0.95, 3)) == pytest.approx(0.95, abs=0.003)


def test_estimate_by_hand():
    found = estimate([1.0, 2.0, 3.0, math.nan])
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), abs=1e-3)
    assert not found.excludes_zero
    assert estimate([]).n == 0
    alone = estimate([5.0])
    assert (alone.n, alone.mean, alone.excludes_zero) == (1, 5.0, False)
    assert math.isnan(alone.low)


def test_pairing_takes_the_seeds_that_both_have():
    found = paired_difference({0: 0.5, 1: 0.7, 3: 9.0}, {0: 0.4, 1: 0.5, 2: 7.0})
    assert (found.n, found.mean) == (2, pytest.approx(0.15))


def test_pairing_sees_what_the_means_hide():
    baseline = {0: 0.30, 1: 0.50, 2: 0.70}
    found = paired_difference({seed: value + 0.01 + seed * 1e-3 for seed, value in baseline.items()}, baseline)
    assert found.excludes_zero


def test_winner_needs_intervals_that_hold_together():
    base = {0: 0.30, 1: 0.31, 2: 0.32}
    clear = {seed: value + 0.05 + 0.0001 * seed for seed, value in base.items()}
    higher_on_average = {0: 0.29, 1: 0.33, 2: 0.36}
    assert winner({"base": base, "clear": clear}) == "clear"
    assert winner({"base": base, "higher": higher_on_average}) is None
    assert winner({"base": base}) is None
    # A difference that one 95 % interval carries, and three together do not.
    just = {0: 0.310, 1: 0.324, 2: 0.338}
    assert paired_difference(just, base).low > 0
    assert winner({"base": base, "just": just, "low": {0: 0.1, 1: 0.11, 2: 0.12}}) is None
