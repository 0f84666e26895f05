"""What one experiment saved against another, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from masa_lightning.report.costs import costs
from masa_lightning.report.records import Evaluated, ProblemRecord
from masa_lightning.report.runs import Arm, Run


def run(tokens: list[float], seconds: list[float], rates: dict[str, list[bool]], sft: dict[int, float]) -> Run:
    problems = [ProblemRecord(source="s", id=name, problem="", answer="", verdicts=v) for name, v in rates.items()]
    scalars = {
        "tokens/solution": {step: 0.75 * n for step, n in enumerate(tokens, start=1)},
        "tokens/meta": {step: 0.25 * n for step, n in enumerate(tokens, start=1)},
        "timing_s/step": dict(enumerate(seconds, start=1)),
        "timing_s/sft": sft,
        "val/pass@1": {0: 0.1, 4: 0.5},
    }
    return Run(
        name="masa",
        scalars=scalars,
        settings={},
        settings_file="",
        evaluated=[
            Evaluated(stage="validate", step=0, problems=problems[:1]),
            Evaluated(stage="validate", step=4, problems=problems),
        ],
        benchmarks=[],
        notes=[],
    )


FULL = run(
    [1000, 1000, 1000, 1000], [2.0, 2.0, 2.0, 2.0], {"a": [True] * 4, "b": [False] * 4, "c": [True, False] * 2}, {}
)
LESS = run(
    [1000, 1000, 500, 250],
    [2.0, 2.0, 1.0, 0.5],
    {"a": [True] * 4, "b": [False] * 3 + [True], "c": [True, False] * 2, "new": [True]},
    {3: 0.25, 4: 0.25},  # cloning is a cost of the run that clones
)


def test_what_was_saved_and_what_it_cost() -> None:
    lines = costs(Arm(label="masa", runs=[FULL]), Arm(label="masa_efficient", runs=[LESS]))
    assert [line.split()[-3:] for line in lines[:6]] == [
        ["masa", "masa_efficient", "change"],
        ["4,000", "2,750", "-31%"],
        ["1,000", "375", "-62%"],
        ["8", "6", "-25%"],
        ["2.00", "1.00", "-50%"],
        ["0.500", "0.500", "+0.000"],
    ]
    assert len({len(line) for line in lines[:6]}) == 1 and len(lines[0]) < 80
    # Of the three problems that both have: 0, 1/4, 0.
    assert lines[6:] == ["Solved: +0.083 [-0.275, +0.442] on the same 3 problems: may be chance."]


def test_seeds_are_paired() -> None:
    better = run([1000] * 4, [2.0] * 4, {"a": [True] * 4, "b": [True] * 4, "c": [True, False] * 2}, {})
    first, second = (
        [replace(made, settings={"seed_everything": str(seed)}) for seed, made in enumerate(arm)]
        for arm in ((FULL, FULL), (LESS, better))
    )
    lines = costs(Arm(label="x", runs=first), Arm(label="y", runs=second))
    assert lines[1].split()[-3:] == ["4,000", "3,375", "-16%"]
    assert lines[-1].startswith("Solved: +0.208 [-1.380, +1.797] on the same problems, 2 pairs of seeds: may be")


@pytest.mark.parametrize("scalars", [{}, {"reward": {1: 0.5}}])
def test_a_run_without_tokens_is_not_compared(scalars: dict[str, dict[int, float]]) -> None:
    bare = Run(name="b", scalars=scalars, settings={}, settings_file="", evaluated=[], benchmarks=[], notes=[])
    assert costs(Arm(label="a", runs=[FULL]), Arm(label="b", runs=[bare])) == []
    assert costs(Arm(label="b", runs=[bare]), Arm(label="a", runs=[FULL])) == []


def seeded(seed: str, rates: dict[str, list[bool]], text: str = "") -> Run:
    """A run of a seed, whose problems are called alike and are others."""
    made = run([1000, 1000], [1.0, 1.0], rates, {})
    made.settings["seed_everything"] = seed
    for problem in made.evaluated[-1].problems:
        problem.problem = text
    return made


def test_problems_that_are_only_called_alike_are_not_the_same() -> None:
    one, other = (Arm(label=text, runs=[seeded("0", {"a": [True], "b": [False]}, text)]) for text in ("1+1", "2+2"))
    assert not any(line.startswith("Solved") for line in costs(one, other))


def test_seeds_are_paired_by_their_numbers() -> None:
    low, high = {"a": [False], "b": [False]}, {"a": [True], "b": [True]}
    one = Arm(label="one", runs=[seeded("0", low), seeded("1", high), seeded("2", low)])
    other = Arm(label="other", runs=[seeded("2", low), seeded("0", low)])  # one of them failed
    (solved,) = (line for line in costs(one, other) if line.startswith("Solved"))
    assert solved.startswith("Solved: +0.000") and "2 pairs of seeds" in solved
