"""Means, rates and correlations with their 95% intervals, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import correlation as linear_correlation
from statistics import fmean, pstdev, stdev
from typing import Final, NamedTuple

from masa_lightning.functional.intervals import correlation_interval, overlap

Z: Final = 1.959963984540054
"""Quantile of the normal distribution at 97.5%."""
# Student's t at 97.5%, of 1 to 30 degrees of freedom.
_T: Final = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


class Estimate(NamedTuple):
    """A number with its 95% interval; the bounds are None where none is known."""

    value: float
    low: float | None
    high: float | None
    n: int
    """What it rests on."""


def student_t(freedom: int) -> float:
    """Student's t quantile at 97.5%.

    Args:
        freedom: Degrees of freedom, >= 1. Above 30 by the expansion of Cornish and Fisher (1938) about the normal quantile,
            whose error is less than 1e-4 there.

    >>> student_t(5), round(student_t(60), 3)
    (2.5706, 2.0)
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    return Z + (Z**3 + Z) / (4 * freedom) + (5 * Z**5 + 16 * Z**3 + 3 * Z) / (96 * freedom**2)


def mean(values: Sequence[float]) -> Estimate | None:
    """A mean with Student's interval; without bounds of a single value, None of none.

    >>> mean([1.0, 2.0, 3.0])
    Estimate(value=2.0, low=-0.484..., high=4.484..., n=3)
    """
    if not values:
        return None
    middle = fmean(values)
    if len(values) == 1:
        return Estimate(middle, None, None, 1)
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Estimate(middle, middle - half, middle + half, len(values))


def of_spread(value: float, spread: float, n: int) -> Estimate:
    """A mean whose standard deviation over n is known, with Student's interval."""
    if n < 2 or not math.isfinite(spread):
        return Estimate(value, None, None, n)
    half = student_t(n - 1) * spread / math.sqrt(n)
    return Estimate(value, value - half, value + half, n)


def rate(values: Sequence[float]) -> Estimate | None:
    """A mean rate over problems with Wilson's interval, as `functional.calibration.rate_interval`; None of no problem.

    Args:
        values: One a problem, in [0, 1].
    """
    if not values:
        return None
    middle, n, z2 = fmean(values), len(values), Z**2
    half = math.sqrt(max(0.0, z2 * (middle * (1 - middle) / n + z2 / (4 * n**2))))
    low, high = ((middle + z2 / (2 * n) + sign * half) / (1 + z2 / n) for sign in (-1, 1))
    return Estimate(middle, max(0.0, low), min(1.0, high), n)


def correlation(r: float, n: int) -> Estimate:
    """A correlation of n pairs with its interval (`functional.intervals.correlation_interval`)."""
    if n < 4 or not abs(r) < 1:
        return Estimate(r, None, None, n)
    return Estimate(r, *correlation_interval(r, n), n)


def pearson(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Pearson's correlation; None where one side does not vary.

    >>> pearson([(0.0, 1.0), (1.0, 3.0)])
    1.0
    """
    if len(pairs) < 2:
        return None
    x, y = zip(*pairs, strict=True)
    if min(pstdev(x), pstdev(y)) ** 2 * len(pairs) <= 1e-12:
        return None
    return max(-1.0, min(1.0, linear_correlation(x, y)))


def apart(first: Estimate, second: Estimate) -> bool | None:
    """Whether two intervals are apart; None where one is not known."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return not overlap((first.low, first.high), (second.low, second.high))
