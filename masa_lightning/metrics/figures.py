"""Pictures of calibration, built without pyplot: no global state, no display, safe in any thread.

Colours are Okabe and Ito's, which remain apart for colour-blind readers; no figure relies on colour alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from torch import Tensor

from masa_lightning.functional.calibration import expected_calibration_error, pearson, reliability_bins
from masa_lightning.metrics.calibration import LengthPoints, PassRatePoints

BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#E3E3E3"


def pass_rate_scatter(predicted: Tensor, actual: Tensor) -> Figure:
    """Predicted against actual pass rate; a dot's area grows with the number of problems at that place.

    Args:
        predicted: Predicted pass rate of each problem, in [0, 1], [P].
        actual: Share of its solution rollouts that were correct, in [0, 1], [P].

    Returns:
        A square figure with the line y = x, and r and n in the title.

    Example:
        >>> figure = pass_rate_scatter(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
        >>> figure.axes[0].get_title(loc="left")
        'Pass rate: r = 1.00, n = 3 problems'
    """
    figure, axes = _square(f"Pass rate: {_correlation(predicted, actual)}")
    axes.set_xlabel("Actual pass rate (share of correct rollouts)")
    axes.set_ylabel("Predicted pass rate (mean of meta rollouts)")
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.04)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    _identity(axes, 0, 1)
    places = torch.stack([actual.double(), predicted.double()], dim=1).cpu()
    places, problems = torch.unique(places.round(decimals=3), dim=0, return_counts=True)
    if len(places):
        sizes = (24 * problems.double()).clamp(max=600)
        axes.scatter(
            places[:, 0].numpy(), places[:, 1].numpy(), s=sizes.numpy(), color=BLUE, alpha=0.6, edgecolors="white",
            linewidths=0.7, zorder=3, clip_on=False,
        )  # fmt: skip
        if problems.max() > 1:
            axes.text(
                1, -0.15, "larger dots: several problems", transform=axes.transAxes, ha="right", color=GREY, fontsize=8
            )
    return figure


def length_scatter(predicted: Tensor, actual: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Figure:
    """Predicted against actual length in tokens, on logarithmic axes.

    Args:
        predicted: Predicted solution length of each problem, in tokens, > 0, [P].
        actual: Mean actual length, in tokens, > 0, [P].
        low: Least length of its correct rollouts, drawn with `high` as a thin line; NaN draws none. [P].
        high: Greatest, [P].

    Returns:
        A square figure with the line y = x, and r and n in the title.

    Example:
        >>> figure = length_scatter(torch.tensor([100.0, 300.0]), torch.tensor([120.0, 500.0]))
        >>> figure.axes[0].get_title(loc="left")
        'Solution length: r = 1.00, n = 2 problems'
    """
    figure, axes = _square(f"Solution length: {_correlation(predicted, actual)}")
    axes.set_xlabel("Actual length (tokens)")
    axes.set_ylabel("Predicted length (tokens, mean of meta rollouts)")
    x, y = actual.double().cpu(), predicted.double().cpu()
    least, greatest = 1.0, 1000.0
    if len(x):
        everything = torch.cat(
            [x, y] if low is None or high is None else [x, y, low.double().cpu(), high.double().cpu()]
        )
        everything = everything[~everything.isnan()]
        least, greatest = everything.min().item() / 1.25, everything.max().item() * 1.25
    for axis, scale, limits in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim),
        (axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        scale("log")
        limits(least, greatest)
        axis.set_major_locator(LogLocator(subs=_log_ticks(greatest / least)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.set_minor_formatter(NullFormatter())
    _identity(axes, least, greatest)
    if low is not None and high is not None and len(x):
        axes.hlines(y.numpy(), low.cpu().numpy(), high.cpu().numpy(), color=GREY, alpha=0.45, linewidth=1, zorder=2)
        axes.text(
            1, -0.15, "thin lines: range of correct rollouts", transform=axes.transAxes, ha="right", color=GREY,
            fontsize=8,
        )  # fmt: skip
    axes.scatter(x.numpy(), y.numpy(), s=26, color=BLUE, alpha=0.7, edgecolors="white", linewidths=0.6, zorder=3)
    return figure


def reliability_diagram(predicted: Tensor, correct: Tensor, count: Tensor, n_bins: int = 10) -> Figure:
    """Share of correct rollouts in each bin of the predicted pass rate, over the number of rollouts there.

    Args:
        predicted: Predicted pass rate of each problem, in [0, 1], [P].
        correct: Its correct solution rollouts, [P].
        count: Its solution rollouts, >= 1, [P].
        n_bins: Equally wide bins.

    Returns:
        A figure of two axes that share the x-axis; the title has the expected calibration error and n.

    Example:
        >>> figure = reliability_diagram(torch.tensor([0.9, 0.1]), torch.tensor([4, 0]), torch.tensor([4, 4]))
        >>> figure.axes[0].get_title(loc="left")
        'Reliability: ECE = 0.10, n = 8 rollouts'
    """
    predicted, correct, count = (x.double().cpu() for x in (predicted, correct, count))
    actual = correct / count
    mean_predicted, mean_actual, mass = reliability_bins(predicted, actual, n_bins, count)
    ece = expected_calibration_error(predicted, actual, n_bins, count).item() if len(predicted) else None
    error = "n/a" if ece is None else f"{ece:.2f}"
    figure = _figure(5.2, 6.0)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.set_title(f"Reliability: ECE = {error}, n = {int(count.sum()):,} rollouts", loc="left", fontsize=11)
    edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float64)
    width = 1 / n_bins
    some = mass > 0
    left = edges[:-1][some].numpy()
    # The gap between bar and prediction is the miscalibration; it is hatched, so that it reads without colour.
    heights, means = mean_actual[some].numpy(), mean_predicted[some].numpy()
    axes.bar(left, heights, width, align="edge", color=BLUE, alpha=0.75, edgecolor="white", label="actual", zorder=2)
    axes.bar(
        left, means - heights, width, bottom=heights, align="edge", facecolor="none", edgecolor=ORANGE, hatch="////",
        linewidth=0.8, label="gap to the mean prediction", zorder=3,
    )  # fmt: skip
    _identity(axes, 0, 1)
    if some.any():
        axes.legend(loc="upper left", frameon=False, fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Share of correct rollouts")
    below.bar(left, mass[some].numpy(), width, align="edge", color=GREY, edgecolor="white", zorder=2)
    below.set_xlabel("Predicted pass rate (mean of meta rollouts)")
    below.set_ylabel("Rollouts")
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for each in (axes, below):
        _tidy(each)
    return figure


def means_over_steps(steps: Sequence[int], predicted: Sequence[float], actual: Sequence[float], ylabel: str) -> Figure:
    """Predicted and actual means over training steps.

    Args:
        steps: Optimiser steps, ascending, [K].
        predicted: Mean prediction at each step, [K].
        actual: Mean of what happened, [K].
        ylabel: Name and unit of both.

    Returns:
        A wide figure of two lines, told apart by marker and stroke as well as by colour.

    Example:
        >>> figure = means_over_steps([0, 10], [0.9, 0.6], [0.4, 0.5], "Pass rate (share of correct rollouts)")
        >>> figure.axes[0].get_ylabel()
        'Pass rate (share of correct rollouts)'
    """
    figure = _figure(6.4, 4.0)
    axes = figure.subplots()
    axes.set_title(f"Means over steps: n = {len(steps)} evaluations", loc="left", fontsize=11)
    axes.plot(steps, predicted, color=ORANGE, linestyle="--", marker="o", markersize=4.5, label="predicted")
    axes.plot(steps, actual, color=BLUE, linestyle="-", marker="s", markersize=4.5, label="actual")
    axes.set_xlabel("Step")
    axes.set_ylabel(ylabel)
    axes.margins(x=0.03, y=0.12)
    if len(steps) == 1:
        axes.set_xlim(steps[0] - 1, steps[0] + 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=9, borderaxespad=0.2)
    _tidy(axes)
    return figure


def calibration_figures(rates: PassRatePoints, lengths: LengthPoints) -> dict[str, Figure]:
    """All pictures of one set of problems by name; none of a quantity without a prediction.

    Args:
        rates: Of `PassRateCalibration.points`.
        lengths: Of `LengthCalibration.points`.

    Returns:
        ``pass_rate_scatter``, ``pass_rate_reliability`` and ``length_scatter``.
    """
    figures: dict[str, Figure] = {}
    if len(rates.predicted):
        figures["pass_rate_scatter"] = pass_rate_scatter(rates.predicted, rates.actual)
        figures["pass_rate_reliability"] = reliability_diagram(rates.predicted, rates.correct, rates.count)
    if len(lengths.predicted):
        figures["length_scatter"] = length_scatter(lengths.predicted, lengths.actual, lengths.low, lengths.high)
    return figures


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG file beside the target and renames: a reader sees no picture or a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _square(title: str) -> tuple[Figure, Axes]:
    figure = _figure(5.2, 5.2)
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_box_aspect(1)
    _tidy(axes)
    return figure, axes


def _tidy(axes: Axes) -> None:
    axes.grid(color=PALE, linewidth=0.8, zorder=0)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)


def _identity(axes: Axes, least: float, greatest: float) -> None:
    axes.plot(
        [least, greatest], [least, greatest], color=INK, linestyle=(0, (4, 3)), linewidth=1.1, zorder=4, label="y = x"
    )


def _log_ticks(span: float) -> tuple[float, ...]:
    if span < 10:
        return (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    return (1.0, 2.0, 5.0) if span < 100 else (1.0,)


def _correlation(predicted: Tensor, actual: Tensor) -> str:
    r = pearson(predicted, actual).item()
    return f"r = {'n/a' if r != r else f'{r:.2f}'}, n = {len(predicted):,} problems"
