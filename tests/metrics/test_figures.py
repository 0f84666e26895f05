"""Figures: what is drawn where, and that they can be written without a display or pyplot."""

from __future__ import annotations

import io
import math

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from masa_lightning.metrics.figures import length_scatter, means_over_steps, pass_rate_scatter, reliability_diagram


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
    figure = reliability_diagram(predicted, correct, count, n_bins=2)
    upper, lower = figure.axes
    bars = [p for p in upper.patches if isinstance(p, Rectangle)]
    assert [bar.get_height() for bar in bars[:2]] == pytest.approx([4 / 12, 1.0])
    tops = [bar.get_y() + bar.get_height() for bar in bars[2:]]
    assert tops == pytest.approx([(4 * 0.1 + 8 * 0.2) / 12, 0.8])
    assert [p.get_height() for p in lower.patches] == [12, 4]
    ece = 12 / 16 * abs(2 / 12 - 4 / 12) + 4 / 16 * 0.2
    assert upper.get_title(loc="left") == f"Reliability: ECE = {ece:.2f}, n = 16 rollouts"
    assert has_identity(figure)


def test_means_over_steps() -> None:
    figure = means_over_steps([0, 5, 10], [0.9, 0.7, 0.6], [0.3, 0.5, 0.6], "Pass rate")
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines == {"predicted": [[0, 0.9], [5, 0.7], [10, 0.6]], "actual": [[0, 0.3], [5, 0.5], [10, 0.6]]}
    assert figure.axes[0].get_ylabel() == "Pass rate"
    strokes = {(line.get_linestyle(), line.get_marker(), line.get_color()) for line in figure.axes[0].lines}
    assert len({s[0] for s in strokes}) == len({s[1] for s in strokes}) == 2


def test_one_and_no_problem_are_drawn() -> None:
    for n in (0, 1):
        x = torch.full((n,), 0.5)
        figures = [
            pass_rate_scatter(x, x),
            length_scatter(x + 99, x + 99, x + 50, x + 150),
            reliability_diagram(x, x * 2, x * 4),
            means_over_steps([3] * n, [0.5] * n, [0.4] * n, "Pass rate"),
        ]
        for figure in figures:
            assert written(figure).startswith(b"\x89PNG")
            assert f"n = {n}" in (title := figure.axes[0].get_title(loc="left")) or f"n = {2 * n}" in title
        assert "r = n/a" in figures[0].axes[0].get_title(loc="left")


def test_pyplot_does_not_hold_the_figures() -> None:
    """A figure that pyplot knows is never freed."""
    for figure in (pass_rate_scatter(torch.rand(3), torch.rand(3)), means_over_steps([0], [0.5], [0.5], "Pass rate")):
        written(figure)
        assert figure.canvas.manager is None
    assert plt.get_fignums() == []
