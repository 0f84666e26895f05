"""What experiments saved against the first, and what that cost: a table each, for the page and for the screen."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from statistics import fmean
from typing import Final

from masa_lightning.functional.intervals import paired_differences
from masa_lightning.report import statistics
from masa_lightning.report.records import Stage
from masa_lightning.report.runs import SECONDS, TOKENS, Arm, Run, asked_alike, measured_unlike
from masa_lightning.report.settings import seeds
from masa_lightning.report.tables import Table, last_evaluated
from masa_lightning.report.text import shown

_LATER: Final = "  a step, in the later half"
_MATTERS: Final = re.compile(
    r"^data\.|(^|\.)(model|seed|seed_everything|grader|grader\.class_path)$|(^|\.)(prompts|reward_functions|reward_weights)(\.|$)"
    r"|(?<!evaluation\.)\bnum_generations$"
)
_MOST: Final = 6  # settings that are named
_EVALUATIONS: Final[dict[Stage, str]] = {"validate": "last validations", "test": "tests"}
_SOLVED: Final[dict[Stage, str]] = {"validate": "Solved", "test": "Solved in the test"}


def costs(arms: Sequence[Arm]) -> list[Table]:
    r"""Compares each experiment with the first, in what both have logged.

    Values are means over the seeds that both have, or over all where they share none. The change of pass@1 is over the
    problems of the last validations (or tests) of both, or over pairs of seeds, with its 95% interval.

    Returns:
        Tables with sentences: ``said``, how many problems more are solved, and ``unequal``, what else the two differ in.

    >>> def masa(name, *tokens):
    ...     scalars = {"tokens/solution": dict(enumerate(tokens)), "tokens_total/solution": {1: sum(tokens)}}
    ...     return Arm(label=name, runs=[Run(name=name, scalars=scalars, settings={}, settings_file="",
    ...                                      evaluated=[], benchmarks=[], notes=[])])
    >>> for table in costs([masa("masa", 1000.0, 1000.0), masa("masa_efficient", 1000.0, 500.0)]):
    ...     print("\n".join(lines(table)))
                                   masa   masa_efficient   change
    tokens generated              2,000            1,500     -25%
      a step, in the later half   1,000              500     -50%
    """
    compared = [_compared(arms[0], other) | {"columns": [0, number]} for number, other in enumerate(arms) if number]
    return [table for table in compared if table["rows"] or table["said"]]


def lines(table: Table) -> list[str]:
    """A table of `costs` for the screen."""
    rows = [table["head"], *table["rows"]]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    drawn = ["   ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in rows]
    return [*drawn, *table["said"], *table["unequal"]]


def _compared(one: Arm, other: Arm) -> Table:
    names, pairs = [run.name for run in (*one.runs, *other.runs)], _pairs(one, other)
    one, other = (
        Arm(label=arm.label, runs=[pair[place] for pair in pairs] or arm.runs) for place, arm in enumerate((one, other))
    )
    alone = [name for name in names if name not in {run.name for run in (*one.runs, *other.runs)}]
    rows = [
        _change("tokens generated", one, other, lambda run: run.generated),
        _change(_LATER, one, other, lambda run: _late(run, TOKENS)),
        _change("seconds in training", one, other, lambda run: run.seconds),
        _change(_LATER, one, other, lambda run: _late(run, SECONDS), digits=2),
        _solved_row(one, other, pairs),
        _difference("correlation of prediction", one, other, "val/calibration/pass_rate/pearson"),
    ]
    return {
        "head": ["", one.label, other.label, "change"],
        "rows": [row for row in rows if row],
        "arms": [],
        "said": [sentence for stage in _SOLVED if (sentence := _solved(one, other, pairs, stage))],
        "unequal": _unequal(one, other)
        + _unequal_problems(pairs)
        + ([f"Only runs of equal seeds are compared, without {shown(', '.join(alone), 200)}."] if alone else []),
    }


def _change(
    name: str, one: Arm, other: Arm, of: Callable[[Run], float | None], *, digits: int = 0, share: bool = True
) -> list[str]:
    """A row of means over seeds; none where one has no value, or there is nothing to have a share of."""
    known = [[value for run in arm.runs if (value := of(run)) is not None] for arm in (one, other)]
    return _row(name, *map(fmean, known), digits=digits, share=share) if all(known) else []


def _row(name: str, before: float, after: float, *, digits: int, share: bool) -> list[str]:
    if share and not before:
        return []
    change = f"{after / before - 1:+.0%}" if share else f"{after - before:+.{digits}f}"
    if not any(digit in change for digit in "123456789"):
        change = change.replace("-", "+")  # rounded to nothing
    return [name, f"{before:,.{digits}f}", f"{after:,.{digits}f}", change]


def _difference(name: str, one: Arm, other: Arm, tag: str) -> list[str]:
    return _change(name, one, other, lambda run: run.last(tag), digits=3, share=False)


def _solved_row(one: Arm, other: Arm, pairs: Sequence[tuple[Run, Run]]) -> list[str]:
    """Held-out pass@1; where the two were validated on unequal problems, of those that both have."""
    rates = [(_rates(a, "validate"), _rates(b, "validate")) for a, b in pairs]
    shared = [(a, b) for a, b in rates if a.keys() & b.keys()]
    if all(a.keys() == b.keys() for a, b in rates) or not shared:
        return _difference("held-out problems solved", one, other, "val/pass@1")
    before = fmean(fmean(a[name] for name in a.keys() & b.keys()) for a, b in shared)
    after = fmean(fmean(b[name] for name in a.keys() & b.keys()) for a, b in shared)
    return _row("solved of the problems of both", before, after, digits=3, share=False)


def _unequal_problems(pairs: Sequence[tuple[Run, Run]]) -> list[str]:
    """Says of each evaluation that it had other problems in the one than in the other, as far as they are known."""
    said = []
    for stage, name in _EVALUATIONS.items():
        sets = [(_rates(a, stage).keys(), _rates(b, stage).keys()) for a, b in pairs]
        unequal = [(len(a & b), len(a), len(b)) for a, b in sets if a and b and a != b]
        for both, first, second in unequal[:1]:
            of = f" (and so in {len(unequal)} of {len(pairs)} pairs of seeds)" if len(pairs) > 1 else ""
            said.append(f"Their {name} are of unequal problems: {both:,} of {first:,} and {second:,} are in both{of}.")
    return said


def _late(run: Run, tags: Sequence[str]) -> float | None:
    steps = run.of_steps(tags)
    return fmean(steps[len(steps) // 2 :]) if len(steps) > 1 else None


def _solved(one: Arm, other: Arm, pairs: Sequence[tuple[Run, Run]], stage: Stage) -> str:
    """The change of pass@1 on the same problems; where these are not known, whether intervals are apart."""
    changes = [found for a, b in pairs if (found := paired_differences(_rates(a, stage), _rates(b, stage)))]
    change = statistics.mean(changes[0] if len(changes) == 1 else [fmean(each) for each in changes])
    unlike = measured_unlike([*one.runs, *other.runs], stage)
    otherwise = f"not measured alike ({unlike})" if unlike else ""
    if change is None:
        return _apart(one, other, stage, otherwise)
    where = f"the same {change.n} problems" if len(changes) == 1 else f"the same problems, {change.n} pairs of seeds"
    if change.low is None or change.high is None:
        unknown = otherwise or "all differ by as much, so that no interval is known"
        return f"{_SOLVED[stage]}: {change.value:+.3f} on {where}: {unknown}."
    chance = otherwise or ("may be chance" if change.low <= 0 <= change.high else "more than chance")
    return f"{_SOLVED[stage]}: {change.value:+.3f} [{change.low:+.3f}, {change.high:+.3f}] on {where}: {chance}."


def _apart(one: Arm, other: Arm, stage: Stage, otherwise: str) -> str:
    a, b = (last_evaluated(arm, f"{'val' if stage == 'validate' else stage}/pass@1") for arm in (one, other))
    if a is None or b is None:
        return ""
    ends = {
        None: "one has no interval, so this says nothing about a difference",
        False: "the intervals overlap, so this does not show a difference",
        True: "the intervals are apart",
    }
    return f"{_SOLVED[stage]}: {a.value:.3f} and {b.value:.3f}; {otherwise or ends[statistics.apart(a, b)]}."


def _pairs(one: Arm, other: Arm) -> list[tuple[Run, Run]]:
    """Runs of equal seeds; of one run each those two."""
    if len(one.runs) == len(other.runs) == 1:
        return [(one.runs[0], other.runs[0])]
    of_seeds = {seeds(run.settings): run for run in other.runs}
    return [(run, of_seeds[seeds(run.settings)]) for run in one.runs if seeds(run.settings) in of_seeds]


def _rates(run: Run, stage: Stage) -> dict[tuple[str, ...], float]:
    """Of the last validation or test."""
    found = run.of_stage(stage)
    return found[-1].rates if found else {}


def _unequal(one: Arm, other: Arm) -> list[str]:
    """Says what the values depend on and both do not share, as far as known: steps, seeds, model, data and more."""
    alike = asked_alike([*one.runs, *other.runs])
    facts = [[_facts(run, alike) for run in arm.runs] for arm in (one, other)]
    what = []
    for name in dict.fromkeys(name for of_arm in facts for of_run in of_arm for name in of_run):
        # A list of rewards has other names than none.
        if all(name in of_run or "reward_functions" in name for of_arm in facts for of_run in of_arm):
            given = [[of_run.get(name, "null") for of_run in of_arm] for of_arm in facts]
            a, b = (dict.fromkeys("none" if value == "null" else value for value in each) for each in given)
            if a.keys() != b.keys():
                values = f" ({shown(', '.join(a), 80)} and {shown(', '.join(b), 80)})"
                what.append(name + values * (not name.endswith("_prompt")))  # of which a digest is known
    more = [f"{len(what) - _MOST} settings more"] if len(what) > _MOST else []
    return [f"Not the same in both: {', '.join(what[:_MOST] + more)}."] if what else []


def _facts(run: Run, alike: Collection[str]) -> dict[str, str]:
    named = [name for name in run.settings if _MATTERS.search(name) and name not in alike]
    settings = {name.replace("init_args.", ""): run.settings[name] for name in named}
    facts = {"training steps": f"{run.steps:,}"} if run.steps else {}
    if validations := run.series("val/pass@1"):
        facts["last validation after step"] = f"{max(validations):,}"
    for stage in _SOLVED:
        for evaluated in run.of_stage(stage)[-1:]:
            facts |= {f"{stage}: {name}": value for name, value in evaluated.settings.items()}
    return facts | settings
