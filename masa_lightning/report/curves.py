"""The lines of a report's charts: means over bins of training steps, or over seeds, with 95% intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Final

from masa_lightning.quantities import ShownQuantity, default_quantities
from masa_lightning.report import statistics
from masa_lightning.report.quantities import predicted
from masa_lightning.report.runs import Arm, Run
from masa_lightning.report.scalars import Series
from masa_lightning.report.statistics import Estimate
from masa_lightning.report.text import span

BINS: Final = 40
"""Most points of a line over training steps."""
_REWARD: Final = re.compile(r"meta/rewards/(\w{1,40})/mean", re.ASCII)
_KINDS: Final = (("pearson", "Fisher's"), ("pass@1", "Wilson's"))
"""Intervals over problems; those of means are Student's."""
_MOST_RAW: Final = 800  # single steps of a chart, of all its arms

_Line = tuple[list[tuple[float, Estimate]], str, list[int]]  # points, what intervals are over, problems of each value


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What a chart shows."""

    title: str
    y: str
    """Label of the y axis, with the unit."""
    lines: tuple[tuple[str, str], ...]
    """Tags with their names; the second is dashed."""
    group: str = "training"
    bounds: tuple[float | None, float | None] = (None, None)
    """That no value can leave; intervals are cut there."""
    x: str = "training step"


RATE: Final = (0.0, 1.0)
_SOLVED: Final = (
    Chart(title="Pass@1 on held-out problems", y="pass@1", lines=(("val/pass@1", ""),), group="held out", bounds=RATE),
)
_TRAINING: Final = (Chart(title="Pass rate", y="share of right solutions", lines=(("pass_rate", ""),), bounds=RATE),)
_REWARDS: Final = (
    Chart(title="Reward of solutions", y="mean reward", lines=(("reward", ""),)),
    Chart(title="Reward of predictions", y="mean meta reward", lines=(("meta/reward", ""),)),
)
_REST: Final = (
    Chart(title="Predictions that could be read", y="share", lines=(("meta/parse_rate", ""),), bounds=RATE),
    Chart(title="Length of solutions", y="tokens", lines=(("completions/mean_length", ""),), bounds=(0.0, None)),
    Chart(title="Solutions cut at the limit", y="share", lines=(("completions/clipped_ratio", ""),), bounds=RATE),
    Chart(
        title="Problems without variance",
        y="share whose rewards are equal",
        lines=(("frac_reward_zero_std", ""),),
        bounds=RATE,
    ),
    Chart(title="Entropy", y="nats a token", lines=(("entropy", ""),), group="update"),
    Chart(
        title="Gradient norm", y="norm before clipping", lines=(("grad_norm", ""),), group="update", bounds=(0.0, None)
    ),
    Chart(title="Policy loss", y="loss", lines=(("policy_loss", ""),), group="update"),
    Chart(
        title="Tokens of the update that were clipped",
        y="share",
        lines=(("clip_ratio/region_mean", ""),),
        group="update",
        bounds=RATE,
    ),
    Chart(
        title="Sampler against trainer",
        y="largest difference of log-probabilities (nats)",
        lines=(("sampling/sampling_logp_difference/max", ""),),
        group="update",
        bounds=(0.0, None),
    ),
    Chart(title="Throughput", y="tokens/s", lines=(("tokens_per_second", ""),), group="update", bounds=(0.0, None)),
)
CONTROL_FIGURES: Final = (
    ("acted_share", "acted on", "share of problems"),
    ("precision", "precision", "share"),
    ("recall", "recall", "share"),
    ("lost_correct", "right solutions lost", "share of all right ones"),
    ("saved_tokens", "tokens saved", "share of all"),
    ("lift", "lift of hints", "difference of pass rates"),
)


def charts(arms: Sequence[Arm]) -> list[Chart]:
    """Charts of solutions, of all quantities that any of the runs predicted, and of the update."""
    names = list(dict.fromkeys(tag for arm in arms for run in arm.runs for tag in run.scalars))
    quantities = predicted(arms)
    held_out = [chart for q in quantities for chart in _of_quantity(q, names, "val/")]
    trained = [chart for q in quantities for chart in _of_quantity(q, names, "")]
    return [*_SOLVED, *held_out, *_TRAINING, *trained, *_REWARDS, *_of_rewards(names), *_REST]


def _of_quantity(quantity: ShownQuantity, names: Sequence[str], stage: str) -> list[Chart]:
    """Predicted and actual means, their correlation, and how far probabilities are off."""
    words = quantity.title.lower()
    group, ending = ("held out", ", held out") if stage else ("training", "")
    sides = (("actual_mean", "actual"), ("predicted_mean", "predicted"))
    found = [
        Chart(
            title=f"Predicted and actual {words}{ending}",
            y=f"mean {words}" if quantity.greatest == 1 or not quantity.unit else quantity.unit,
            lines=tuple((quantity.tag(metric, stage), name) for metric, name in sides),
            group=group,
            bounds=(None if quantity.greatest is None else 0.0, quantity.greatest),
        ),
        Chart(
            title=f"Correlation of predicted and actual {words}{ending}",
            y="Pearson's r",
            lines=((quantity.tag("pearson", stage), ""),),
            group=group,
            bounds=(-1.0, 1.0),
        ),
    ]
    if stage and quantity.tag("ece", stage) in names:
        found.append(
            Chart(
                title=f"Calibration error of {words}s{ending}",
                y="expected calibration error",
                lines=((quantity.tag("ece", stage), ""),),
                group=group,
                bounds=RATE,
            )
        )
    return found


def _of_rewards(names: Sequence[str]) -> list[Chart]:
    """A chart of the reward of each quantity, at most 12, those of the paper first."""
    paper = {q.reward_name: q.title for q in default_quantities()}
    found = {match[1]: match[1].replace("_", " ") for name in names if (match := _REWARD.fullmatch(name))}
    ordered = [name for name in paper if name in found] + [name for name in found if name not in paper]
    return [
        Chart(
            title=f"Reward of predictions: {paper.get(name, found[name]).lower()}",
            y=f"{found[name]} reward",
            lines=((f"meta/rewards/{name}/mean", ""),),
            bounds=RATE,
        )
        for name in ordered[:12]
    ]


def control_charts(controls: Sequence[str]) -> list[Chart]:
    """Charts of what each control did, by its name."""
    return [
        Chart(
            title=f"{control}: {title}",
            y=y,
            lines=((f"controls/{control}/{name}", ""),),
            group="controls",
            bounds=(-1.0, 1.0) if name == "lift" else RATE,
        )
        for control in controls
        for name, title, y in CONTROL_FIGURES
    ]


def draw(chart: Chart, arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Returns the points of a chart; None where no arm has any.

    Each line is ``arm`` (number), ``name``, ``points`` (x, y, low, high, n; a bound is null where none is known) and ``raw``
    (x, y of single steps, of one run).
    """
    lines: list[dict[str, Any]] = []
    drawn: list[_Line] = []
    for number, arm in enumerate(arms):
        for index, (tag, name) in enumerate(chart.lines):
            series = [(run, run.series(tag)) for run in arm.runs if run.series(tag)]
            if not series:
                continue
            longest = max(len(each) for _, each in series)
            width = 1 if chart.group == "held out" or longest < 20 else max(5, math.ceil(longest / BINS))
            points = _points(series, tag, width)
            raw = _raw(series[0][1], _MOST_RAW // len(arms)) if len(series) == 1 and width > 1 else []
            lines.append(
                {
                    "arm": number,
                    "name": name,
                    "dashed": index == 1,
                    "points": [_point(x, estimate, chart.bounds) for x, estimate in points],
                    "raw": raw,
                }
            )
            problems = [at_validation(run, tag, step).n for run, each in series for step in each] if width == 1 else [0]
            drawn.append((points, _over(len(series), width), problems))
    if not lines:
        return None
    return {
        "title": chart.title,
        "group": chart.group,
        "x": chart.x,
        "y": chart.y,
        "note": _note(drawn, chart.lines[0][0]),
        "lines": lines,
    }


def held_out_against_tokens(arms: Sequence[Arm]) -> dict[str, Any] | None:
    """Held-out pass@1 against what was generated up to then: where arms differ in their cost, steps do not compare."""
    tag = "val/pass@1"
    lines: list[dict[str, Any]] = []
    drawn: list[_Line] = []
    left = 0
    for number, arm in enumerate(arms):
        known = [(run, path) for run in arm.runs if (path := _tokens_at_validations(run))]
        paths = [path for _, path in known]
        common = sorted(set.intersection(*(set(path) for path in paths))) if paths else []
        left += len({step for path in paths for step in path}) - len(common)
        points = []
        for step in common:
            estimate = statistics.mean([path[step][1].value for path in paths]) if len(paths) > 1 else paths[0][step][1]
            if estimate is not None:
                points.append((fmean(path[step][0] for path in paths), estimate))
        if points:
            line = {"arm": number, "name": "", "dashed": False, "raw": []}
            lines.append(line | {"points": [_point(x, estimate, RATE) for x, estimate in points]})
            drawn.append((points, _over(len(known), 1), [known[0][1][step][1].n for step in common]))
    if not lines:
        return None
    return {
        "title": "Pass@1 on held-out problems against tokens generated",
        "group": "held out",
        "x": "tokens generated in training, both kinds",
        "y": "pass@1",
        "note": _note(drawn, tag) + (f" | left out, as not all seeds have them: {left} validations" if left else ""),
        "lines": lines,
    }


def at_validation(run: Run, tag: str, step: int) -> Estimate:
    """A value of an evaluation with the interval that what was logged beside it gives.

    Args:
        run: Of the value.
        tag: A name that has a value at `step`.
        step: Of the evaluation.
    """
    value = run.series(tag)[step]
    low, high = (run.series(f"{tag}_{side}").get(step) for side in ("low", "high"))
    if low is not None and high is not None:
        return Estimate(value, low, high, _problems(run, tag))
    stem, _, name = tag.rpartition("/")
    n = int(run.series(f"{stem}/count").get(step, 0))
    if name == "pearson":
        return statistics.correlation(value, n)
    if name.endswith("_mean") and (spread := run.series(f"{stem}/{name[:-5]}_std").get(step)) is not None:
        return statistics.of_spread(value, spread, n)
    return Estimate(value, None, None, n)


def _problems(run: Run, tag: str) -> int:
    """How many a validation or test has, as the last one left; 0 where that is not known."""
    stage = "test" if tag.startswith("test/") else "validate"
    return next((len(e.rates) for e in reversed(run.evaluated) if e.stage == stage), 0)


def _points(series: Sequence[tuple[Run, Series]], tag: str, width: int) -> list[tuple[float, Estimate]]:
    """Means over `width` steps of one run, or of these means over seeds."""
    if len(series) == 1 and width == 1:
        run, only = series[0]
        return [(step, at_validation(run, tag, step)) for step in sorted(only)]
    steps = sorted({step for _, each in series for step in each})
    ends = [*range(width, len(steps) - width + 1, width), len(steps)]  # what is left over is in the last part
    points = []
    for start, end in zip([0, *ends], ends, strict=False):
        part = steps[start:end]
        values = [found for _, each in series if (found := [each[step] for step in part if step in each])]
        estimate = statistics.mean(values[0] if len(series) == 1 else [fmean(found) for found in values])
        if estimate is not None:
            points.append((fmean(part), estimate))
    return points


def _over(seeds: int, width: int) -> str:
    return "seeds" if seeds > 1 else "steps" if width > 1 else "problems"


def _note(drawn: Sequence[_Line], tag: str) -> str:
    """Says what the points of a chart's lines rest on, and what their intervals are over."""
    texts = []
    for over in dict.fromkeys(over for _, over, _ in drawn):
        lines = [(points, problems) for points, of, problems in drawn if of == over]
        n = span([estimate.n for points, _ in lines for _, estimate in points])
        problems = span([number for _, numbers in lines for number in numbers])
        of_problems = f" of {problems} problems" if over == "seeds" and problems != "0" else ""
        places = span([len(points) for points, _ in lines])
        at = f"{places} {'step' if over == 'problems' else 'point'}{'s' if places != '1' else ''}"
        what = f"{n} {over}{of_problems} at {'each of ' if places != '1' else ''}{at}" if n != "0" else at
        kind = next((kind for end, kind in _KINDS if over == "problems" and tag.endswith(end)), "Student's t")
        bounded = any(estimate.low is not None for points, _ in lines for _, estimate in points)
        texts.append(f"n = {what}; {f'95% interval over {over} ({kind})' if bounded else 'no interval'}")
    return " | ".join(texts)


def _raw(series: Series, most: int) -> list[list[float]]:
    steps = sorted(series)
    stride = max(1, math.ceil(len(steps) / max(1, most)))
    return [[step, _rounded(series[step])] for step in steps[::stride]]


def _tokens_at_validations(run: Run) -> dict[int, tuple[float, Estimate]]:
    solution, meta = run.series("tokens_total/solution"), run.series("tokens_total/meta")
    path = {}
    for step in run.series("val/pass@1"):
        before = [s for s in solution if s <= step]
        at = max(before, default=None)
        tokens = 0.0 if at is None else solution[at] + meta.get(at, 0.0)
        if solution:
            path[step] = (tokens, at_validation(run, "val/pass@1", step))
    return path


def _point(x: float, estimate: Estimate, bounds: tuple[float | None, float | None]) -> list[float | None]:
    value, low, high, n = estimate.within(*bounds)
    return [_rounded(x), _rounded(value), *(None if v is None else _rounded(v) for v in (low, high)), n]


def _rounded(value: float) -> float:
    return float(f"{value:.5g}") if abs(value) < 1e5 else round(value)
