"""Student's t against printed tables, paired differences against hand calculation, and no winner without evidence."""

import math

import numpy as np
import pytest
from scipy import stats

from studies.comparison.paired import estimate, holm, paired_difference, t_quantile, winner


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


def test_p_values_against_scipy_s_own_test():
    generator = np.random.default_rng(1)
    for count in (2, 3, 5, 12):
        values = generator.normal(0.4, 1, count)
        assert estimate(list(values)).p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert estimate([2.0, 2.0]).p == 0
    assert estimate([0.0, 0.0, 0.0]).p == 1
    assert math.isnan(estimate([2.0]).p)


def test_a_p_value_is_below_five_percent_where_the_interval_excludes_zero():
    generator = np.random.default_rng(2)
    for _ in range(200):
        found = estimate(list(generator.normal(0.7, 1, 4)))
        assert (found.p < 0.05) == found.excludes_zero


def step_down(p_values, level):
    """Holm's procedure as he describes it: the smallest p against level / m, the next against level / (m - 1), ..."""
    rejected, left = set(), dict(p_values)
    while left:
        name = min(left, key=left.get)
        if left[name] > level / len(left):
            break
        rejected.add(name)
        del left[name]
    return rejected


def test_holm_rejects_what_his_procedure_does_at_every_level():
    generator = np.random.default_rng(3)
    for count in (1, 2, 5, 14):
        p_values = {f"v{number}": float(p) for number, p in enumerate(generator.uniform(0, 1, count) ** 3)}
        adjusted = holm(p_values)
        for level in (0.001, 0.01, 0.05, 0.2, 0.7):
            assert {name for name, p in adjusted.items() if p <= level} == step_down(p_values, level)


def test_holm_leaves_out_what_has_no_p_value():
    adjusted = holm({"a": 0.01, "b": math.nan, "c": 0.04})
    assert (adjusted["a"], adjusted["c"]) == (0.02, 0.04)
    assert math.isnan(adjusted["b"])
    assert holm({}) == {}


def test_holm_seldom_finds_anything_where_there_is_nothing():
    """At most 5 % of families of ten comparisons without a difference, where uncorrected 40 % find one."""
    generator = np.random.default_rng(4)
    found = raw = 0
    for _ in range(400):
        p_values = {str(number): estimate(list(generator.normal(0, 1, 5))).p for number in range(10)}
        raw += min(p_values.values()) < 0.05
        found += min(holm(p_values).values()) < 0.05
    assert found / 400 < 0.08
    assert raw / 400 > 0.3
