"""What an experiment saved against another, and what that cost: a plain table for the screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Final

from masa_lightning.functional.intervals import paired_differences
from masa_lightning.report import statistics
from masa_lightning.report.records import Evaluated
from masa_lightning.report.runs import Arm, Run
from masa_lightning.report.settings import seeds

_NONE: Final = "-"
_GENERATED: Final = ("tokens/solution", "tokens/meta")
_SECONDS: Final = ("timing_s/step", "timing_s/sft")
_LATER: Final = "  a step, in the later half"

Row = tuple[str, str, str, str]


def costs(one: Arm, other: Arm) -> list[str]:
    r"""Compares the second experiment with the first, as lines of text; none where one logged no training step.

    Figures are means over seeds. The change of pass@1 is over the problems of the last validations of both, or over pairs
    of seeds, with its 95% interval.

    >>> def masa(name, *tokens):
    ...     scalars = {"tokens/solution": dict(enumerate(tokens))}
    ...     return Arm(label=name, runs=[Run(name=name, scalars=scalars, settings={}, settings_file="",
    ...                                      evaluated=[], benchmarks=[], notes=[])])
    >>> print("\n".join(costs(masa("masa", 1000.0, 1000.0), masa("masa_efficient", 1000.0, 500.0))))
                                  masa   masa_efficient   change
    tokens generated             2,000            1,500     -25%
      a step, in the later half  1,000              500     -50%
    """
    rows = [
        _share("tokens generated", one, other, lambda run: _total(run, _GENERATED)),
        _share(_LATER, one, other, lambda run: _late(run, _GENERATED)),
        _share("seconds in training", one, other, lambda run: _total(run, _SECONDS)),
        _share(_LATER, one, other, lambda run: _late(run, _SECONDS), digits=2),
        _difference("held-out problems solved", one, other, "val/pass@1"),
        _difference("correlation of prediction", one, other, "val/calibration/pass_rate/pearson"),
    ]
    rows = [row for row in rows if _NONE not in row]
    if not rows or rows[0][0] != "tokens generated":
        return []
    rows.insert(0, ("", one.label, other.label, "change"))
    widths = [max(len(row[place]) for row in rows) for place in range(4)]
    lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}   {c:>{widths[2]}}   {d:>{widths[3]}}" for a, b, c, d in rows]
    return [*lines, *_solved(one, other)]


def _share(name: str, one: Arm, other: Arm, of: Callable[[Run], float | None], digits: int = 0) -> Row:
    before, after = (_mean([of(run) for run in arm.runs]) for arm in (one, other))
    change = _NONE if not before or after is None else f"{after / before - 1:+.0%}"
    return name, _number(before, digits), _number(after, digits), change


def _difference(name: str, one: Arm, other: Arm, tag: str) -> Row:
    before, after = (_mean([run.last(tag) for run in arm.runs]) for arm in (one, other))
    change = _NONE if before is None or after is None else f"{after - before:+.3f}"
    return name, _number(before, 3), _number(after, 3), change


def _solved(one: Arm, other: Arm) -> list[str]:
    """The change of pass@1 on the same problems, in a sentence."""
    pairs = [found for a, b in _pairs(one, other) if (found := paired_differences(_rates(_last(a)), _rates(_last(b))))]
    change = statistics.mean(pairs[0] if len(pairs) == 1 else [fmean(pair) for pair in pairs])
    if change is None or change.low is None or change.high is None:
        return []
    chance = "may be chance" if change.low <= 0 <= change.high else "more than chance"
    where = f"the same {change.n} problems" if len(pairs) == 1 else f"the same problems, {change.n} pairs of seeds"
    return [f"Solved: {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}] on {where}: {chance}."]


def _pairs(one: Arm, other: Arm) -> list[tuple[Run, Run]]:
    """Runs of equal seeds; of one run each those two."""
    if len(one.runs) == len(other.runs) == 1:
        return [(one.runs[0], other.runs[0])]
    of_seeds = {seeds(run.settings): run for run in other.runs}
    return [(run, of_seeds[seeds(run.settings)]) for run in one.runs if seeds(run.settings) in of_seeds]


def _last(run: Run) -> Evaluated | None:
    """The last validation."""
    return next((e for e in reversed(run.evaluated) if e.stage == "validate"), None)


def _rates(evaluated: Evaluated | None) -> dict[tuple[str, str, str], float]:
    if evaluated is None:
        return {}
    return {(r.source, r.id, r.problem): r.actual for r in evaluated.problems if r.actual is not None}


def _steps(run: Run, tags: Sequence[str]) -> list[float]:
    """A sum of figures, of each training step."""
    found = [run.series(tag) for tag in tags]
    steps = sorted({step for series in found for step in series})
    return [sum(series.get(step, 0.0) for series in found) for step in steps]


def _total(run: Run, tags: Sequence[str]) -> float | None:
    steps = _steps(run, tags)
    return sum(steps) if steps else None


def _late(run: Run, tags: Sequence[str]) -> float | None:
    steps = _steps(run, tags)
    return fmean(steps[len(steps) // 2 :]) if len(steps) > 1 else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"
