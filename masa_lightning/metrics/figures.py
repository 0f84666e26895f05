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

from masa_lightning.functional.calibration import (
    expected_calibration_error,
    pearson,
    reliability_bins,
)
from masa_lightning.functional.intervals import share_interval

BLUE, ORANGE, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#767676", "#E3E3E3"
PREDICTED = "Predicted pass rate (mean of meta rollouts)"
INTERVALS = "vertical lines: 95% intervals over problems"


def pass_rate_scatter(predicted: Tensor, actual: Tensor, where: str = "", *, name: str = PREDICTED) -> Figure:
    """Predicted against actual pass rate; a dot's area grows with the number of problems at that place.

    Args:
        predicted: Predicted pass rate of each problem, in [0, 1], [P].
        actual: Share of its solution rollouts that were correct, in [0, 1], [P].
        where: Run, stage and step, for the second line of the title.
        name: What is predicted, beside the axis; before its bracket also in the title, where it is not the pass rate.

    Returns:
        A square figure with the line y = x, and r and n in the title.

    Example:
        >>> figure = pass_rate_scatter(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
        >>> figure.axes[0].get_title(loc="left")
        'Pass rate: r = 1.00, n = 3 problems'
    """
    figure = new_figure(5.2, 5.4)
    axes = figure.subplots()
    axes.set_box_aspect(1)
    title = "Pass rate" if name == PREDICTED else name.partition(" (")[0]
    set_title(axes, f"{title}: {_correlation(predicted, actual)}", where)
    axes.set_xlabel("Actual pass rate (share of correct rollouts)")
    axes.set_ylabel(name)
    axes.set_xlim(-0.04, 1.04)
    axes.set_ylim(-0.04, 1.04)
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    _identity(axes, 0, 1)
    tidy(axes)
    places = torch.stack([actual.double(), predicted.double()], dim=1).cpu()
    places, problems = torch.unique(places.round(decimals=3), dim=0, return_counts=True)
    if len(places):
        sizes = (24 * problems.double()).clamp(max=600)
        axes.scatter(
            places[:, 0].numpy(), places[:, 1].numpy(), s=sizes.numpy(), color=BLUE, alpha=0.6, edgecolors="white",
            linewidths=0.7, zorder=3, clip_on=False,
        )  # fmt: skip
        if problems.max() > 1:
            set_note(axes, "larger dots: several problems")
    return figure


def length_scatter(
    predicted: Tensor,
    actual: Tensor,
    low: Tensor | None = None,
    high: Tensor | None = None,
    where: str = "",
    *,
    title: str = "Solution length",
    name: str = "length",
    unit: str = "tokens",
) -> Figure:
    """Predicted against actual length in tokens, or another quantity, on logarithmic axes if all of it is > 0.

    Args:
        predicted: Predicted solution length of each problem, in tokens, [P].
        actual: Mean actual length, in tokens, [P].
        low: Least length of its correct rollouts, drawn with `high` as a thin line; NaN draws none. [P].
        high: Greatest, [P].
        where: As of `pass_rate_scatter`.
        title: What is predicted.
        name: The same, beside the axes.
        unit: Of it; empty for none.

    Returns:
        A square figure with the line y = x, and r and n in the title.

    Example:
        >>> figure = length_scatter(torch.tensor([100.0, 300.0]), torch.tensor([120.0, 500.0]))
        >>> figure.axes[0].get_title(loc="left")
        'Solution length: r = 1.00, n = 2 problems'
    """
    figure = new_figure(5.2, 5.4)
    draw_lengths(figure.subplots(), predicted, actual, low, high, where, title=title, name=name, unit=unit)
    return figure


def draw_lengths(
    axes: Axes,
    predicted: Tensor,
    actual: Tensor,
    low: Tensor | None,
    high: Tensor | None,
    where: str = "",
    *,
    title: str = "Solution length",
    name: str = "length",
    unit: str = "tokens",
) -> None:
    """Draws `length_scatter` on axes."""
    axes.set_box_aspect(1)
    set_title(axes, f"{title}: {_correlation(predicted, actual)}", where)
    axes.set_xlabel(f"Actual {name} ({unit})" if unit else f"Actual {name}")
    axes.set_ylabel(f"Predicted {name} ({f'{unit}, ' if unit else ''}mean of meta rollouts)")
    x, y = actual.double().cpu(), predicted.double().cpu()
    least, greatest, logarithmic = 1.0, 1000.0, True
    if len(x):
        everything = torch.cat(
            [x, y] if low is None or high is None else [x, y, low.double().cpu(), high.double().cpu()]
        )
        everything = everything[~everything.isnan()]
        least, greatest = everything.min().item(), everything.max().item()
        logarithmic = least > 0
        margin = 0.05 * (greatest - least) or 0.5
        least, greatest = (least / 1.25, greatest * 1.25) if logarithmic else (least - margin, greatest + margin)
    for axis, scale, limits in (
        (axes.xaxis, axes.set_xscale, axes.set_xlim),
        (axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        limits(least, greatest)
        if logarithmic:
            scale("log")
            axis.set_major_locator(LogLocator(subs=_log_ticks(greatest / least)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
    _identity(axes, least, greatest)
    tidy(axes)
    if low is not None and high is not None and len(x):
        axes.hlines(y.numpy(), low.cpu().numpy(), high.cpu().numpy(), color=GREY, alpha=0.45, linewidth=1, zorder=2)
        set_note(axes, "thin lines: range of correct rollouts")
    axes.scatter(x.numpy(), y.numpy(), s=26, color=BLUE, alpha=0.7, edgecolors="white", linewidths=0.6, zorder=3)


def reliability_diagram(
    predicted: Tensor,
    correct: Tensor,
    count: Tensor | None = None,
    n_bins: int = 10,
    where: str = "",
    *,
    name: str = PREDICTED,
    problem: Tensor | None = None,
) -> Figure:
    """Share of correct rollouts against the predicted pass rate, over the number of problems in each bin.

    Args:
        predicted: Predicted pass rate of each problem, or confidence of each solution, in [0, 1], [P].
        correct: Its correct solution rollouts, [P].
        count: Its solution rollouts, >= 1, [P]; 1 each by default.
        n_bins: Equally wide bins.
        where: As of `pass_rate_scatter`.
        name: What is predicted, below the axis.
        problem: Where each entry is one solution, the index of its problem, [P].

    Returns:
        A figure of two axes that share the x-axis; the title has the expected calibration error and n.

    Example:
        >>> figure = reliability_diagram(torch.tensor([0.9, 0.1]), torch.tensor([4, 0]), torch.tensor([4, 4]))
        >>> figure.axes[0].get_title(loc="left")
        'Reliability: ECE = 0.10, n = 2 problems'
    """
    figure = new_figure(5.2, 6.2)
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    draw_reliability(axes, predicted, correct, count, n_bins, where, name=name, problem=problem)
    axes.set_xlabel("")
    _draw_counts(below, predicted, n_bins, name, "Problems" if problem is None else "Solutions")
    set_note(below, INTERVALS)
    return figure


def self_knowledge(
    rate: tuple[Tensor, Tensor, Tensor], stated: tuple[Tensor, Tensor, Tensor], n_bins: int = 10, where: str = ""
) -> Figure:
    """Two kinds of self-knowledge in one figure: the pass rate predicted before, and the confidence stated after.

    Args:
        rate: Predicted pass rate of each problem, its correct solution rollouts, and all of them, each [P].
        stated: Confidence of each solution, 1 where it is correct and else 0, and the index of its problem, each [S].
        n_bins: Equally wide bins.
        where: As of `pass_rate_scatter`.

    Returns:
        A wide figure: a reliability diagram of each, with its expected calibration error and n in the title, over the
        numbers of problems and of solutions in each bin.

    Example:
        >>> rate = torch.tensor([0.5]), torch.tensor([1]), torch.tensor([2])
        >>> figure = self_knowledge(rate, (torch.tensor([0.9, 0.2]), torch.tensor([1, 0]), torch.tensor([0, 0])))
        >>> [axes.get_title(loc="left") for axes in figure.axes[:2]]
        ['Before: ECE = 0.00, n = 1 problem', 'After: ECE = 0.15, n = 2 solutions of 1 problem']
    """
    figure = new_figure(10.2, 6.2)
    (left, right), (below_left, below_right) = figure.subplots(2, 2, sharex=True, height_ratios=[4, 1])
    (predicted, correct, count), (confidence, verdict, problem) = rate, stated
    draw_reliability(left, predicted, correct, count, n_bins, where, title="Before")
    draw_reliability(right, confidence, verdict, None, n_bins, where, title="After", problem=problem)
    for axes in (left, right):
        axes.set_xlabel("")
    right.set_ylabel("")
    _draw_counts(below_left, predicted, n_bins, PREDICTED, "Problems")
    _draw_counts(below_right, confidence, n_bins, "Confidence stated by the solution", "Solutions")
    set_note(below_right, INTERVALS)
    return figure


def draw_reliability(
    axes: Axes,
    predicted: Tensor,
    correct: Tensor,
    count: Tensor | None = None,
    n_bins: int = 10,
    where: str = "",
    *,
    name: str = PREDICTED,
    title: str = "Reliability",
    problem: Tensor | None = None,
) -> None:
    """Draws the upper part of `reliability_diagram` on axes: a dot a bin, with a 95% interval over its problems."""
    count = torch.ones_like(predicted) if count is None else count
    predicted, correct, count = (x.double().cpu() for x in (predicted, correct, count))
    actual = correct / count
    ece = expected_calibration_error(predicted, actual, n_bins, count).item() if len(predicted) else None
    error = "n/a" if ece is None else f"{ece:.2f}"
    entries = _problems(len(predicted)) if problem is None else _solutions(problem)
    set_title(axes, f"{title}: ECE = {error}, n = {entries}", where)
    _identity(axes, 0, 1)
    axes.text(0.03, 0.94, "right more often\nthan predicted", color=GREY, fontsize=8, va="top")
    axes.text(0.97, 0.06, "right less often\nthan predicted", color=GREY, fontsize=8, ha="right")
    means, shares, _ = reliability_bins(predicted, actual, n_bins, count)
    evidence = _evidence(predicted, count, n_bins, problem)
    for mean, share, problems in zip(*(x.tolist() for x in (means, shares, evidence)), strict=True):
        if not problems:
            continue
        low, high = share_interval(share, max(1, round(problems)))
        axes.plot([mean, mean], [low, high], color=BLUE, alpha=0.55, linewidth=1.6, zorder=3)
        axes.plot([mean, mean], [mean, share], color=ORANGE, linewidth=1.2, linestyle=":", zorder=3)
        axes.plot([mean], [share], color=BLUE, marker="o", markersize=6, markeredgecolor="white", zorder=5)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(name)
    axes.set_ylabel("Share of correct rollouts")
    tidy(axes)


def _evidence(predicted: Tensor, count: Tensor, n_bins: int, problem: Tensor | None) -> Tensor:
    """Problems that the intervals of bins rest on, [n_bins]: rollouts of one problem are not independent.

    Those of equal weight that tell as much as those in the bin (Kish); of single solutions, each is a share of its problem.
    """
    if problem is not None:
        return reliability_bins(predicted, predicted, n_bins, 1 / torch.bincount(problem.cpu())[problem.cpu()])[2]
    mass, square = (reliability_bins(predicted, predicted, n_bins, count**power)[2] for power in (1, 2))
    return torch.where(mass > 0, mass.square() / square, 0.0)


def _draw_counts(axes: Axes, predicted: Tensor, n_bins: int, name: str, what: str) -> None:
    counts = reliability_bins(predicted.double().cpu(), predicted.double().cpu(), n_bins)[2]
    left = [k / n_bins for k in range(n_bins)]
    axes.bar(left, counts.numpy(), 1 / n_bins, align="edge", color=GREY, edgecolor="white", zorder=2)
    axes.set_xlabel(name)
    axes.set_ylabel(what)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    tidy(axes)


def draw_pass_at_k(axes: Axes, shares: Sequence[float], interval: tuple[float, float], problems: int) -> None:
    """Draws pass@k against k on axes, with the 95% interval of pass@1.

    Args:
        axes: To draw on.
        shares: pass@1, pass@2 and so on.
        interval: Of pass@1.
        problems: That it is over.
    """
    names = [f"pass@{k} = {shares[k - 1]:.2f}" for k in dict.fromkeys((1, len(shares)))] if shares else ["pass@k: n/a"]
    set_title(axes, ", ".join([*names, f"n = {_problems(problems)}"]))
    if shares:
        axes.plot(range(1, len(shares) + 1), shares, color=BLUE, marker="o", markersize=5, linewidth=1.6, zorder=3)
        axes.plot([1, 1], interval, color=BLUE, alpha=0.55, linewidth=1.6, zorder=3)
        set_note(axes, "vertical line: 95% interval over problems")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("Solutions that one may try (k)")
    axes.set_ylabel("Share of problems solved")
    tidy(axes)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG file beside the target and renames: a reader sees no picture or a whole one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(temporary, format="png")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that pyplot does not know."""
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def set_title(axes: Axes, title: str, where: str = "") -> None:
    """Says what is shown and, smaller, of which run, stage and step."""
    axes.set_title(title, loc="left", fontsize=11, pad=20 if where else 8)
    if where:
        axes.annotate(
            where, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=9
        )


def set_note(axes: Axes, text: str) -> None:
    """Explains below the x-axis what is not said by its name."""
    axes.annotate(
        text, (1, 0), xytext=(0, -38), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=8,
        ha="right", va="top",
    )  # fmt: skip


def tidy(axes: Axes) -> None:
    """Leaves of frame and grid what helps reading."""
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
    return f"r = {'n/a' if r != r else f'{r:.2f}'}, n = {_problems(len(predicted))}"


def _problems(count: int) -> str:
    return f"{count:,} problem{'s' * (count != 1)}"


def _solutions(problem: Tensor) -> str:
    return f"{len(problem):,} solution{'s' * (len(problem) != 1)} of {_problems(len(torch.unique(problem)))}"
