"""Calibration metrics against scipy, brute force and plain loops."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from masa_lightning.functional.calibration import (
    brier_score,
    expected_calibration_error,
    length_calibration,
    pass_at_k,
    pass_rate_calibration,
    pearson,
    rate_interval,
    reliability_bins,
    spearman,
)

PROBLEMS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4), st.integers(1, 4), st.integers(0, 5)), max_size=12)
VALUES = st.lists(st.tuples(st.integers(0, 8), st.integers(-4, 4)), min_size=2, max_size=30)


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_equals_every_choice(n: int) -> None:
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
        rollouts = [1] * c + [0] * (n - c)
        share = statistics.fmean(any(choice) for choice in itertools.combinations(rollouts, k))
        assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_of_many() -> None:
    assert pass_at_k(10_000, 1, 10) == pytest.approx(0.001, rel=1e-12)
    for n, c, k in [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)]:
        with pytest.raises(ValueError, match="expected a value in"):
            pass_at_k(n, c, k)


@settings(max_examples=80, deadline=None)
@given(VALUES)
def test_correlations_equal_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = (list(column) for column in zip(*pairs, strict=True))
    tx, ty = torch.tensor(x) / 8, torch.tensor(y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert pearson(tx, ty).isnan()
        assert spearman(tx, ty).isnan()
    else:
        assert pearson(tx, ty).item() == pytest.approx(scipy.stats.pearsonr(x, y).statistic, abs=1e-9)
        assert spearman(tx, ty).item() == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-9)


def test_correlations_without_enough() -> None:
    for values in ([], [1.0], [0.1] * 7):
        assert pearson(torch.tensor(values), torch.tensor(values)).isnan()
        assert spearman(torch.tensor(values), torch.tensor(values)).isnan()
    assert spearman(torch.tensor([1.0, 2.0, math.nan]), torch.tensor([1.0, 2.0, 3.0])).isnan()
    assert pearson(torch.tensor([1e200, 2e200, 3e200], dtype=torch.float64), torch.arange(3)).item() == pytest.approx(1)


def test_pass_rate_calibration_equals_a_loop_over_rollouts() -> None:
    predicted, correct, count = [0.0, 0.25, 0.3, 0.99, 1.0, 0.5], [0, 3, 2, 8, 3, 0], [4, 8, 8, 8, 4, 16]
    rollouts = [
        (p, y) for p, c, n in zip(predicted, correct, count, strict=True) for y in [1] * c + [0] * (n - c)
    ]  # fmt: skip
    actual = [c / n for c, n in zip(correct, count, strict=True)]
    ece = 0.0
    for b in range(5):
        inside = [(p, y) for p, y in rollouts if b / 5 <= p < (b + 1) / 5 or (b == 4 and p == 1)]
        if inside:
            gap = statistics.fmean(p for p, _ in inside) - statistics.fmean(y for _, y in inside)
            ece += len(inside) / len(rollouts) * abs(gap)
    metrics = pass_rate_calibration(*(torch.tensor(x) for x in (predicted, correct, count)), n_bins=5)
    expected = {
        "mae": statistics.fmean(abs(p - a) for p, a in zip(predicted, actual, strict=True)),
        "bias": statistics.fmean(p - a for p, a in zip(predicted, actual, strict=True)),
        "pearson": scipy.stats.pearsonr(predicted, actual).statistic,
        "spearman": scipy.stats.spearmanr(predicted, actual).statistic,
        "brier": statistics.fmean((p - y) ** 2 for p, y in rollouts),
        "ece": ece,
        "auroc": statistics.fmean(
            (p > q) + 0.5 * (p == q) for p, right in rollouts if right for q, other in rollouts if not other
        ),
        "predicted_mean": statistics.fmean(predicted),
        "predicted_std": statistics.pstdev(predicted),
        "actual_mean": statistics.fmean(actual),
        "actual_std": statistics.pstdev(actual),
        "count": 6,
    }
    assert {k: v.item() for k, v in metrics.items()} == pytest.approx(expected, abs=1e-7)


def test_bins() -> None:
    predicted = torch.tensor([0.0, 0.05, 0.5, 1.0, 0.95])
    mean, outcome, count = reliability_bins(predicted, torch.tensor([0, 1, 1, 1, 0]))
    assert count.tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert [mean[0].item(), mean[5].item(), mean[9].item()] == pytest.approx([0.025, 0.5, 0.975])
    assert [outcome[0], outcome[5], outcome[9]] == [0.5, 1, 0.5]
    assert mean[1:5].isnan().all()
    ece = expected_calibration_error(predicted, torch.tensor([0, 1, 1, 1, 0]))
    assert ece.item() == pytest.approx((2 * 0.475 + 0.5 + 2 * 0.475) / 5)


def test_weights_are_repetitions() -> None:
    p, y, w = torch.tensor([0.2, 0.25, 0.8]), torch.tensor([0, 1, 1]), torch.tensor([3, 1, 2])
    repeated = p.repeat_interleave(w), y.repeat_interleave(w)
    torch.testing.assert_close(brier_score(p, y, w), brier_score(*repeated))
    torch.testing.assert_close(expected_calibration_error(p, y, 4, w), expected_calibration_error(*repeated, 4))


def assert_equal(metrics: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    got, wanted = ({name: x.item() for name, x in f.items()} for f in (metrics, expected))
    assert got == pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True)


@settings(max_examples=150, deadline=None)
@given(PROBLEMS)
def test_weighted_pass_rates_are_repeated_ones(problems: list[tuple[int, int, int, int]]) -> None:
    predicted, correct, count, weights = torch.tensor(problems, dtype=torch.int64).view(-1, 4).unbind(1)
    columns = predicted.double() / 8, correct.minimum(count), count
    expected = pass_rate_calibration(*(x.repeat_interleave(weights) for x in columns), n_bins=4)
    expected["count"] = torch.tensor(len(problems))  # what was observed
    assert_equal(pass_rate_calibration(*columns, 4, weights), expected)
    assert_equal(pass_rate_calibration(*columns, n_bins=4, weights=weights / 16), expected)  # only ratios matter
    once = pass_rate_calibration(*columns, weights=torch.full_like(weights, 3))
    assert_equal(once, pass_rate_calibration(*columns))


@settings(max_examples=150, deadline=None)
@given(PROBLEMS)
def test_weighted_lengths_are_repeated_ones(problems: list[tuple[int, int, int, int]]) -> None:
    predicted, actual, width, weights = torch.tensor(problems, dtype=torch.int64).view(-1, 4).unbind(1)
    actual = torch.where(actual == 0, torch.nan, actual.double())  # the first of five has no length
    low, high = actual - width, torch.where(width == 4, torch.nan, actual + width)  # of the widths, the last no range
    columns = predicted, actual, low, high
    expected = length_calibration(*(x.repeat_interleave(weights) for x in columns))
    expected["count"] = (~actual.isnan()).sum()
    assert_equal(length_calibration(*columns, weights), expected)
    assert_equal(length_calibration(*columns, weights=weights / 16), expected)
    assert_equal(length_calibration(*columns, torch.full_like(weights, 3)), length_calibration(*columns))


@settings(max_examples=150, deadline=None)
@given(PROBLEMS)
def test_weighted_correlations_are_repeated_ones(problems: list[tuple[int, int, int, int]]) -> None:
    x, y, _, weights = torch.tensor(problems, dtype=torch.int64).view(-1, 4).unbind(1)
    for correlation in (pearson, spearman):
        expected = correlation(x.repeat_interleave(weights), y.repeat_interleave(weights))
        for scaled in (weights, weights / 16):
            assert correlation(x, y, scaled).item() == pytest.approx(expected.item(), abs=1e-9, nan_ok=True)


def test_weighted_figures_by_hand() -> None:
    x, y, weights = torch.tensor([1, 2, 3]), torch.tensor([1, 3, 2]), torch.tensor([2.0, 1.0, 1.0])
    # Means 1.75, so deviations (-0.75, 0.25, 1.25); ranks (1.5, 3, 4), so deviations (-1, 0.5, 1.5) of the mean 2.5.
    assert pearson(x, y, weights).item() == pytest.approx(1.75 / 2.75)
    assert spearman(x, y, weights).item() == pytest.approx(3.5 / 4.5)
    rates = torch.tensor([0.5, 1.0]), torch.tensor([1, 4]), torch.tensor([4, 4])
    metrics = pass_rate_calibration(*rates, weights=torch.tensor([3, 1]))
    assert {name: x.item() for name, x in metrics.items()} == pytest.approx(
        {
            "mae": 0.75 / 4,
            "bias": 0.75 / 4,
            "pearson": 1,
            "spearman": 1,
            "brier": 3 * 4 * 0.25 / 16,
            "ece": 3 * 4 * 0.25 / 16,
            "auroc": (4 * 9 + 3 * 9 / 2) / (7 * 9),
            "predicted_mean": 2.5 / 4,
            "predicted_std": math.sqrt((3 * 0.125**2 + 0.375**2) / 4),
            "actual_mean": 1.75 / 4,
            "actual_std": math.sqrt((3 * 0.1875**2 + 0.5625**2) / 4),
            "count": 2,
        }
    )
    # Relative errors 0.1, 0.2 and 0.4; the second has no range, the third is outside of its own.
    lengths = torch.tensor([110, 120, 140]), torch.full((3,), 100.0)
    ranges = torch.tensor([90.0, math.nan, 90.0]), torch.tensor([110.0, math.nan, 110.0])
    for w, median, in_range in [
        ([1, 1, 2], 0.3, 1 / 3),
        ([2, 1, 1], 0.15, 2 / 3),
        ([1, 1, 2.5], 0.4, 1 / 3.5),
        ([0.5, 0, 0.5], 0.25, 1 / 2),
        ([0.3, 0.5, 0.3], 0.2, 1 / 2),
        ([0, 20, 0], 0.2, math.nan),
        ([0, 0, 0], math.nan, math.nan),
    ]:
        metrics = length_calibration(*lengths, *ranges, torch.tensor(w))
        assert metrics["abs_rel_error_median"].item() == pytest.approx(median, nan_ok=True)
        assert metrics["in_range"].item() == pytest.approx(in_range, nan_ok=True)
        assert metrics["count"] == 3


def test_a_weight_of_zero_leaves_out_whatever_the_values() -> None:
    x, y = torch.tensor([1.0, 2.0, math.nan]), torch.tensor([1.0, 3.0, 2.0])
    weights = torch.tensor([1, 1, 0])
    assert pearson(x, y, weights) == spearman(x, y, weights) == 1
    assert pearson(y, y, torch.tensor([0, 7, 0])).isnan()  # one pair, however often, is constant
    metrics = length_calibration(x, y, y, y, weights)
    assert metrics["bias"].item() == pytest.approx(-1 / 6)
    assert metrics["abs_rel_error_median"].item() == pytest.approx(1 / 6)
    assert length_calibration(x, y, y, y, weights + 1)["abs_rel_error_median"].isnan()


def test_length_calibration() -> None:
    predicted = [100.0, 250.0, 90.0, 400.0, 7.0]
    actual = [80.0, 300.0, 90.0, 200.0, math.nan]
    low = [80.0, 260.0, 90.0, math.nan, math.nan]
    high = [100.0, 340.0, 90.0, math.nan, math.nan]
    metrics = length_calibration(*(torch.tensor(x) for x in (predicted, actual, low, high)))
    expected = {
        "abs_rel_error": (20 / 80 + 50 / 300 + 0 + 1) / 4,
        "abs_rel_error_median": (20 / 80 + 50 / 300) / 2,
        "bias": (20 / 80 - 50 / 300 + 0 + 1) / 4,
        "pearson": scipy.stats.pearsonr(predicted[:4], actual[:4]).statistic,
        "spearman": scipy.stats.spearmanr(predicted[:4], actual[:4]).statistic,
        "in_range": 2 / 3,
        "predicted_mean": 210,
        "predicted_std": statistics.pstdev(predicted[:4]),
        "actual_mean": 167.5,
        "actual_std": statistics.pstdev(actual[:4]),
        "count": 4,
    }
    assert {k: v.item() for k, v in metrics.items()} == pytest.approx(expected, rel=1e-6)


def test_nothing_gives_nan_and_a_count_of_zero() -> None:
    none = torch.empty(0)
    for metrics in (pass_rate_calibration(none, none, none), length_calibration(none, none, none, none)):
        assert metrics.pop("count") == 0
        assert all(value.isnan() for value in metrics.values())
    assert all(map(math.isnan, rate_interval(none)))


@pytest.mark.parametrize("right", [0, 1, 15, 29, 30])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_interval_of_verdicts_is_wilsons(right: int, level: float) -> None:
    expected = scipy.stats.binomtest(right, 30).proportion_ci(level, method="wilson")
    rates = torch.tensor([1.0] * right + [0.0] * (30 - right))
    assert rate_interval(rates, level) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("problems", [10, 30, 100])
@pytest.mark.parametrize(("a", "b"), [(0.05, 1), (0.1, 1), (1, 3), (2, 2), (4, 0.5)])
def test_interval_covers_at_least_as_often_as_it_says(a: float, b: float, problems: int) -> None:
    """Problems of unequal difficulty, some hardly ever solved; 32 rollouts each, 1,000 times."""
    generator = np.random.default_rng(0)
    rates = torch.tensor(generator.binomial(32, generator.beta(a, b, size=(1000, problems))) / 32)
    bounds = [rate_interval(row) for row in rates]
    assert sum(low <= a / (a + b) <= high for low, high in bounds) / 1000 >= 0.94


def test_refuses() -> None:
    two, three = torch.rand(2), torch.rand(3)
    with pytest.raises(ValueError, match=r"y has shape \(3,\)"):
        pearson(two, three)
    with pytest.raises(ValueError, match="expected one dimension"):
        brier_score(torch.rand(2, 2), torch.rand(2, 2))
    with pytest.raises(ValueError, match=r"outside of \[0, 1\]"):
        reliability_bins(torch.tensor([8.0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="n_bins is 0"):
        reliability_bins(two, two, 0)
    with pytest.raises(ValueError, match="count >= 1"):
        pass_rate_calibration(two, torch.tensor([0, 3]), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="values <= 0"):
        length_calibration(two, torch.tensor([0.0, 1.0]), two, two)
    for wrong in (-1.0, math.nan, math.inf):
        weights = torch.tensor([1.0, wrong])
        for figure in (pearson, spearman, brier_score):
            with pytest.raises(ValueError, match=rf"weights has {wrong}; expected finite values >= 0"):
                figure(two, two, weights=weights)
        with pytest.raises(ValueError, match=rf"weights has {wrong}"):
            pass_rate_calibration(two, two, torch.ones(2), weights=weights)
        with pytest.raises(ValueError, match=rf"weights has {wrong}"):
            length_calibration(two, two + 1, two, two, weights)
    with pytest.raises(ValueError, match=r"weights has shape \(3,\)"):
        length_calibration(two, two + 1, two, two, three)
    with pytest.raises(ValueError, match="level is 95"):
        rate_interval(two, level=95)
    for wrong in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"rates has values outside of \[0, 1\]"):
            rate_interval(torch.tensor([0.5, wrong]))
