"""Calibration metrics: grouping by problem, accumulation, and the gathering over processes."""

from __future__ import annotations

import math
import statistics
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

from masa_lightning.functional.calibration import length_calibration, pass_rate_calibration, reliability_bins
from masa_lightning.metrics import LengthCalibration, PassRateCalibration, ValueCalibration

NAN = math.nan


def gather_with(other: Metric, own: Metric) -> None:
    """Makes `own` believe that `other` runs on a second process."""
    own.distributed_available_fn = lambda: True
    own.dist_sync_fn = lambda state, group=None: [state, other.rows().flatten()]


def values(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in metrics.items()}


def test_pass_rate_is_over_problems() -> None:
    metric = PassRateCalibration(n_bins=4)
    # Two problems in the first update (ids 7 and 3, interleaved), one in the second, which reuses id 7.
    metric.update(
        torch.tensor([0.0, 0.5, 0.25, 1.0, 0.75]),
        torch.tensor([2, 4, 2, 4, 4]),
        torch.tensor([8, 4, 8, 4, 4]),
        torch.tensor([7, 3, 7, 3, 3]),
    )
    metric.update(torch.tensor([0.6]), torch.tensor([8]), torch.tensor([16]), torch.tensor([7]))
    metrics = values(metric.compute())
    within = metrics.pop("within_std")
    assert within == pytest.approx(statistics.fmean([statistics.pstdev([0, 0.25]), statistics.pstdev([0.5, 1, 0.75])]))
    expected = pass_rate_calibration(
        torch.tensor([0.125, 0.75, 0.6]), torch.tensor([2, 4, 8]), torch.tensor([8, 4, 16]), n_bins=4
    )
    assert metrics == pytest.approx(values(expected), abs=1e-6)
    points = metric.points()
    order = points.predicted.argsort()
    torch.testing.assert_close(points.predicted[order].tolist(), [0.125, 0.6, 0.75], atol=1e-6, rtol=0)
    assert points.actual[order].tolist() == [0.25, 0.5, 1]


def test_length_is_over_problems() -> None:
    metric = LengthCalibration()
    metric.update(
        torch.tensor([100, 300, 50, 7]),
        torch.tensor([250.0, 250.0, 40.0, NAN]),
        torch.tensor([200.0, 200.0, NAN, NAN]),
        torch.tensor([300.0, 300.0, NAN, NAN]),
        torch.tensor([0, 0, 1, 2]),
    )
    metrics = values(metric.compute())
    assert metrics.pop("within_std") == 100
    expected = length_calibration(
        torch.tensor([200.0, 50.0]), torch.tensor([250.0, 40.0]), torch.tensor([200.0, NAN]), torch.tensor([300.0, NAN])
    )
    assert metrics == pytest.approx(values(expected), rel=1e-6, nan_ok=True)
    assert metrics["count"] == 2
    points = metric.points()
    assert points.predicted.tolist() == [200, 50]
    assert points.low.nan_to_num(-1).tolist() == [200, -1]
    assert points.high.nan_to_num(-1).tolist() == [300, -1]


def test_values_are_over_problems() -> None:
    metric = ValueCalibration()
    predicted, actual = torch.tensor([1.0, 3.0, -4.0, 5.0, NAN]), torch.tensor([0.0, 0.0, -1.0, NAN, 2.0])
    metric.update(predicted, actual, torch.tensor([7, 7, 2, 3, 4]), torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0]))
    metric.update(torch.tensor([6.0]), torch.tensor([8.0]))
    metrics = values(metric.compute())
    # Problems 2 against 0, -4 against -1 (counts three times) and 6 against 8.
    repeated = np.array([[2, 0], [-4, -1], [-4, -1], [-4, -1], [6, 8]], dtype=float).T
    difference = repeated[0] - repeated[1]
    assert metrics == pytest.approx(
        {
            "mae": np.abs(difference).mean(),
            "bias": difference.mean(),
            "pearson": np.corrcoef(repeated)[0, 1],
            "spearman": 1.0,
            "predicted_mean": repeated[0].mean(),
            "predicted_std": repeated[0].std(),
            "actual_mean": repeated[1].mean(),
            "actual_std": repeated[1].std(),
            "count": 3,
            "within_std": 1.0,
        },
        abs=1e-6,
    )


def test_weights_are_of_problems() -> None:
    metric, weights = PassRateCalibration(n_bins=4), torch.tensor([20.0, 1.0, 2.5])
    metric.update(
        torch.tensor([0.0, 0.5, 0.25, 1.0, 0.75]),
        torch.tensor([2, 4, 2, 4, 4]),
        torch.tensor([8, 4, 8, 4, 4]),
        torch.tensor([7, 3, 7, 3, 3]),
        weights[[0, 1, 0, 1, 1]],
    )
    metric.update(torch.tensor([0.6]), torch.tensor([8]), torch.tensor([16]), weight=weights[2:])
    metrics = values(metric.compute())
    spreads = statistics.pstdev([0, 0.25]), statistics.pstdev([0.5, 1, 0.75])
    assert metrics.pop("within_std") == pytest.approx((20 * spreads[0] + spreads[1]) / 21)
    rates = torch.tensor([0.125, 0.75, 0.6]), torch.tensor([2, 4, 8]), torch.tensor([8, 4, 16])
    assert metrics == pytest.approx(values(pass_rate_calibration(*rates, 4, weights)), abs=1e-6)
    assert metrics["count"] == 3

    length = LengthCalibration()
    predicted, actual = torch.tensor([100, 300, 50, 70]), torch.tensor([250.0, 250.0, 40.0, 90.0])
    low, high = actual - 50, torch.tensor([300.0, 300.0, NAN, 100.0])
    length.update(predicted, actual, low, high, torch.tensor([0, 0, 1, 2]), weights[[0, 0, 1, 2]])
    metrics = values(length.compute())
    assert metrics.pop("within_std") == 100
    lengths = torch.tensor([200, 50, 70]), actual[1:], low[1:], high[1:]
    assert metrics == pytest.approx(values(length_calibration(*lengths, weights)), rel=1e-6)


def test_weighted_problems_are_repeated_ones() -> None:
    g = torch.Generator().manual_seed(0)
    predicted, correct, count = torch.rand(24, generator=g), torch.randint(0, 5, (6,), generator=g), torch.full((6,), 4)
    problem, weight = torch.arange(24) // 4, torch.tensor([1, 20, 3, 0, 2, 1])
    weighted, repeated = PassRateCalibration(), PassRateCalibration()
    weighted.update(predicted, correct[problem], count[problem], problem, weight[problem])
    for i in range(6):
        for _ in range(int(weight[i])):
            part = problem[problem == i]
            repeated.update(predicted[problem == i], correct[part], count[part], part)
    metrics, expected = values(weighted.compute()), values(repeated.compute())
    assert (metrics.pop("count"), expected.pop("count")) == (6, 27)
    assert metrics == pytest.approx(expected, abs=1e-6)


def test_unparsed_predictions_and_gated_problems_are_left_out() -> None:
    metric = PassRateCalibration()
    metric.update(
        torch.tensor([NAN, 0.5, 1.0]), torch.tensor([1, 1, 0]), torch.tensor([2, 2, 0]), torch.tensor([0, 0, 1])
    )
    metrics = values(metric.compute())
    assert metrics["count"] == 1
    assert metrics["mae"] == 0
    assert math.isnan(metrics["within_std"])  # a single prediction has no spread
    length = LengthCalibration()
    length.update(
        torch.tensor([NAN, 5.0]), torch.tensor([5.0, NAN]), torch.tensor([1.0, NAN]), torch.tensor([9.0, NAN])
    )
    assert length.compute()["count"] == 0


def test_entries_are_their_own_problems_by_default() -> None:
    metric = PassRateCalibration()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), torch.tensor([2, 2]))
    assert metric.compute()["count"] == 2


@pytest.mark.parametrize("metric", [PassRateCalibration(), LengthCalibration(), ValueCalibration()])
def test_nothing_is_nan_without_warnings(metric: Metric) -> None:
    none = torch.empty(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = values(metric.compute())
        metric.update(*[none] * {PassRateCalibration: 3, LengthCalibration: 4, ValueCalibration: 2}[type(metric)])
        second = values(metric.compute())
    for metrics in (first, second):
        assert metrics.pop("count") == 0
        assert all(map(math.isnan, metrics.values()))
    assert metric.points().predicted.shape == (0,)


def test_two_processes_equal_one() -> None:
    g = torch.Generator().manual_seed(0)
    predicted, problem = torch.rand(40, generator=g), torch.arange(40) // 4
    count = torch.full((40,), 8)
    correct = torch.randint(0, 9, (10,), generator=g).repeat_interleave(4)
    whole, first, second = PassRateCalibration(), PassRateCalibration(), PassRateCalibration()
    whole.update(predicted, correct, count, problem)
    for metric, part in ((first, slice(0, 8)), (first, slice(8, 12)), (second, slice(12, 40))):
        metric.update(predicted[part], correct[part], count[part], problem[part] % 7)  # ids of one update alone
    gather_with(second, first)
    assert values(first.compute()) == pytest.approx(values(whole.compute()), abs=1e-6)
    torch.testing.assert_close(first.points().predicted.sort().values, whole.points().predicted.sort().values)
    # The local state came back: the metric goes on accumulating what is its own.
    assert first.rows().shape == (3, PassRateCalibration.columns)


@pytest.mark.parametrize("empty_first", [True, False])
def test_a_process_without_predictions(empty_first: bool) -> None:
    full, empty = LengthCalibration(), LengthCalibration()
    full.update(
        torch.tensor([10.0, 30.0]), torch.tensor([20.0, 20.0]), torch.tensor([5.0, 5.0]), torch.tensor([25.0, 25.0])
    )
    alone = values(full.compute())
    full.reset()
    full.update(
        torch.tensor([10.0, 30.0]), torch.tensor([20.0, 20.0]), torch.tensor([5.0, 5.0]), torch.tensor([25.0, 25.0])
    )
    one, other = (empty, full) if empty_first else (full, empty)
    gathered: list[Tensor] = []
    one.distributed_available_fn = lambda: True

    def gather(state: Tensor, group: object = None) -> list[Tensor]:
        gathered.append(state)
        return [state, other.rows().flatten()]

    one.dist_sync_fn = gather
    assert values(one.compute()) == pytest.approx(alone, nan_ok=True)
    assert len(one.points().predicted) == 2
    # Both calls entered the one collective, in the shape and type that the other process has.
    assert [(state.ndim, state.dtype) for state in gathered] == [(1, torch.float64)] * 2


def test_reset_and_default_dtype() -> None:
    torch.set_default_dtype(torch.bfloat16)  # as Lightning's precision="bf16-true" does around the steps
    try:
        metric = LengthCalibration()
        metric.reset()
        metric.update(
            torch.tensor([4099.0], dtype=torch.float32), *torch.tensor([[4097.0], [4097.0], [4097.0]]).double()
        )
        points, metrics = metric.points(), metric.compute()
    finally:
        torch.set_default_dtype(torch.float32)
    assert points.predicted.item() == 4099
    assert metrics["predicted_mean"].dtype == torch.float32
    metric.reset()
    assert metric.compute()["count"] == 0


def test_refuses() -> None:
    metric, length, two = PassRateCalibration(), LengthCalibration(), torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match=r"outside of \[0, 1\]"):
        metric.update(torch.tensor([4.0]), torch.tensor([1]), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"outside of \[0, count\]"):
        metric.update(two, torch.tensor([1, 3]), torch.tensor([2, 2]))
    with pytest.raises(ValueError, match="problem has shape"):
        metric.update(two, two, two, torch.tensor([0]))
    with pytest.raises(ValueError, match="count has shape"):
        metric.update(two, two, torch.tensor([1]))
    with pytest.raises(ValueError, match="correct differs between entries"):
        metric.update(two, torch.tensor([1, 2]), torch.tensor([2, 2]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="weight has shape"):
        metric.update(two, two, two, weight=torch.tensor([1]))
    for wrong in (-1.0, NAN, math.inf):
        with pytest.raises(ValueError, match=f"weight has {wrong}; expected finite values >= 0"):
            metric.update(two, two, two, weight=torch.tensor([1.0, wrong]))
    with pytest.raises(ValueError, match="weight differs between entries of one problem"):
        metric.update(two, two, two, torch.tensor([0, 0]), torch.tensor([1, 20]))
    with pytest.raises(ValueError, match="weight differs between entries of one problem"):
        length.update(two, two, two, two, torch.tensor([0, 0]), torch.tensor([1, 20]))
    with pytest.raises(ValueError, match="values <= 0"):
        length.update(two, two * 0, two, two)
    with pytest.raises(ValueError, match="n_bins is 0"):
        PassRateCalibration(n_bins=0)
    assert metric.compute()["count"] == 0


@given(
    st.integers(1, 100),
    st.integers(1, 40),
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=12),
    st.sampled_from([torch.float32, torch.float64]),
)
@settings(deadline=None, max_examples=100)
def test_bins_are_those_of_rational_arithmetic(
    scale: int, n_bins: int, draws: list[list[float]], dtype: torch.dtype
) -> None:
    """Metric and function agree, and with fractions, at the edges of bins too: 7 of 10 is in the bin that begins there."""
    shares = [[Fraction(round(x * scale), scale) for x in problem] for problem in draws]
    means = [sum(problem, Fraction()) / len(problem) for problem in shares]
    bins = [min(int(mean * n_bins), n_bins - 1) for mean in means]
    count, correct = 8, [i % 9 for i in range(len(means))]
    gaps = {b: Fraction() for b in bins}
    for b, mean, c in zip(bins, means, correct, strict=True):
        gaps[b] += count * mean - c
    expected = float(sum(map(abs, gaps.values())) / (count * len(means)))

    metric = PassRateCalibration(n_bins=n_bins)
    problem = torch.tensor([i for i, entries in enumerate(shares) for _ in entries])
    metric.update(
        torch.tensor([float(s) for entries in shares for s in entries], dtype=dtype),
        torch.tensor(correct)[problem],
        torch.full((len(problem),), count),
        problem,
    )
    assert metric.compute()["ece"].item() == pytest.approx(expected, abs=1e-6)
    rates = torch.tensor([float(mean) for mean in means], dtype=dtype)
    metrics = pass_rate_calibration(rates, torch.tensor(correct), torch.full((len(means),), count), n_bins)
    assert metrics["ece"].item() == pytest.approx(expected, abs=1e-6)
    counts = reliability_bins(rates, torch.zeros(len(means)), n_bins)[2]
    assert counts.tolist() == [bins.count(b) for b in range(n_bins)]


@pytest.mark.parametrize("n_bins", [1, 7, 10, 30, 100, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_edge(n_bins: int, dtype: torch.dtype) -> None:
    edges = torch.tensor([k / n_bins for k in range(n_bins)], dtype=dtype)
    assert reliability_bins(edges, edges, n_bins)[2].tolist() == [1] * n_bins
    metric = PassRateCalibration(n_bins=n_bins)
    metric.update(edges, torch.zeros(n_bins, dtype=torch.long), torch.ones(n_bins, dtype=torch.long))
    predicted = metric.points().predicted
    assert reliability_bins(predicted, predicted, n_bins)[2].tolist() == [1] * n_bins
    below = torch.tensor([k / n_bins - 1e-5 for k in range(1, n_bins + 1)], dtype=dtype)
    assert reliability_bins(below, below, n_bins)[2].tolist() == [1] * n_bins


def test_plot_shows_the_points() -> None:
    metric = PassRateCalibration()
    metric.update(torch.tensor([0.25, 1.0]), torch.tensor([1, 3]), torch.tensor([4, 4]))
    figure, axes = metric.plot()
    assert axes.figure is figure
    dots = [line.get_xydata().tolist()[0] for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[0.25, 0.25], [1.0, 0.75]]  # predicted, actual

    lengths = LengthCalibration()
    lengths.update(torch.tensor([90.0]), torch.tensor([100.0]), torch.tensor([80.0]), torch.tensor([120.0]))
    assert [100.0, 90.0] in [xy for dots in lengths.plot()[1].collections for xy in dots.get_offsets().tolist()]


def test_plot_of_values_is_that_of_torchmetrics() -> None:
    metric = PassRateCalibration()
    metric.update(torch.tensor([0.25, 1.0]), torch.tensor([1, 3]), torch.tensor([4, 4]))
    _, axes = metric.plot(metric.compute()["mae"])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(0.125)
