"""Figures: what is drawn where, and that they can be written without a display or pyplot."""

from __future__ import annotations

import io
import math

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure

from masa_lightning.functional.calibration import rate_interval
from masa_lightning.metrics.figures import length_scatter, pass_rate_scatter, reliability_diagram
from masa_lightning.metrics.over_steps import Gated, History, Means, gated_over_steps, means_over_steps


def written(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def offsets(figure: Figure) -> list[list[float]]:
    (dots,) = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    return dots.get_offsets().tolist()


def has_identity(figure: Figure) -> bool:
    for line in figure.axes[0].lines:
        x, y = line.get_data()
        if len(x) == 2 and list(x) == list(y) and x[0] < x[1]:
            return True
    return False


def test_pass_rate_scatter() -> None:
    predicted, actual = torch.tensor([0.0, 0.5, 0.5, 1.0]), torch.tensor([0.25, 0.75, 0.75, 0.5])
    figure = pass_rate_scatter(predicted, actual)
    assert sorted(offsets(figure)) == [[0.25, 0.0], [0.5, 1.0], [0.75, 0.5]]
    (dots,) = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    sizes = dict(zip(map(tuple, offsets(figure)), dots.get_sizes().tolist(), strict=True))
    assert sizes[0.75, 0.5] == 2 * sizes[0.25, 0.0]
    r = torch.corrcoef(torch.stack([predicted, actual]))[0, 1].item()
    assert figure.axes[0].get_title(loc="left") == f"Pass rate: r = {r:.2f}, n = 4 problems"
    assert "Actual" in figure.axes[0].get_xlabel()
    assert "Predicted" in figure.axes[0].get_ylabel()
    assert has_identity(figure)


def test_length_scatter() -> None:
    predicted, actual = torch.tensor([100.0, 900.0]), torch.tensor([150.0, 800.0])
    figure = length_scatter(predicted, actual, torch.tensor([50.0, math.nan]), torch.tensor([2000.0, math.nan]))
    axes = figure.axes[0]
    assert offsets(figure) == [[150, 100], [800, 900]]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[0] < 50
    assert axes.get_xlim()[1] > 2000
    (ranges,) = [c for c in axes.collections if isinstance(c, LineCollection)]
    assert [[50.0, 100.0], [2000.0, 100.0]] in [segment.tolist() for segment in ranges.get_segments()]
    assert "(tokens)" in axes.get_xlabel()
    assert "(tokens" in axes.get_ylabel()
    assert has_identity(figure)
    assert not any(isinstance(c, LineCollection) for c in length_scatter(predicted, actual).axes[0].collections)


def test_reliability_diagram() -> None:
    predicted, correct, count = torch.tensor([0.1, 0.2, 0.8]), torch.tensor([1, 3, 4]), torch.tensor([4, 8, 4])
    figure = reliability_diagram(predicted, correct, count, n_bins=2, where="tiny, step 3")
    upper, lower = figure.axes
    drawn = [[x, y] for line in upper.lines if line.get_marker() == "o" for x, y in line.get_xydata().tolist()]
    assert drawn == [[pytest.approx((4 * 0.1 + 8 * 0.2) / 12), pytest.approx(4 / 12)], [pytest.approx(0.8), 1.0]]
    assert [p.get_height() for p in lower.patches] == [2, 1]  # problems
    ece = 12 / 16 * abs(2 / 12 - 4 / 12) + 4 / 16 * 0.2
    assert upper.get_title(loc="left") == f"Reliability: ECE = {ece:.2f}, n = 3 problems"
    assert "tiny, step 3" in [text.get_text() for text in upper.texts]
    assert has_identity(figure)


def test_intervals_of_bins_are_over_problems() -> None:
    """100 rollouts of one problem say as much of others as one problem does."""
    for problems, rollouts in ((1, 100), (20, 1)):
        rates = torch.full((problems,), 0.5)
        figure = reliability_diagram(rates, (rates * rollouts).round(), torch.full((problems,), rollouts), n_bins=1)
        solid = [line for line in figure.axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
        (low, high) = solid[0].get_ydata()
        assert (low, high) == pytest.approx(rate_interval((rates * rollouts).round() / rollouts))
    assert low < 0.3


def test_means_over_steps() -> None:
    training = [Means(1, 0.9, 0.3), Means(2, 0.7, 0.5), Means(3, 0.6, 0.6)]
    figure = means_over_steps(History(training, [Means(3, 0.5, 0.4, 0.1, 0.2)]), "Pass rate", "Share", greatest=1)
    axes = figure.axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines["predicted"] == [[1, 0.9], [2, 0.7], [3, 0.6]]
    assert lines["actual"] == [[1, 0.3], [2, 0.5], [3, 0.6]]
    assert axes.get_ylabel() == "Share"
    assert axes.get_ylim() == (0, 1)
    named = [line for line in axes.lines if line.get_label() in ("predicted", "actual")]
    assert len({line.get_linestyle() for line in named}) == len({line.get_color() for line in named}) == 2
    beside = {text.get_text(): text.xy for text in axes.texts}
    assert beside["actual"] == (1, 0.6)  # at the end of its line
    assert beside["predicted"] == (1, pytest.approx(0.665))  # and not over the other
    (low, high) = sorted(y for bar in axes.collections for segment in bar.get_segments() for _, y in segment)[1:3]
    assert (low, high) == pytest.approx((0.4, 0.6))  # of 0.2, 0.4, 0.6, 0.6


def test_noise_is_no_crossing() -> None:
    """A tenth of a token apart, on an axis that begins at 0."""
    history = History([Means(step, 29.4 + 0.05 * (-1) ** step, 29.4) for step in range(1, 40)])
    least, greatest = means_over_steps(history, "Length", "Tokens").axes[0].get_ylim()
    assert least == 0
    assert greatest > 29.45


def test_lines_are_smoothed_and_steps_are_seen() -> None:
    history = History([Means(step, float(step % 2), 0.5) for step in range(100)])
    axes = means_over_steps(history, "Pass rate", "Share", greatest=1).axes[0]
    bold = next(line for line in axes.lines if line.get_label() == "predicted").get_ydata()
    assert 0.4 < min(bold[5:-5]) < max(bold[5:-5]) < 0.6
    assert any(list(line.get_ydata()) == [float(step % 2) for step in range(100)] for line in axes.lines)
    assert any("mean over 11 steps" in text.get_text() for text in axes.texts)
    few = means_over_steps(History(history.training[:9]), "Pass rate", "Share", greatest=1).axes[0]
    assert any(text.get_text() == "lines: training problems" for text in few.texts)  # "mean over 1 steps"


def test_gated_over_steps() -> None:
    rows = [Gated(1, 0.25, 0.25, 0.0), Gated(2, 0.5, 0.25, 0.5)]
    axes = gated_over_steps(rows).axes[0]
    (skipped,) = [line for line in axes.lines if line.get_label() == "skipped"]
    assert skipped.get_xydata().tolist() == [[1, 0], [2, 0.5]]
    hopeless, trivial = axes.collections
    assert hopeless.get_datalim(axes.transData).y1 == 0.5
    assert trivial.get_datalim(axes.transData).y1 == 0.75
    assert "shadow" not in axes.get_title(loc="left")
    assert "shadow" in gated_over_steps(rows[:1]).axes[0].get_title(loc="left")


def test_one_and_no_problem_are_drawn() -> None:
    for n in (0, 1):
        x = torch.full((n,), 0.5)
        figures = [
            pass_rate_scatter(x, x),
            length_scatter(x + 99, x + 99, x + 50, x + 150),
            reliability_diagram(x, x * 2, x * 4),
            means_over_steps(History([Means(3, 0.5, 0.4)] * n), "Pass rate", "Share"),
            means_over_steps(History([], [Means(3, 0.5, 0.4)] * n), "Pass rate", "Share"),
            gated_over_steps([Gated(3, 0.5, 0.4, 0.0)] * n),
        ]
        for figure in figures:
            assert written(figure).startswith(b"\x89PNG")
        for figure in figures[:3]:
            assert f"n = {n} problem{'s' * (n != 1)}" in figure.axes[0].get_title(loc="left")
        assert "r = n/a" in figures[0].axes[0].get_title(loc="left")


def test_pyplot_does_not_hold_the_figures() -> None:
    """A figure that pyplot knows is never freed."""
    before = plt.get_fignums()
    over = means_over_steps(History([Means(0, 0.5, 0.5)]), "Pass rate", "Share")
    for figure in (pass_rate_scatter(torch.rand(3), torch.rand(3)), over):
        written(figure)
        assert figure.canvas.manager is None
    assert plt.get_fignums() == before
