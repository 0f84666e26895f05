"""Confidence intervals of means, rates and correlations, without torch; and whether two leave room for chance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Final, TypeVar

Interval = tuple[float, float]
Name = TypeVar("Name")

_Z: Final = NormalDist().inv_cdf(0.975)
# Student's t at 97.5%, of 1 to 30 degrees of freedom.
_T: Final = (
    *(12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281),
    *(2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860),
    *(2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423),
)


def student_t(freedom: int) -> float:
    """Student's t quantile at 97.5%.

    Args:
        freedom: Degrees of freedom, >= 1. Above 30 by the expansion of Cornish and Fisher (1938) about the normal quantile,
            whose error is less than 1e-4 there.

    Example:
        >>> student_t(5), round(student_t(60), 3)
        (2.5706, 2.0)
    """
    if freedom <= len(_T):
        return _T[freedom - 1]
    return _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)


def mean_interval(values: Sequence[float]) -> Interval:
    """95% interval of a mean, by Student's t.

    Args:
        values: One a problem, or one a run.

    Returns:
        Lower and upper bound; both NaN of fewer than two values.

    Example:
        >>> [round(bound, 3) for bound in mean_interval([1.0, 2.0, 3.0])]
        [-0.484, 4.484]
    """
    if len(values) < 2:
        return math.nan, math.nan
    half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_differences(first: Mapping[Name, float], second: Mapping[Name, float]) -> list[float]:
    """Differences of the problems that were measured twice.

    The mean's interval is much narrower than the difference of two intervals: what problems differ in is left out.

    Args:
        first: A number of each problem, by its name.
        second: The same, measured later.

    Returns:
        Second less first, of the names that are in both.

    Example:
        >>> paired_differences({"a": 0.25, "b": 1.0}, {"b": 0.5, "a": 1.0, "c": 0.0})
        [0.75, -0.5]
    """
    return [second[name] - value for name, value in first.items() if name in second]


def share_interval(share: float, count: float, level: float = 0.95) -> Interval:
    r"""Wilson's (1927) confidence interval of a share of n verdicts.

    .. math::

        \frac{1}{1 + z^2 / n} \left(
            p + \frac{z^2}{2 n} \pm z \sqrt{\frac{p (1 - p)}{n} + \frac{z^2}{4 n^2}}
        \right)

    Args:
        share: p in [0, 1].
        count: n, > 0; it may be an effective number, no integer.
        level: Confidence, in (0, 1).

    Returns:
        Lower and upper bound in [0, 1].

    Example:
        >>> [round(bound, 3) for bound in share_interval(0.5, 4)]
        [0.15, 0.85]
    """
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = share + z2 / (2 * count)
    half = math.sqrt(max(0.0, z2 * (share * (1 - share) / count + z2 / (4 * count**2))))
    low, high = ((middle + sign * half) / (1 + z2 / count) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)


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
