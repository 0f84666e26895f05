"""What experiments saved against the first, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from masa_lightning.report.contents import contents
from masa_lightning.report.costs import costs, lines
from masa_lightning.report.curves import held_out_against_tokens
from masa_lightning.report.records import Evaluated, ProblemRecord, Stage
from masa_lightning.report.runs import Arm, Run, measured_unlike


def run(tokens: list[float], seconds: list[float], rates: dict[str, list[bool]], sft: dict[int, float]) -> Run:
    problems = [ProblemRecord(source="s", id=name, problem="", answer="", verdicts=v) for name, v in rates.items()]
    scalars = {
        "tokens/solution": {step: 0.75 * n for step, n in enumerate(tokens, start=1)},
        "tokens/meta": {step: 0.25 * n for step, n in enumerate(tokens, start=1)},
        "tokens_total/solution": {len(tokens): 0.75 * sum(tokens)},
        "tokens_total/meta": {len(tokens): 0.25 * sum(tokens)},
        "reward": dict.fromkeys(range(1, len(tokens) + 1), 0.5),
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


def said(one: Arm, other: Arm) -> list[str]:
    """What the screen shows of two."""
    (table,) = costs([one, other])
    return lines(table)


def test_what_was_saved_and_what_it_cost() -> None:
    found = said(Arm(label="masa", runs=[FULL]), Arm(label="masa_efficient", runs=[LESS]))
    assert [line.split()[-3:] for line in found[:6]] == [
        ["masa", "masa_efficient", "change"],
        ["4,000", "2,750", "-31%"],
        ["1,000", "375", "-62%"],
        ["8", "6", "-25%"],
        ["2.00", "1.00", "-50%"],
        ["0.500", "0.583", "+0.083"],
    ]
    assert len({len(line) for line in found[:6]}) == 1 and len(found[0]) < 80
    # Of the three problems that both have: 0, 1/4, 0.
    assert found[5].startswith("solved of the problems of both ")
    assert found[6:] == [
        "Solved: +0.083 [-0.275, +0.442] on the same 3 problems: may be chance.",
        "Their last validations are of unequal problems: 3 of 3 and 4 are in both.",
    ]


def test_each_is_compared_with_the_first() -> None:
    arms = [Arm(label=name, runs=[made]) for name, made in (("a", FULL), ("b", LESS), ("c", FULL))]
    found = costs(arms)
    assert [(table["head"][1:3], table["columns"]) for table in found] == [(["a", "b"], [0, 1]), (["a", "c"], [0, 2])]
    assert found[1]["rows"][0] == ["tokens generated", "4,000", "4,000", "+0%"]
    less = replace(FULL, scalars=FULL.scalars | {"tokens_total/solution": {4: 2999.0}})
    assert costs([arms[0], Arm(label="b", runs=[less])])[0]["rows"][0] == ["tokens generated", "4,000", "3,999", "+0%"]
    assert costs(arms[:1]) == []


def test_steps_that_were_not_logged_count() -> None:
    """Lightning logs each fiftieth step where nothing else is said."""
    some = replace(FULL, scalars=FULL.scalars | {"reward": {50: 0.5, 100: 0.5}, "timing_s/step": {50: 2.0, 100: 4.0}})
    assert some.seconds == 300
    assert some.generated == 4000


def test_seeds_are_paired() -> None:
    better = run([1000] * 4, [2.0] * 4, {"a": [True] * 4, "b": [True] * 4, "c": [True, False] * 2}, {})
    first, second = (
        [replace(made, settings={"seed_everything": str(seed)}) for seed, made in enumerate(arm)]
        for arm in ((FULL, FULL), (LESS, better))
    )
    found = said(Arm(label="x", runs=first), Arm(label="y", runs=second))
    assert found[1].split()[-3:] == ["4,000", "3,375", "-16%"]
    assert found[-2].startswith("Solved: +0.208 [-1.380, +1.797] on the same problems, 2 pairs of seeds: may be")
    # FULL against LESS on three problems, FULL against better on three: means over seeds.
    assert found[5].split()[-3:] == ["0.500", "0.708", "+0.208"]


@pytest.mark.parametrize("scalars", [{}, {"reward": {1: 0.5}}])
def test_a_run_that_logged_nothing_of_it_is_not_compared(scalars: dict[str, dict[int, float]]) -> None:
    bare = Run(name="b", scalars=scalars, settings={}, settings_file="", evaluated=[], benchmarks=[], notes=[])
    for runs in ([FULL, bare], [bare, FULL]):
        assert costs([Arm(label=str(place), runs=[run]) for place, run in enumerate(runs)]) == []


def seeded(seed: str, rates: dict[str, list[bool]], text: str = "") -> Run:
    """A run of a seed, whose problems are called alike and are others."""
    made = run([1000, 1000], [1.0, 1.0], rates, {})
    made.settings["seed_everything"] = seed
    for problem in made.evaluated[-1].problems:
        problem.problem = text
    return made


def test_problems_that_are_only_called_alike_are_not_the_same() -> None:
    one, other = (Arm(label=text, runs=[seeded("0", {"a": [True], "b": [False]}, text)]) for text in ("1+1", "2+2"))
    assert said(one, other)[-2:] == [
        "Solved: 0.500 and 0.500; one has no interval, so this says nothing about a difference.",
        "Their last validations are of unequal problems: 0 of 2 and 2 are in both.",
    ]


def test_seeds_are_paired_by_their_numbers() -> None:
    low, high = {"a": [False], "b": [False]}, {"a": [True], "b": [True]}
    one = Arm(label="one", runs=[seeded("0", low), seeded("1", high), seeded("2", low)])
    other = Arm(label="other", runs=[seeded("2", low), seeded("0", low)])  # one of them failed
    one.runs[1].scalars["tokens_total/solution"] = {2: 9e9}
    one.runs[1].name = "masa-1"
    found = said(one, other)
    assert found[1].split()[-3:] == ["2,000", "2,000", "+0%"]  # without the one that has no pair
    assert found[-2:] == [
        "Solved: +0.000 on the same problems, 2 pairs of seeds: all differ by as much, so that no interval is known.",
        "Only runs of equal seeds are compared, without masa-1.",
    ]


def test_seeds_that_are_no_pairs_are_compared_all() -> None:
    one, other = (Arm(label=seeds, runs=[seeded(seed, {"a": [True]}) for seed in seeds]) for seeds in ("01", "23"))
    assert said(one, other)[-2:] == [
        "Solved: 0.500 and 0.500; one has no interval, so this says nothing about a difference.",
        "Not the same in both: seed_everything (0, 1 and 2, 3).",
    ]


def test_intervals_are_compared_where_problems_are_not_known() -> None:
    low, high = (
        replace(
            FULL,
            evaluated=[],
            scalars={"test/pass@1": {4: p}, "test/pass@1_low": {4: p - 0.1}, "test/pass@1_high": {4: p + 0.1}},
        )
        for p in (0.4, 0.7)
    )
    assert said(Arm(label="a", runs=[low]), Arm(label="b", runs=[high]))[1:] == [
        "Solved in the test: 0.400 and 0.700; the intervals are apart."
    ]


def test_what_is_not_the_same_is_said() -> None:
    settings = {
        "seed_everything": "0",
        "model.init_args.model": "tiny",
        "model.init_args.num_meta_generations": "8",  # a method is what one compares
        "data.init_args.train_size": "1024",
        "data.init_args.seed": "0",
    }
    others = {"seed_everything": "1", "model.init_args.model": "a/b", "model.init_args.num_meta_generations": "0"}
    one, equal = replace(FULL, settings=settings), replace(FULL, settings=settings)
    other = run([1000] * 3, [1.0] * 3, {}, {})
    other.settings.update(settings | others | {"data.init_args.train_size": "64"})
    first, second, third = (Arm(label=n, runs=[r]) for n, r in (("a", one), ("b", equal), ("c", other)))
    assert [table["unequal"] for table in costs([first, second, third])] == [
        [],
        [
            "Not the same in both: training steps (4 and 3), seed_everything (0 and 1), model.model (tiny and a/b), "
            "data.train_size (1024 and 64)."
        ],
    ]


def drawn(made: Run, stage: Stage, **settings: str) -> Run:
    """A run whose last rollouts say how they were drawn."""
    problems = [replace(problem, settings=settings) for problem in made.evaluated[-1].problems]
    return replace(made, evaluated=[Evaluated(stage=stage, step=4, problems=problems)])


def test_what_was_not_measured_alike_is_no_difference_of_training() -> None:
    """The same weights, tested at two temperatures, were "more than chance" apart."""
    sure = {name: [True] * 4 for name in "abcdefgh"}
    half = {name: [True, False] * 2 for name in "abcdefg"} | {"h": [True, False, False, False]}
    one = drawn(run([1000] * 4, [1.0] * 4, half, {}), "test", temperature="1.0", num_generations="4")
    other = drawn(run([1000] * 4, [1.0] * 4, sure, {}), "test", temperature="0.0", num_generations="4")
    found = said(Arm(label="a", runs=[one]), Arm(label="b", runs=[other]))
    assert found[-2].startswith("Solved in the test: +0.531 [")
    assert found[-2].endswith("] on the same 8 problems: not measured alike (temperature 1.0 and 0.0).")
    assert found[-1] == "Not the same in both: test: temperature (1.0 and 0.0)."
    more = drawn(other, "test", temperature="1.0", num_generations="8")  # which is only surer
    found = said(Arm(label="a", runs=[one]), Arm(label="b", runs=[more]))
    assert found[-2].endswith(": more than chance.")
    assert found[-1] == "Not the same in both: test: num_generations (4 and 8)."


def test_other_prompts_are_not_measured_alike_either() -> None:
    one, other = (
        Arm(label=prompt, runs=[drawn(seeded("0", {"a": [True]}, prompt), "validate", solution_prompt=prompt)])
        for prompt in ("x", "y")
    )
    assert said(one, other)[-3:-1] == [
        "Solved: 0.500 and 0.500; not measured alike (other prompts).",
        "Not the same in both: validate: solution_prompt.",
    ]


def test_prompts_that_no_run_used_are_not_compared() -> None:
    """Those of `tiny` are its own, and its configuration has the long defaults."""
    given = [{"model.init_args.prompts.solution": text, "model.init_args.prompts.meta": text} for text in ("", "long")]
    runs = [drawn(replace(FULL, settings=s), "validate", solution_prompt="x", meta_prompt=s[min(s)]) for s in given]
    one, other = (Arm(label=str(i), runs=[each]) for i, each in enumerate(runs))
    assert said(one, other)[-1] == "Not the same in both: validate: meta_prompt, model.prompts.meta ( and long)."
    rows = contents(runs)["settings"]["differing"]["rows"]
    assert [name for name, *_ in rows] == ["model.init_args.prompts.meta"]
    named = [replace(each, evaluated=[]) for each in runs]  # of which nobody knows
    assert "model.prompts.solution" in said(*(Arm(label=str(i), runs=[each]) for i, each in enumerate(named)))[-1]


def test_another_answer_makes_another_problem() -> None:
    """A data set whose answers were corrected between two runs: what is solved now was not asked before."""
    problems = [replace(p, answer="7") if p.id == "a" else p for p in FULL.evaluated[-1].problems]
    other = replace(FULL, evaluated=[Evaluated(stage="validate", step=4, problems=problems)])
    found = said(Arm(label="a", runs=[FULL]), Arm(label="b", runs=[other]))
    assert "on the same 2 problems" in found[-2]
    assert found[-1] == "Their last validations are of unequal problems: 2 of 3 and 3 are in both."


def test_no_problem_in_both() -> None:
    problems = [replace(problem, id=f"other {problem.id}") for problem in FULL.evaluated[-1].problems]
    other = replace(FULL, evaluated=[Evaluated(stage="test", step=4, problems=problems)])
    one = replace(FULL, evaluated=[replace(FULL.evaluated[-1], stage="test")])
    assert said(Arm(label="a", runs=[one]), Arm(label="b", runs=[other]))[-1] == (
        "Their tests are of unequal problems: 0 of 3 and 3 are in both."
    )


def test_pairs_of_seeds_without_common_problems_are_left_out_of_the_row() -> None:
    """The row was over unequal problems, and the sentence over those of one pair."""
    low, high = {"a": [False], "b": [False]}, {"a": [True], "b": [False]}
    one = [seeded("0", low), seeded("1", low)]
    two = [seeded("0", high), seeded("1", {"a": [True], "b": [True]}, text="another")]
    found = said(Arm(label="x", runs=one), Arm(label="y", runs=two))
    assert found[5].split()[-3:] == ["0.000", "0.500", "+0.500"]
    assert found[-1] == (
        "Their last validations are of unequal problems: 0 of 2 and 2 are in both (and so in 1 of 2 pairs of seeds)."
    )


def test_a_reward_that_one_alone_has_is_named() -> None:
    none, some = (
        {"model.init_args.model": "tiny"} | more
        for more in (
            {"model.init_args.reward_functions": "null"},
            {"model.init_args.reward_functions.0.class_path": "my.Reward"},
        )
    )
    one, other = (Arm(label=n, runs=[replace(FULL, settings=s)]) for n, s in (("a", none), ("b", some)))
    assert said(one, other)[-1] == ("Not the same in both: model.reward_functions.0.class_path (none and my.Reward).")


def test_seeds_of_an_arm_with_unequal_numbers_of_problems_are_named() -> None:
    one, two = (seeded(seed, {"a": [True], **more}) for seed, more in (("0", {}), ("1", {"b": [True]})))
    assert [note for _, note in contents([one, two])["notes"]] == ["its seeds' last validations are of 1 to 2 problems"]


def test_graders_of_other_settings_do_not_measure_alike() -> None:
    one, other = (drawn(FULL, "test", grader="Close", grader_settings=f"Close(within={d})") for d in (0.1, 0.5))
    found = said(Arm(label="a", runs=[one]), Arm(label="b", runs=[other]))
    assert "not measured alike (grader_settings Close(within=0.1) and Close(within=0.5))" in found[-2]


def test_other_stop_texts_are_not_measured_alike() -> None:
    one, other = (drawn(FULL, "test", stop=stop) for stop in ("[]", "['box']"))
    found = said(Arm(label="a", runs=[one]), Arm(label="b", runs=[other]))
    assert "not measured alike (stop [] and ['box'])" in found[-2]


def test_a_last_validation_of_another_step_is_named() -> None:
    killed = replace(FULL, scalars=FULL.scalars | {"val/pass@1": {0: 0.1}})
    found = said(Arm(label="a", runs=[killed]), Arm(label="b", runs=[FULL]))
    assert found[-1] == "Not the same in both: last validation after step (0 and 4)."


def test_validations_that_some_seeds_lack_are_counted() -> None:
    """The line over tokens is of those that all seeds have: one that was cut short shortened it without a word."""
    short = replace(FULL, scalars=FULL.scalars | {"val/pass@1": {0: 0.1}})
    whole, cut = (held_out_against_tokens([Arm(label="x", runs=[FULL, other])]) for other in (FULL, short))
    assert whole is not None and cut is not None
    assert "left out" not in whole["note"]
    assert cut["note"].endswith(" | left out, as not all seeds have them: 1 validations")


def test_seeds_that_were_not_measured_alike_are_named() -> None:
    """Within an arm, and where no seed is in both."""
    low, high = ({"a": [right], "b": [right]} for right in (False, True))
    one = [drawn(seeded("0", low), "test", temperature="1.0"), drawn(seeded("1", low), "test", temperature="0.0")]
    two = [drawn(seeded(seed, high), "test", temperature="1.0") for seed in "01"]
    assert (
        "not measured alike (temperature 1.0 and 0.0)" in said(Arm(label="a", runs=one), Arm(label="b", runs=two))[-2]
    )
    assert measured_unlike(two, "test") == ""
    assert [note for _, note in contents(one)["notes"]] == [
        "its seeds' last tests were not measured alike (temperature 1.0 and 0.0)"
    ]
    assert contents(two)["notes"] == []
    greedy = [drawn(seeded("7", high), "validate", temperature="0.0")]
    sampled = [drawn(seeded(seed, low), "validate", temperature="1.0") for seed in "01"]
    found = said(Arm(label="a", runs=greedy), Arm(label="b", runs=sampled))
    assert "not measured alike (temperature 0.0 and 1.0)" in found[-2]
