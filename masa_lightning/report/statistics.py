"""Means, rates and correlations with their 95% intervals, without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import correlation as linear_correlation
from statistics import fmean, pstdev, stdev
from typing import NamedTuple

from masa_lightning.functional.intervals import (
    correlation_interval,
    overlap,
    share_interval,
    student_t,
)


class Estimate(NamedTuple):
    """A number with its 95% interval; the bounds are None where none is known: of one value, and of equal ones."""

    value: float
    low: float | None
    high: float | None
    n: int
    """What it rests on."""

    def within(self, least: float | None, most: float | None) -> Estimate:
        """The same with bounds that are cut where no value can be.

        >>> Estimate(0.75, 0.25, 1.25, 2).within(0, 1)
        Estimate(value=0.75, low=0.25, high=1, n=2)
        """
        low = self.low if self.low is None or least is None else max(self.low, least)
        high = self.high if self.high is None or most is None else min(self.high, most)
        return self._replace(low=low, high=high)


def mean(values: Sequence[float]) -> Estimate | None:
    """A mean with Student's interval; without bounds of a single value or of equal ones, None of none.

    >>> mean([1.0, 2.0, 3.0])
    Estimate(value=2.0, low=-0.484..., high=4.484..., n=3)
    """
    if not values:
        return None
    return of_spread(fmean(values), stdev(values) if len(values) > 1 else 0.0, len(values))


def of_spread(value: float, spread: float, n: int) -> Estimate:
    """A mean whose standard deviation over n is known, with Student's interval."""
    if (
        n < 2 or not max(1e-12, 1e-9 * abs(value)) < spread < math.inf
    ):  # equal values do not tell how far others would be
        return Estimate(value, None, None, n)
    half = student_t(n - 1) * spread / math.sqrt(n)
    return Estimate(value, value - half, value + half, n)


def rate(values: Sequence[float]) -> Estimate | None:
    """A mean rate over problems with its interval (`functional.intervals.share_interval`); None of no problem.

    Args:
        values: One a problem, in [0, 1].
    """
    if not values:
        return None
    middle = fmean(values)
    return Estimate(middle, *share_interval(middle, len(values)), len(values))


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
