"""Pictures of a comparison, in the manner of the paper's: calibration, progress, gating, means over steps, parts, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from comparison.metrics import (
    Cost,
    Result,
    Results,
    difference,
    gate_of,
    paired,
)
from comparison.self_knowledge import answers
from comparison.shapley import PARTS, arm_of_parts, shapley_by_seed
from masa_lightning.metrics.figures import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    draw_lengths,
    new_figure,
    save_figure,
    self_knowledge,
    set_title,
    tidy,
)
from masa_lightning.report import statistics
from masa_lightning.report.statistics import Estimate

STYLES: Final = (  # of arms in their order; Okabe and Ito's colours, and each line another stroke
    (INK, "-"), (BLUE, "-"), (ORANGE, "--"), ("#009E73", "-."), ("#CC79A7", ":"), ("#E69F00", "--"),
)  # fmt: skip
SHOWN: Final = ("grpo", "masa", "efficient", "efficient_risk")
_SMOOTH: Final = 5  # training steps


def draw_all(results: Results, folder: Path) -> list[str]:
    """Draws every picture that there are runs for; returns the names of their files, without endings."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for draw in (calibration, progress, gating, alignment, parts, cost, both_kinds):
        if (figure := draw(results)) is not None:
            save_figure(figure, file := folder / f"{draw.__name__}.png")
            Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)  # a third of the size
            drawn.append(draw.__name__)
    return drawn


def calibration(results: Results) -> Figure | None:
    """Predicted against actual pass rate and length of the tested problems, all seeds, of up to three arms."""
    names = [n for n in SHOWN if n in results][:3]
    if not names:
        return None
    figure = new_figure(3.6 * len(names) + 0.2, 7.6)
    for column, name in enumerate(names):
        above, below = (figure.add_subplot(2, len(names), row * len(names) + column + 1) for row in (0, 1))
        problems = [p for result in results[name].values() for p in result.tested.problems]
        _pass_rates(above, [(p.predicted, p.actual) for p in problems], name)
        lengths = [(p.predicted_length, p.length) for p in problems]
        known = [(float(x), float(y)) for x, y in lengths if x and y]
        draw_lengths(below, *(torch.tensor(side) for side in (zip(*known, strict=True) if known else ((), ()))), None, None,
                     title="Length")  # fmt: skip
        above.set_ylabel("Predicted pass rate" if not column else "")
        below.set_ylabel("Predicted length (tokens)" if not column else "")
    return figure


def _pass_rates(axes: Axes, pairs: Sequence[tuple[float | None, float | None]], name: str) -> None:
    known = [(round(p, 3), round(a, 3)) for p, a in pairs if p is not None and a is not None]
    r = statistics.pearson(known)
    set_title(axes, f"{name}: r = {'n/a' if r is None else f'{r:.2f}'}", f"pass rate, {len(known)} problems")
    axes.set_box_aspect(1)
    axes.plot([0, 1], [0, 1], color=INK, linestyle=(0, (4, 3)), linewidth=1.1)
    places = Counter(known)
    axes.scatter(
        [a for _, a in places], [p for p, _ in places], s=[min(600, 8 * n) for n in places.values()], color=BLUE, alpha=0.55,
        edgecolors="white", linewidths=0.5, clip_on=False, zorder=3,
    )  # fmt: skip
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("Actual pass rate")
    tidy(axes)


def progress(results: Results) -> Figure | None:
    """Held-out pass@1 against steps, generated tokens and seconds: means over seeds, and each seed as a thin line."""
    names = [n for n in SHOWN if n in results]
    if not names:
        return None
    figure = new_figure(11, 4.0)
    labels: dict[Cost, tuple[str, float]] = {
        "steps": ("Training steps", 1),
        "tokens": ("Generated tokens (thousands)", 1000),
        "seconds": ("Seconds in steps", 1),
    }
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (what, (label, unit)) in zip(panels, labels.items(), strict=True):
        for name, (color, stroke) in zip(SHOWN, STYLES, strict=False):
            if name not in results:
                continue
            curves = [curve for result in results[name].values() if (curve := result.curve(what))]
            if not curves:  # their seconds are not known
                continue
            for curve in curves:
                axes.plot([x / unit for x, _ in curve], [y for _, y in curve], color=color, alpha=0.25, linewidth=0.8)
            points = list(zip(*curves, strict=False))
            x = [fmean(x for x, _ in point) / unit for point in points]
            y = [fmean(y for _, y in point) for point in points]
            axes.plot(x, y, color=color, linestyle=stroke, linewidth=2, marker="o", markersize=4, label=name)
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        tidy(axes)
    panels[0].set_ylabel("pass@1, validation problems")
    set_title(panels[0], "Pass@1 at equal steps, tokens and seconds")
    panels[0].legend(frameon=False, fontsize=9)
    _note(figure, "thin lines: seeds; thick ones: their means")
    return figure


def gating(results: Results) -> Figure | None:
    """Which share of the problems is gated over training steps, and how rightly: where it acts by its audits."""
    names = [n for n in ("masa", "efficient", "efficient_risk", "history_masa") if n in results]
    names = [n for n in names if gate_of(results[n]) is not None]
    if not names:
        return None
    figure = new_figure(11, 4.0)
    panels = figure.subplots(1, 3)
    for name, (color, stroke) in zip(names, STYLES[1:], strict=False):
        runs, gate = results[name], gate_of(results[name])
        acts = any(result.start is not None for result in runs.values())
        label = f"{name}{'' if acts else ' (shadow)'}"
        share = "acted_share" if acts else "share"
        for axes, what in zip(panels, (share, "precision", "recall"), strict=True):
            x, y = _mean_over_steps(runs, lambda r, w=what, g=gate: r.run.series(f"controls/{g}/{w}"), width=1)
            axes.plot(x, y, color=color, linestyle=stroke, linewidth=2, label=label)
    titles = ("Share of problems gated", "Precision", "Recall")
    for axes, title in zip(panels, titles, strict=True):
        set_title(axes, title)
        axes.set_ylim(-0.02, 1.04)
        _steps(axes)
    panels[0].legend(frameon=False, fontsize=9)
    _note(figure, "means over seeds; precision and recall over a window of steps, by audits where it acts")
    return figure


def alignment(results: Results) -> Figure | None:
    """Predicted and actual means over training steps, and of held-out problems."""
    if "masa" not in results:
        return None
    figure = new_figure(10, 4.2)
    kinds = (("pass_rate", "Pass rate", 1.0), ("length", "Solution length (tokens)", None))
    for axes, (kind, title, greatest) in zip(figure.subplots(1, 2), kinds, strict=True):
        for side, color, stroke in (("actual", BLUE, "-"), ("predicted", ORANGE, "--")):
            tag = f"calibration/{kind}/{side}_mean"
            x, y = _mean_over_steps(results["masa"], lambda r, t=tag: r.run.series(t))
            axes.plot(x, y, color=color, linestyle=stroke, linewidth=2, label=f"{side}, masa")
            for name, marker, filled in (("masa", "o", True), ("grpo", "s", False)):
                if name in results:
                    x, y = _mean_over_steps(results[name], lambda r, t=tag: r.run.series(f"val/{t}"), width=1)
                    axes.plot(x, y, color=color, linestyle="none", marker=marker, markersize=6,
                              markerfacecolor=color if filled else "white")  # fmt: skip
        set_title(axes, f"{title}: predicted and actual means")
        axes.set_ylim(0, greatest or 1.1 * axes.get_ylim()[1])  # room for whole markers
        _steps(axes)
    axes.legend(frameon=False, fontsize=9)
    _note(figure, f"lines: training problems, mean over {_SMOOTH} steps; dots: validation, masa; squares: grpo")
    return figure


def parts(results: Results) -> Figure | None:
    """Tested pass@1 of each set of the meta reward's parts against GRPO, and what each part adds."""
    sets = [("masa", "all three")]
    sets += [(arm_of_parts(p for p in PARTS if p != part), f"without {part}") for part in PARTS]
    sets += [(arm_of_parts([part]), f"{part} alone") for part in PARTS]
    gains = [(label, paired(results[arm], results["grpo"], difference(_tested))) for arm, label in sets
             if arm in results and "grpo" in results]  # fmt: skip
    if len(gains) < 3:
        return None
    values = list(shapley_by_seed(results, _tested).values())
    figure = new_figure(10 if values else 6, 4.0)
    left, *others = figure.subplots(1, 2 if values else 1, squeeze=False)[0]
    _bars(left, gains)
    set_title(left, "pass@1 against GRPO, test problems")
    if not others:  # not all sets were run
        _note(figure, "means over seeds, 95% intervals")
        return figure
    (right,) = others
    added = [(part, statistics.mean([v[part] for v in values])) for part in PARTS]
    _bars(right, added)
    set_title(right, "Shapley values of the parts")
    _note(figure, f"means over {len(values)} seeds, 95% intervals")
    return figure


def _bars(axes: Axes, rows: Sequence[tuple[str, Estimate | None]]) -> None:
    for place, (_, found) in enumerate(rows):
        if found is not None:
            axes.plot([found.value], [place], color=BLUE, marker="o", markersize=7)
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [place, place], color=BLUE, linewidth=1.8)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+.2f}" if value else "0")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    tidy(axes)


def cost(results: Results) -> Figure | None:
    """Generated tokens and seconds of each training step."""
    names = [n for n in SHOWN if n in results]
    if len(names) < 2:
        return None
    figure = new_figure(10, 4.0)
    panels = figure.subplots(1, 2)
    kinds: dict[Cost, tuple[str, float]] = {
        "tokens": ("Generated tokens a step (thousands)", 1000),
        "seconds": ("Seconds a step", 1),
    }
    for axes, (what, (title, unit)) in zip(panels, kinds.items(), strict=True):
        for name, (color, stroke) in zip(SHOWN, STYLES, strict=False):
            if name in results:
                x, y = _mean_over_steps(
                    results[name], lambda r, w=what, u=unit: {s: v / u for s, v in r.by_step(w).items()}, width=1
                )
                if not x:  # their seconds are not known
                    continue
                axes.plot(x, y, color=color, linestyle=stroke, linewidth=2, label=name)
        set_title(axes, title)
        axes.set_ylim(bottom=0)
        _steps(axes)
    panels[0].legend(frameon=False, fontsize=9)
    _note(figure, "means over seeds")
    return figure


def both_kinds(results: Results) -> Figure | None:
    """Reliability of predicted pass rates and of stated confidences, of the tested problems that have both."""
    tested = [answers(result.tested) for result in results.get("masa_rlcr", {}).values()]
    problems = [p for each in tested for p in each if p.rates]
    if not problems:
        return None
    counts = torch.tensor([len(p.pairs) for p in problems])
    pairs = torch.tensor([pair for p in problems for pair in p.pairs], dtype=torch.float64)
    index = torch.repeat_interleave(torch.arange(len(problems)), counts)
    right = torch.zeros(len(problems), dtype=torch.float64).scatter_add(0, index, pairs[:, 1])
    rates = torch.tensor([fmean(p.rates) for p in problems], dtype=torch.float64)
    return self_knowledge((rates, right, counts), (pairs[:, 0], pairs[:, 1], index), where="masa_rlcr, test problems")


def _mean_over_steps(
    runs: Mapping[int, Result], series: Callable[[Result], Mapping[int, float]], width: int = _SMOOTH
) -> tuple[list[int], list[float]]:
    """Centred means over steps of the means over seeds; a step that no seed knows is left out."""
    by_step: dict[int, list[float]] = {}
    for result in runs.values():
        for step, value in series(result).items():
            by_step.setdefault(step, []).append(value)
    steps, reach = sorted(by_step), width // 2
    means = [fmean(by_step[step]) for step in steps]
    return steps, [fmean(means[max(0, i - reach) : i + reach + 1]) for i in range(len(means))]


def _note(figure: Figure, text: str) -> None:
    figure.supxlabel(text, x=0.99, ha="right", fontsize=8, color=GREY)


def _tested(result: Result) -> float | None:
    return result.run.last("test/pass@1")


def _steps(axes: Axes) -> None:
    axes.set_xlabel("Training step")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    tidy(axes)
