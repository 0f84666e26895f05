"""Intervals of correlations, against simulation."""

import math

import pytest
import torch

from masa_lightning.functional.calibration import pearson
from masa_lightning.functional.intervals import correlation_interval, overlap


@pytest.mark.parametrize("true", [0.0, 0.5, 0.9])
def test_an_interval_covers_the_truth_as_often_as_it_says(true):
    generator = torch.Generator().manual_seed(0)
    covered, draws, count = 0, 1000, 40
    for _ in range(draws):
        x, noise = torch.randn(2, count, generator=generator, dtype=torch.float64)
        y = true * x + math.sqrt(1 - true**2) * noise
        low, high = correlation_interval(pearson(x, y).item(), count)
        covered += low <= true <= high
    assert 0.93 < covered / draws < 0.97


def test_edges():
    assert all(map(math.isnan, correlation_interval(math.nan, 100)))
    assert all(map(math.isnan, correlation_interval(0.5, 3)))
    assert correlation_interval(1.0000001, 10) == (1.0, 1.0)
    low, high = correlation_interval(0.3, 4)
    assert -1 < low < -0.8 and 0.9 < high < 1
    for r, level in ((1.5, 0.95), (0.5, 1.0)):
        with pytest.raises(ValueError, match="expected"):
            correlation_interval(r, 10, level)


def test_overlap_is_symmetric():
    assert overlap((0, 1), (0.5, 2)) is overlap((0.5, 2), (0, 1)) is True
    assert overlap((0, 1), (2, 3)) is overlap((2, 3), (0, 1)) is False
    assert overlap((0, 1), (math.nan, 3)) is None
