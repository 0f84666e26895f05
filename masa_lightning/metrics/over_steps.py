"""Pictures over training steps: what was predicted and what happened, and how many problems were gated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from masa_lightning.metrics.figures import BLUE, INK, ORANGE, new_figure, set_note, set_title, tidy


@dataclass(slots=True, frozen=True)
class Means:
    """Means over the problems of a training step or of a validation."""

    step: int  # training steps done
    predicted: float
    actual: float
    predicted_half: float = float("nan")  # half of the 95% interval; NaN where it is not known
    actual_half: float = float("nan")


@dataclass(slots=True, frozen=True)
class Gated:
    """Shares of the problems of a training step, in [0, 1]."""

    step: int  # training steps done
    hopeless: float  # predicted so
    trivial: float
    skipped: float  # not solved, for a control acted


@dataclass(slots=True)
class History:
    """Means of a quantity so far, each in the order of the steps."""

    training: list[Means] = field(default_factory=list)
    held_out: list[Means] = field(default_factory=list)


def means_over_steps(
    history: History, title: str, ylabel: str, *, greatest: float | None = None, where: str = ""
) -> Figure:
    """Predicted and actual means over training steps (the paper's figure 5), with those of held-out problems.

    The axis begins at 0: means that differ by noise look alike.

    Args:
        history: Of one quantity.
        title: Its name.
        ylabel: Its name and unit.
        greatest: Upper end of the y-axis; by default some room above the data.
        where: Run and step, for the second line of the title.

    Returns:
        A wide figure of two lines that are named at their ends, and of dots with 95% intervals for held-out problems.

    Example:
        >>> history = History(training=[Means(1, 0.9, 0.4), Means(2, 0.6, 0.5)])
        >>> figure = means_over_steps(history, "Pass rate", "Mean pass rate", greatest=1)
        >>> figure.axes[0].get_title(loc="left")
        'Pass rate: predicted and actual means'
    """
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    set_title(axes, f"{title}: predicted and actual means", where)
    names = (("predicted", ORANGE, "o", "--"), ("actual", BLUE, "s", "-"))
    ends: list[tuple[float, str, str]] = []
    highest = 0.0
    width = _window(len(history.training))
    for name, color, marker, stroke in names:
        values = [getattr(row, name) for row in history.training]
        if values:
            steps = [row.step for row in history.training]
            line = _smooth(values, width)
            if width > 1:
                axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
            axes.plot(steps, line, color=color, linewidth=2, linestyle=stroke, label=name)
            ends.append((line[-1], name, color))
        held = history.held_out
        if held:
            halves = [getattr(row, f"{name}_half") for row in held]
            points = [getattr(row, name) for row in held]
            # Beside each other, so that both intervals are seen.
            aside = (0.004 if name == "actual" else -0.004) * max(row.step for row in (*history.training, *held))
            axes.errorbar(
                [row.step + aside for row in held], points, yerr=np.nan_to_num(halves), color=color, marker=marker,
                linestyle="none" if values else stroke, markersize=5.5, markeredgecolor="white", elinewidth=1.4,
                capsize=3, zorder=4,
            )  # fmt: skip
            if not values:
                ends.append((points[-1], name, color))
        highest = max([highest, *values, *(getattr(row, name) for row in held)])
    _finish(axes, ylabel, greatest or highest * 1.2 or 1.0)
    _name_ends(axes, ends)
    notes = [f"lines: training problems{_averaged(width)}"] if history.training else []
    notes += ["dots: held-out problems, 95% intervals"] if history.held_out else []
    set_note(axes, "; ".join(notes))
    return figure


def gated_over_steps(rows: Sequence[Gated], where: str = "") -> Figure:
    """Share of the problems that gating takes for trivial or hopeless, and that it skips (the paper's figure 4).

    Args:
        rows: One a training step, in their order.
        where: As of `means_over_steps`.

    Returns:
        A wide figure of two filled shares and the line of those that were skipped; in shadow mode that is 0.

    Example:
        >>> gated_over_steps([Gated(1, 0.2, 0.1, 0.0)]).axes[0].get_title(loc="left")
        'Gating: share of problems (in shadow: none is skipped)'
    """
    figure = new_figure(7.2, 4.2)
    axes = figure.subplots()
    acted = any(row.skipped for row in rows)
    set_title(axes, "Gating: share of problems" + ("" if acted else " (in shadow: none is skipped)"), where)
    steps = [row.step for row in rows]
    width = _window(len(rows))
    shares = {name: _smooth([getattr(row, name) for row in rows], width) for name in ("hopeless", "trivial", "skipped")}
    ends: list[tuple[float, str, str]] = []
    if rows:
        both = [h + t for h, t in zip(shares["hopeless"], shares["trivial"], strict=True)]
        axes.fill_between(steps, 0, shares["hopeless"], color=BLUE, alpha=0.45, linewidth=0, label="looks hopeless")
        axes.fill_between(
            steps, shares["hopeless"], both, color=ORANGE, alpha=0.45, linewidth=0, hatch="//", edgecolor="white",
            label="looks trivial",
        )  # fmt: skip
        ends = [(shares["hopeless"][-1] / 2, "looks hopeless", BLUE)]
        ends += [((shares["hopeless"][-1] + both[-1]) / 2, "looks trivial", ORANGE)]
        axes.plot(steps, shares["skipped"], color=INK, linewidth=2, label="skipped")
        ends.append((shares["skipped"][-1], "skipped", INK))
    _finish(axes, "Share of the step's problems", 1.0)
    _name_ends(axes, ends)
    audits = "; audited problems look so and are solved" if acted else ""
    set_note(axes, f"training problems{_averaged(width)}{audits}")
    return figure


def _window(count: int) -> int:
    """Steps that a line is averaged over: a tenth of them, an odd number."""
    return max(1, count // 10) // 2 * 2 + 1


def _averaged(width: int) -> str:
    return f", mean over {width} steps" if width > 1 else ""


def _smooth(values: Sequence[float], width: int) -> list[float]:
    """Centred means, over fewer values at both ends."""
    reach = width // 2
    return [float(np.mean(values[max(0, i - reach) : i + reach + 1])) for i in range(len(values))]


def _finish(axes: Axes, ylabel: str, greatest: float) -> None:
    axes.set_xlabel("Training step")
    axes.set_ylabel(ylabel)
    axes.set_ylim(0, greatest)
    axes.margins(x=0.02)
    least, most = axes.get_xlim()
    if most - least < 2:  # a single step
        axes.set_xlim(least - 1, most + 1)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    tidy(axes)


def _name_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Writes names right of the data, at their heights but not over each other."""
    least, greatest = axes.get_ylim()
    apart, low = 0.065 * (greatest - least), least - 1.0 * (greatest - least)
    for height, name, color in sorted(ends):
        low = max(height, low + apart)
        axes.annotate(
            name, (1, low), xytext=(6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", color=color,
            fontsize=10, va="center", annotation_clip=False,
        )  # fmt: skip
