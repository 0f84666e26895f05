"""Intervals, against scipy and against those that are logged."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from masa_lightning.functional.calibration import rate_interval
from masa_lightning.functional.intervals import student_t
from masa_lightning.report import statistics


@pytest.mark.parametrize("freedom", [1, 2, 7, 30, 31, 60, 1000])
def test_student_t(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-4)


def test_mean() -> None:
    values = [0.2, 0.5, 0.4, 0.9]
    found = statistics.mean(values)
    assert found is not None
    low, high = stats.t.interval(0.95, 3, loc=0.5, scale=stats.sem(values))
    assert found == pytest.approx((0.5, low, high, 4), abs=1e-4)
    assert statistics.of_spread(0.5, stats.tstd(values), 4) == pytest.approx(found)
    assert statistics.mean([]) is None
    assert statistics.mean([3.0]) == (3.0, None, None, 1)


@pytest.mark.parametrize("rates", [[0.0] * 30, [1.0, 0.25, 0.5], [1.0]])
def test_rates_have_the_interval_that_is_logged(rates: list[float]) -> None:
    found = statistics.rate(rates)
    assert found is not None
    assert found[1:3] == pytest.approx(rate_interval(torch.tensor(rates)), abs=1e-7)


def test_correlation() -> None:
    pairs = [(0.1, 0.2), (0.4, 0.1), (0.5, 0.9), (0.8, 0.6), (0.9, 1.0)]
    theirs = stats.pearsonr(*zip(*pairs, strict=True))
    found = statistics.correlation(statistics.pearson(pairs) or 0.0, 5)
    assert found.value == pytest.approx(theirs.statistic)
    assert (found.low, found.high) == pytest.approx(theirs.confidence_interval(), abs=1e-6)
    assert statistics.pearson([(1.0, 1.0), (1.0, 2.0)]) is None
    assert statistics.correlation(1.0, 5) == (1.0, None, None, 5)


def test_apart() -> None:
    one, other, far = statistics.mean([1.0, 1.1]), statistics.mean([1.2, 1.3]), statistics.mean([90.0, 90.1])
    assert one and other and far
    assert statistics.apart(one, other) is False
    assert statistics.apart(far, one) is True
    assert statistics.apart(one, statistics.Estimate(0.0, None, None, 1)) is None
