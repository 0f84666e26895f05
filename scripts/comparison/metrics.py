"""Metrics of runs: at equal steps, tokens and seconds; what controls did; and paired differences with their intervals."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import correlation, fmean
from typing import Final, Literal, get_args

from comparison.runs import Arm, folder_of, is_tested, is_trained, test_folder
from masa_lightning.data.arithmetic import Arithmetic, ArithmeticKind, Tier
from masa_lightning.functional.controls import gate
from masa_lightning.report import statistics
from masa_lightning.report.records import Evaluated, ProblemRecord
from masa_lightning.report.runs import SECONDS, TOKENS, Run, load_runs
from masa_lightning.report.statistics import Estimate

Cost = Literal["steps", "tokens", "seconds"]
COSTS: Final[dict[Cost, tuple[str, ...]]] = {
    "steps": (),
    "tokens": TOKENS,
    "seconds": SECONDS,
}
GATES: Final = ("gating", "history")


@dataclass(eq=False)
class Result:
    """A finished run: an arm with a seed."""

    arm: str
    seed: int
    run: Run
    tests: Mapping[str, Run]
    is_timed: bool = True
    """Whether it had the machine to itself, so that its seconds can be compared; they are None else."""

    @cached_property
    def steps(self) -> list[int]:
        return sorted(self.run.series("tokens/trained"))

    def spent(self, cost: Cost, since: int = 0) -> float | None:
        """What the training steps behind the first `since` cost in all, validations left out; None if it is not known."""
        known = [*self.by_step(cost).values()]
        return math.fsum(known[since:]) if known else None

    def by_step(self, cost: Cost) -> dict[int, float]:
        """What each training step cost; empty if it is not known."""
        if cost == "seconds" and not self.is_timed:
            return {}
        series = [self.run.series(tag) for tag in COSTS[cost]]
        return {step: math.fsum(s.get(step, 0.0) for s in series) if series else 1.0 for step in self.steps}

    def curve(self, cost: Cost, tag: str = "val/pass@1") -> list[tuple[float, float]]:
        """(What training had cost until then, held-out metric) at each validation; empty if the cost is not known."""
        totals = [0.0, *itertools.accumulate(self.by_step(cost).values())]
        if len(totals) <= len(self.steps):
            return []
        return [(totals[sum(s <= step for s in self.steps)], v) for step, v in sorted(self.run.series(tag).items())]

    @cached_property
    def start(self) -> int | None:
        """Steps before the first one in which a control changed something; None if none ever did."""
        acted = [
            s
            for tag, series in self.run.scalars.items()
            if tag.endswith("/acted_share")
            for s, v in series.items()
            if v
        ]
        return sum(step < min(acted) for step in self.steps) if acted else None

    def control(self, name: str, metric: str) -> float | None:
        """A control's metric at its last step, which looks back on a window of steps."""
        return self.run.last(f"controls/{name}/{metric}")

    def acting_mean(self, name: str, metric: str) -> float | None:
        """Mean of a metric over the steps from the first one in which the control acted."""
        acted = self.run.series(f"controls/{name}/acted_share")
        first = min((step for step, share in acted.items() if share), default=math.inf)
        values = [v for step, v in self.run.series(f"controls/{name}/{metric}").items() if step >= first]
        return fmean(values) if values else None

    @cached_property
    def tested(self) -> Evaluated:
        """The last test."""
        found = [e for e in self.run.evaluated if e.stage == "test"]
        return found[-1] if found else Evaluated(stage="test", step=None, problems=[])


Metric = Callable[[Result], float | None]
Runs = Mapping[int, Result]
"""Of an arm, by seed."""
Results = Mapping[str, Runs]
"""By arm."""


def read_results(
    out: Path, arms: Iterable[Arm], seeds: Iterable[int] | None = None, timed: Collection[str] | None = None
) -> dict[str, dict[int, Result]]:
    """Reads what is finished.

    Args:
        out: Folder of the runs.
        arms: Those that are wanted.
        seeds: Those that are wanted; all that are there by default.
        timed: Arms whose runs had the machine to themselves; all by default.
    """
    there = sorted(int(f.name.removeprefix("seed")) for f in out.glob("seed*") if f.name[4:].isdigit())
    results: dict[str, dict[int, Result]] = {}
    for arm in arms:
        for seed in there if seeds is None else seeds:
            folder = folder_of(out, arm.name, seed)
            if not (folder.is_dir() and is_trained(folder) and is_tested(folder)):
                continue
            tests = {n: test_folder(folder, n) for n in arm.tests if is_tested(test_folder(folder, n))}
            run, *others = load_runs([folder, *tests.values()])
            is_timed = timed is None or arm.name in timed
            result = Result(arm.name, seed, run, dict(zip(tests, others, strict=True)), is_timed)
            results.setdefault(arm.name, {})[seed] = result
    return results


def gate_of(runs: Runs) -> str | None:
    """The control that gates in an arm, "gating" or "history"; None without one."""
    return next((g for g in GATES if any(r.run.series(f"controls/{g}/share") for r in runs.values())), None)


def at(curve: Sequence[tuple[float, float]], x: float) -> float | None:
    """The value of a curve at a place, linear between its points; None outside of them.

    >>> at([(0.0, 1.0), (10.0, 2.0)], 5.0)
    1.5
    """
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 <= x <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


def reached(curve: Sequence[tuple[float, float]], level: float) -> float | None:
    """The first place at which a curve, linear between its points, is at a level or above; None if it never is.

    >>> reached([(0.0, 1.0), (10.0, 2.0)], 1.5)
    5.0
    """
    if curve and curve[0][1] >= level:
        return curve[0][0]
    for (x0, y0), (x1, y1) in pairwise(curve):
        if y1 >= level:
            return x0 + (x1 - x0) * (level - y0) / (y1 - y0)
    return None


def mean_curve(results: Iterable[Result], cost: Cost) -> list[tuple[float, float]]:
    """The curve of an arm: means over its seeds, validation by validation."""
    curves = [result.curve(cost) for result in results]
    points = zip(*curves, strict=False)
    return [(fmean(x for x, _ in point), fmean(y for _, y in point)) for point in points]


def estimate(results: Runs, metric: Metric) -> Estimate | None:
    """Mean over seeds, with Student's interval."""
    return statistics.mean([v for result in results.values() if (v := metric(result)) is not None])


def paired(first: Runs, second: Runs, metric: Callable[[Result, Result], float | None]) -> Estimate | None:
    """Mean over the seeds that both arms have of a metric of the two runs of a seed, with Student's interval."""
    values = [metric(first[seed], second[seed]) for seed in first if seed in second]
    return statistics.mean([v for v in values if v is not None])


def difference(metric: Metric) -> Callable[[Result, Result], float | None]:
    """First less second."""

    def of(first: Result, second: Result) -> float | None:
        a, b = metric(first), metric(second)
        return None if a is None or b is None else a - b

    return of


def gain_at_equal(cost: Cost) -> Callable[[Result, Result], float | None]:
    """Held-out pass@1, first less second, where both have cost what the cheaper one did in all."""

    def of(first: Result, second: Result) -> float | None:
        curves = first.curve(cost), second.curve(cost)
        if not all(curves):
            return None
        x = min(curve[-1][0] for curve in curves)
        a, b = (at(curve, x) for curve in curves)
        return None if a is None or b is None else a - b

    return of


def relative_cost(cost: Cost, *, after_start: bool = False) -> Callable[[Result, Result], float | None]:
    """Cost of the first against the second, less 1; of the steps from the first's first act on, if asked for."""

    def of(first: Result, second: Result) -> float | None:
        since = first.start if after_start else 0
        if since is None:
            return None
        own, spent = first.spent(cost, since), second.spent(cost, since)
        return own / spent - 1 if own is not None and spent else None

    return of


def sooner(cost: Cost) -> Callable[[Result, Result], float | None]:
    """How many times sooner the first has the second's last held-out pass@1 than the second first had it.

    Where it never has it, all that it cost stands for that, which flatters it.
    """

    def of(first: Result, second: Result) -> float | None:
        one, two = first.curve(cost), second.curve(cost)
        if not one or not two:
            return None
        cost_of_second = reached(two, two[-1][1])
        cost_of_first = reached(one, two[-1][1])
        whole = one[-1][0] if cost_of_first is None else cost_of_first
        return cost_of_second / whole if cost_of_second and whole else None

    return of


def has_it(first: Result, second: Result) -> float:
    """1 where the first ever has the second's last held-out pass@1, else 0."""
    level = second.curve("steps")[-1:]
    return float(bool(level) and reached(first.curve("steps"), level[0][1]) is not None)


def over_problems(first: Runs, second: Runs, draws: int = 2000) -> Estimate | None:
    """Difference of tested pass@1 with a bootstrap interval over problems, those of each seed apart.

    It takes the trained models as they are: what training again would change is left out.
    """
    pairs: list[list[float]] = []
    for seed in first:
        if seed in second:
            a, b = (result.tested.rates for result in (first[seed], second[seed]))
            pairs.append([rate - b[problem] for problem, rate in a.items() if problem in b])
    pairs = [each for each in pairs if each]
    if not pairs:
        return None
    rng = random.Random(0)
    means = sorted(fmean(fmean(rng.choices(each, k=len(each))) for each in pairs) for _ in range(draws))
    low, high = means[math.floor(0.025 * draws)], means[math.ceil(0.975 * draws) - 1]
    return Estimate(fmean(fmean(each) for each in pairs), low, high, sum(map(len, pairs)))


def thresholds(result: Result) -> dict[str, float]:
    """Those of a run's `PredictiveGating` by the rule "fixed": ``max_std`` and ``margin``."""
    stem = "trainer.callbacks.PredictiveGating.init_args"
    said = {name: result.run.settings.get(f"{stem}.{name}", "null") for name in ("max_std", "margin")}
    return {name: 0.1 if text == "null" else float(text) for name, text in said.items()}


def gate_on_test(result: Result, *, max_std: float, margin: float) -> dict[str, float]:
    """What the fixed rule would do on the tested problems, each of which is solved and predicted: no audit is needed.

    Returns:
        ``precision``, ``recall``, ``share``, ``lost_correct`` and ``lost_signal``, those that are known.
    """
    problems = [p for p in result.tested.problems if p.verdicts]
    wanted = [gate(p.rates, max_std=max_std, margin=margin) for p in problems]
    rates = [fmean(p.verdicts) for p in problems]
    right = [rate in (0.0, 1.0) for rate in rates]
    hits = sum(w is not None and r for w, r in zip(wanted, right, strict=True))
    gated = sum(w is not None for w in wanted)
    signal = [rate * (1 - rate) for rate in rates]
    lost = {
        "lost_correct": (sum(p for p, w in zip(rates, wanted, strict=True) if w == "hopeless"), sum(rates)),
        "lost_signal": (sum(s for s, w in zip(signal, wanted, strict=True) if w), sum(signal)),
        "precision": (hits, gated),
        "recall": (hits, sum(right)),
        "share": (gated, len(problems)),
    }
    return {name: part / whole for name, (part, whole) in lost.items() if whole}


def task_of(text: str) -> Arithmetic | None:
    """A generated problem, read off its text; None if that is of none of the kinds.

    >>> task_of("Compute 354 mod 7.")
    Arithmetic(kind='remainder', numbers=(354, 7))
    """
    numbers = tuple(map(int, re.findall(r"-?\d+", text)))
    tasks = (Arithmetic(kind, numbers) for kind in get_args(ArithmeticKind))
    return next((task for task in tasks if len(numbers) > 1 and task.text == text), None)


def found_on_test(result: Result, tier: Tier, outcome: float, *, max_std: float, margin: float) -> dict[str, float]:
    """Which of the tested problems that teach nothing the fixed rule finds.

    Args:
        result: Of a run on `ArithmeticDataModule`.
        tier: Of the problems.
        outcome: Their share of right solutions, 0 or 1.
        max_std: Of the rule.
        margin: Of the rule.

    Returns:
        Their ``share`` of all problems that teach nothing, their mean ``predicted`` pass rate, and ``found``, the share of
        them that the rule gates; those that are known.
    """
    problems = [p for p in result.tested.problems if p.verdicts and fmean(p.verdicts) in (0.0, 1.0)]
    these = [p for p in problems if fmean(p.verdicts) == outcome and _tier_of(p) == tier]
    gated = sum(gate(p.rates, max_std=max_std, margin=margin) is not None for p in these)
    predicted = [p.predicted for p in these if p.predicted is not None]
    sums = {
        "share": (len(these), len(problems)),
        "predicted": (math.fsum(predicted), len(predicted)),
        "found": (gated, len(these)),
    }
    return {name: part / whole for name, (part, whole) in sums.items() if whole}


def right_strategies(evaluated: Evaluated) -> dict[str, float]:
    """How far predictions name, and solutions use, the right one of the strategies that were taught of open problems.

    Args:
        evaluated: Of a run on `ArithmeticDataModule`, with its rollouts.

    Returns:
        Means over problems: ``named``, the share of the predictions that name it (what cannot be read names nothing);
        ``used``, the share of the solutions that begin with it; and ``r``, the correlation of the two over problems. Those
        that are known.
    """
    named, used = [], []
    for problem in evaluated.problems:
        task = task_of(problem.problem)
        if task is None or task.tier != "open":
            continue
        by_kind = {k: [r for r in problem.rollouts if r["kind"] == k] for k in ("meta", "solution")}
        if all(by_kind.values()):
            named.append(fmean(task.right_strategy in r["notions"] for r in by_kind["meta"]))
            used.append(fmean(r["text"].startswith(f"use {task.right_strategy}.") for r in by_kind["solution"]))
    found = {"named": fmean(named), "used": fmean(used)} if named else {}
    if len({*named}) > 1 and len({*used}) > 1:
        found["r"] = correlation(named, used)
    return found


def _tier_of(problem: ProblemRecord) -> Tier | None:
    task = task_of(problem.problem)
    return None if task is None else task.tier
