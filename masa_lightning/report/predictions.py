"""What was predicted against what happened, problem by problem, before and after; and how far predictions can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Final

from masa_lightning.report import statistics
from masa_lightning.report.records import Evaluated, ProblemRecord
from masa_lightning.report.runs import Arm
from masa_lightning.report.statistics import Estimate

BINS: Final = 10
"""Of a reliability diagram, of equal width."""
_MOST_POINTS: Final = 600

Pair = tuple[float, float]  # predicted, actual


def panels(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Returns what was predicted and what happened, for each arm and for its first and last validation, or its test."""
    found = []
    for number, arm in enumerate(arms):
        for when, evaluations in _moments(arm):
            rates = [_pairs(e.problems, "rate") for e in evaluations]
            lengths = [_pairs(e.problems, "length") for e in evaluations]
            others = _others(evaluations)
            if any(rates) or any(lengths) or others:
                found.append(
                    {
                        "arm": number,
                        "when": when,
                        "seeds": len(evaluations),
                        "rate": _scatter(rates),
                        "length": _scatter(lengths),
                        "reliability": _reliability(rates),
                        "others": others,
                    }
                )
    return found


def _others(evaluations: Sequence[Evaluated]) -> list[dict[str, Any]]:
    """Other quantities, with their names in words."""
    names = list(dict.fromkeys(name for e in evaluations for r in e.problems for name in r.compared))[:12]
    found = []
    for name in names:
        known = [[r.compared[name] for r in e.problems if r.compared.get(name)] for e in evaluations]
        seeds = [[(fmean(p for p, _ in rows), fmean(a for _, a in rows)) for rows in problems] for problems in known]
        if (scatter := _scatter(seeds)) is not None:
            found.append({"name": name.replace("_", " "), "scatter": scatter})
    return found


def _moments(arm: Arm) -> list[tuple[str, list[Evaluated]]]:
    moments: list[tuple[str, list[Evaluated]]] = []
    validations = [v for run in arm.runs if (v := run.of_stage("validate"))]
    if validations:
        first, last = [v[0] for v in validations], [v[-1] for v in validations if len(v) > 1]
        moments.append((_when("validation", first), first))
        if last:
            moments.append((_when("validation", last), last))
    tests = [t for run in arm.runs if (t := run.of_stage("test"))]
    if tests:
        moments.append((_when("test", [t[-1] for t in tests]), [t[-1] for t in tests]))
    return moments


def _when(stage: str, evaluations: Sequence[Evaluated]) -> str:
    steps = sorted({e.step for e in evaluations if e.step is not None})
    if not steps:
        return stage
    return f"{stage} after {steps[0]}{f' to {steps[-1]}' if len(steps) > 1 else ''} steps"


def _pairs(records: Sequence[ProblemRecord], what: str) -> list[Pair]:
    pairs = []
    for r in records:
        predicted, actual = (r.predicted, r.actual) if what == "rate" else (r.predicted_length, r.length)
        if predicted is not None and actual is not None:
            pairs.append((predicted, actual))
    return pairs


def _scatter(seeds: Sequence[Sequence[Pair]]) -> dict[str, Any] | None:
    pairs = [pair for seed in seeds for pair in seed]
    if not pairs:
        return None
    counted = sorted(Counter((float(f"{p:.4g}"), float(f"{a:.4g}")) for p, a in pairs).items())
    points = counted[:: 1 + len(counted) // _MOST_POINTS]
    errors = [[p - a for p, a in seed] for seed in seeds if seed]
    return {
        "points": [[p, a, n] for (p, a), n in points],
        "drawn": sum(n for _, n in points),
        "problems": len(pairs),
        "r": _correlation(seeds),
        "bias": _estimate(statistics.mean([fmean(e) for e in errors] if len(errors) > 1 else errors[0])),
    }


def _correlation(seeds: Sequence[Sequence[Pair]]) -> list[float | None] | None:
    known = [(r, len(seed)) for seed in seeds if (r := statistics.pearson(seed)) is not None]
    found = statistics.correlation(*known[0]) if len(known) == 1 else statistics.mean([r for r, _ in known])
    return _estimate(found and found.within(-1.0, 1.0))


def _reliability(seeds: Sequence[Sequence[Pair]]) -> dict[str, Any] | None:
    """Mean actual rate of the problems whose predicted rate is in a bin.

    Intervals are Wilson's over problems; of several seeds Student's over their means, as they may share problems.
    """
    bins: dict[int, list[list[Pair]]] = {}
    for seed in seeds:
        by_bin: dict[int, list[Pair]] = {}
        for pair in seed:
            by_bin.setdefault(min(BINS - 1, int(pair[0] * BINS)), []).append(pair)
        for place, pairs in by_bin.items():
            bins.setdefault(place, []).append(pairs)
    points = []
    for _, parts in sorted(bins.items()):
        x = fmean(p for pairs in parts for p, _ in pairs)
        actual = [[a for _, a in pairs] for pairs in parts]
        estimate = statistics.mean([fmean(a) for a in actual]) if len(parts) > 1 else statistics.rate(actual[0])
        if estimate is not None:
            value, low, high, _ = _estimate(estimate.within(0.0, 1.0)) or [None] * 4
            points.append([round(x, 4), value, low, high, sum(map(len, parts))])
    return {"points": points, "problems": sum(map(len, seeds))} if points else None


def _estimate(estimate: Estimate | None) -> list[float | None] | None:
    if estimate is None:
        return None
    return [None if v is None else float(f"{v:.5g}") for v in estimate]
