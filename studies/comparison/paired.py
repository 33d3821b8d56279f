"""Means, paired differences, their confidence intervals and p values by Student's t, and Holm's correction of these."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """Mean of n values, their standard deviation, and a confidence interval; NaN where n is too small for it."""

    n: int
    mean: float
    sd: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Say whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    @property
    def p(self) -> float:
        """Return how likely a mean at least this far from zero is where there is none; NaN of fewer than two values."""
        if self.n < 2:
            return math.nan
        if not self.sd:
            return 0.0 if self.mean else 1.0
        return float(2 * stats.t.sf(abs(self.mean) / (self.sd / math.sqrt(self.n)), self.n - 1))


def t_quantile(confidence: float, degrees: int) -> float:
    """Return the t that |T| stays below with this probability, for Student's T with so many degrees of freedom."""
    return float(stats.t.ppf((1 + confidence) / 2, degrees))


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return mean, standard deviation and interval of values that are not NaN."""
    known = np.asarray([value for value in values if value == value], dtype=np.float64)
    if not len(known):
        return Estimate(0, math.nan, math.nan, math.nan, math.nan)
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(len(known), mean, math.nan, math.nan, math.nan)
    sd = float(known.std(ddof=1))
    half = t_quantile(confidence, len(known) - 1) * sd / math.sqrt(len(known))
    return Estimate(len(known), mean, sd, mean - half, mean + half)


def paired_difference(
    values: Mapping[int, float], baseline: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate:
    """Return values minus baseline over the seeds that both have."""
    seeds = sorted(values.keys() & baseline.keys())
    return estimate([values[seed] - baseline[seed] for seed in seeds], confidence)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Correct the p values of several comparisons for their number, after Holm (1979); NaN is none and stays.

    Calling what is below .05 a difference is then wrong anywhere among them in at most 5 of 100 such families.
    """
    known = sorted((p, name) for name, p in p_values.items() if p == p)
    adjusted, highest = dict.fromkeys(p_values, math.nan), 0.0
    for place, (p, name) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - place) * p))
        adjusted[name] = highest
    return adjusted


def winner(by_variant: Mapping[str, Mapping[int, float]]) -> str | None:
    """Return the variant above every other one by intervals that hold together (Bonferroni); None without one."""
    names = list(by_variant)
    if len(names) < 2:
        return None
    confidence = 1 - (1 - CONFIDENCE) / math.comb(len(names), 2)
    for name in names:
        others = [
            paired_difference(by_variant[name], by_variant[other], confidence) for other in names if other != name
        ]
        if all(difference.low > 0 for difference in others):
            return name
    return None
