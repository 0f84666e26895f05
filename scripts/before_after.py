#!/usr/bin/env python3
"""How well a run's predictions fit at each of its validations, and what changed in between, as a markdown table.

    python scripts/before_after.py runs/masa_shadow

Intervals are 95%, from a bootstrap over the validation problems: they take the model as it is, and another seed may do
otherwise. All validations have the same problems, so that a change is paired. *The base rate* is the best constant:
the mean pass rate of the very problems, which a predictor that knows no problem could not beat.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Final

from masa_lightning.report.records import Evaluated, ProblemRecord, read_records
from masa_lightning.report.statistics import Estimate, pearson

DRAWS: Final = 2000
Problems = Sequence[ProblemRecord]


def _rates(problems: Problems) -> list[tuple[float, float]]:
    return [(p.predicted, p.actual) for p in problems if p.predicted is not None and p.actual is not None]


def _lengths(problems: Problems) -> list[tuple[float, float]]:
    return [(p.predicted_length, p.length) for p in problems if p.predicted_length is not None and p.length]


def _brier(pairs: Sequence[tuple[float, float]]) -> float | None:
    return fmean(y * (1 - p) ** 2 + (1 - y) * p**2 for p, y in pairs) if pairs else None


def base_rate(problems: Problems) -> float | None:
    """Brier score of the mean pass rate of these problems, said of each."""
    actual = [y for _, y in _rates(problems)]
    return _brier([(fmean(actual), y) for y in actual]) if actual else None


METRICS: Final[dict[str, Callable[[Problems], float | None]]] = {
    "pass@1": lambda ps: fmean(known) if (known := [p.actual for p in ps if p.actual is not None]) else None,
    "r, pass rate": lambda ps: pearson(_rates(ps)),
    "error, pass rate": lambda ps: fmean(abs(p - y) for p, y in pairs) if (pairs := _rates(ps)) else None,
    "Brier score": lambda ps: _brier(_rates(ps)),
    "Brier score of the base rate": base_rate,
    "predicted pass rate, mean": lambda ps: fmean(p for p, _ in pairs) if (pairs := _rates(ps)) else None,
    "predicted pass rate, standard deviation": lambda ps: pstdev(p for p, _ in pairs) if (pairs := _rates(ps)) else None,
    "r, length": lambda ps: pearson(_lengths(ps)),
    "error, length, relative": lambda ps: fmean(abs(p - y) / y for p, y in pairs) if (pairs := _lengths(ps)) else None,
}  # fmt: skip


def compare(validations: Sequence[Evaluated], draws: int = DRAWS) -> dict[str, list[Estimate | None]]:
    """Metrics of each validation, and of each less the one before it, on the problems that all have.

    Args:
        validations: Problems with their solutions and predictions, n >= 2 times.
        draws: Of the bootstrap.

    Returns:
        n estimates and then n - 1 for each of `METRICS`; None where nothing is known.
    """
    tables = [{(p.source, p.id, p.problem, p.answer): p for p in each.problems} for each in validations]
    rows = [tuple(table[key] for table in tables) for key in tables[0] if all(key in table for table in tables)]
    rng = random.Random(0)
    drawn = [_of(rows, len(tables))]
    drawn += [_of(rng.choices(rows, k=len(rows)), len(tables)) for _ in range(draws if rows else 0)]
    return {
        name: [_estimate([each[name][column] for each in drawn], len(rows)) for column in range(2 * len(tables) - 1)]
        for name in METRICS
    }


def _of(rows: Sequence[tuple[ProblemRecord, ...]], n: int) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = {}
    for name, metric in METRICS.items():
        values = [metric([row[at] for row in rows]) for at in range(n)]
        found[name] = values + [None if a is None or b is None else b - a for a, b in pairwise(values)]
    return found


def _estimate(drawn: Sequence[float | None], n: int) -> Estimate | None:
    if drawn[0] is None:
        return None
    known = sorted(v for v in drawn[1:] if v is not None and not math.isnan(v))
    low, high = (known[round(share * (len(known) - 1))] if known else None for share in (0.025, 0.975))
    return Estimate(drawn[0], low, high, n)


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "n/a"
    value, low, high, _ = estimate
    bounds = "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return f"{value:{sign}.3f}{bounds}"


def main(words: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run with RolloutTable")
    folder = parser.parse_args(words).run
    evaluated, notes = read_records(folder, all_steps=True)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    validations = [e for e in evaluated if e.stage == "validate"]
    if len(validations) < 2:
        print(f"{folder} has {len(validations)} validations with rollouts; expected two or more", file=sys.stderr)
        return 1
    steps = [each.step for each in validations]
    titles = [f"step {step}" for step in steps] + [f"{a} to {b}" for a, b in pairwise(steps)]
    found = compare(validations)
    if not (shared := found["pass@1"][0]):
        print(f"the validations of {folder} have no solved problem in common; expected the same ones", file=sys.stderr)
        return 1
    print(f"| on {shared.n} validation problems | {' | '.join(titles)} |\n|{' --- |' * (len(titles) + 1)}")
    for name, estimates in found.items():
        cells = [_cell(e, "+" if at >= len(steps) else "") for at, e in enumerate(estimates)]
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
