"""Confidence intervals of correlations, and whether two intervals leave room for chance."""

from __future__ import annotations

import math
from statistics import NormalDist

Interval = tuple[float, float]


def correlation_interval(r: float, count: float, level: float = 0.95) -> Interval:
    r"""Confidence interval of a correlation over problems, by Fisher's (1921) transformation.

    .. math::

        \tanh\left( \operatorname{artanh} r \pm \frac{z}{\sqrt{n - 3}} \right)

    Args:
        r: Correlation in [-1, 1]; Pearson's, or with a little less coverage Spearman's.
        count: Problems n that it is over.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound in [-1, 1]; both NaN of fewer than 4 problems or where there is no correlation.

    Raises:
        ValueError: If `r` or `level` is out of range.

    Example:
        >>> [round(bound, 3) for bound in correlation_interval(0.5, 103)]
        [0.339, 0.632]
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a value in (0, 1), such as 0.95")
    if abs(r) > 1 + 1e-6:
        raise ValueError(f"r is {r}; expected a correlation in [-1, 1]")
    if math.isnan(r) or not count > 3:
        return math.nan, math.nan
    if abs(r) >= 1:  # rounding may exceed it
        return math.copysign(1.0, r), math.copysign(1.0, r)
    half = NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(count - 3)
    return math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)


def overlap(first: Interval, second: Interval) -> bool | None:
    """Whether two intervals have a value in common.

    Two 95% intervals that do not overlap differ by more than chance would explain; of two that do nobody knows.

    Args:
        first: Lower and upper bound.
        second: As `first`.

    Returns:
        None if a bound is NaN.

    Example:
        >>> overlap((0.1, 0.3), (0.3, 0.5)), overlap((0.1, 0.2), (0.3, 0.5)), overlap((math.nan, math.nan), (0.3, 0.5))
        (True, False, None)
    """
    if any(math.isnan(bound) for bound in (*first, *second)):
        return None
    return max(first[0], second[0]) <= min(first[1], second[1])
