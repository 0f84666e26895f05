"""Rewards are added by place under names of their own, and nothing but numbers and verdicts is taken for them."""

import json
import math
from decimal import Decimal
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
import two_processes
from training_loop import Loop, Problems

from masa_lightning.model_card.card import write_card
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.quantities import StatedConfidence
from masa_lightning.rewards.names import reward_names
from masa_lightning.rewards.remote import RemoteReward
from masa_lightning.rollouts.solution_scorer import SolutionScorer, read_verdicts
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup


class Const:
    def __init__(self, value):
        self.value = value

    def __call__(self, problem, completions):
        return [self.value] * len(completions)

    def twice(self, problem, completions):
        return [2 * self.value] * len(completions)


class Named(Const):
    def __init__(self, value, name):
        super().__init__(value)
        self.name = name


def constant(problem, completions, value=1.0):
    return [value] * len(completions)


def correct(problem, completions):
    return [0.5] * len(completions)


def group(*texts, answer="1"):
    problem = Problem(id="p7", problem="?", answer=answer)
    return RolloutGroup(
        problem=problem,
        solutions=[
            Rollout(
                kind="solution",
                prompt_ids=[1],
                completion=Completion(token_ids=[1] * 5, logprobs=[], finish_reason="stop"),
                text=text,
            )
            for text in texts
        ],
    )


def gives(result):
    """A reward function or grader that gives the same whatever it is asked."""
    given = lambda problem, completions: result  # noqa: E731 - its name is in the messages
    return given


class Gives:
    """A grader that gives the same whatever it is asked."""

    def __init__(self, verdicts):
        self.verdicts = verdicts

    def grade(self, problems, completions, on_progress=None):
        return self.verdicts

    def close(self): ...


def scored(functions=(), weights=None, grader=None, groups=None, **settings):
    groups = groups or [group("a", "b", "c")]
    scorer = SolutionScorer(
        grader or Gives([True, False, None]), list(functions), weights, **({"max_length": 8} | settings)
    )
    scorer.score(groups, lambda phase, total: lambda done, of: None)
    return groups[0].solutions


# -- names -------------------------------------------------------------------------------------------------------------


def nested():
    def inner(problem, completions):
        return [0.0] * len(completions)

    return inner


@pytest.mark.parametrize(
    ("functions", "names"),
    [
        ([Const(1.0), Const(0.0), Const(2.0)], ["Const", "Const_2", "Const_3"]),
        ([lambda problem, completions: [1.0], lambda problem, completions: [0.0]], ["lambda", "lambda_2"]),
        (
            [partial(constant, value=2.0), partial(partial(constant), value=1.0), constant],
            ["constant", "constant_2", "constant_3"],
        ),
        ([nested(), nested()], ["inner", "inner_2"]),
        ([Const(1.0).twice, Const(2.0).twice, Const(1.0).__call__], ["twice", "twice_2", "Const"]),
        ([partial(Const(1.0)), Const(1.0)], ["Const", "Const_2"]),
        ([constant, Named(1.0, "constant")], ["constant_2", "constant"]),  # one that was asked for is given
        ([partial(Named(1.0, "mine")), Named(1.0, "mine")], ["mine_2", "mine"]),
        (
            [Const(1.0), Const(1.0), Named(1.0, "Const_2"), Named(1.0, "short.answer-v2")],
            ["Const", "Const_3", "Const_2", "short.answer-v2"],
        ),
        ([Named(1.0, None)], ["Named"]),
        ([len], ["len"]),
        ([], []),
    ],
)
def test_names(functions, names):
    assert reward_names(functions) == names
    assert reward_names(tuple(functions)) == names


def test_a_numbered_name_is_not_that_of_another():
    other = type("Const_2", (Const,), {})
    assert reward_names([Const(1.0), Const(1.0), other(1.0)]) == ["Const", "Const_3", "Const_2"]


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([Named(1.0, "a"), constant, Named(2.0, "a")], "'a' is the name of 2 reward_functions; expected different"),
        ([correct], "has the name 'correct', which is the name of another part of rewards"),
        ([Named(1.0, "overlong")], r"reward_functions\[0\] has the name 'overlong'"),
        ([constant, Named(1.0, "length")], r"reward_functions\[1\] has the name 'length'"),
        ([Named(1.0, "difficulty")], "difficulty"),
        ([Named(1.0, "notion")], "notion"),
        ([Named(1.0, "")], r"has the name '' \(str\); expected letters"),
        ([Named(1.0, "a/b")], "expected letters"),
        ([Named(1.0, "two words")], "expected letters"),
        ([Named(1.0, "line\n")], "expected letters"),
        ([Named(1.0, 3)], r"has the name 3 \(int\); expected letters"),
    ],
)
def test_names_that_are_refused(loop, functions, message):
    with pytest.raises(ValueError, match=message):
        loop.module(GRPOLightningModule, reward_functions=functions)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ([Const], r"reward_functions\[0\] is .*Const.*which is a class; expected an object of it"),
        ([constant, "constant"], r"reward_functions\[1\] is 'constant' \(str\), which is not callable"),
        (constant, "expected a list of functions"),
        ({"a": constant}, "expected a list of functions"),
    ],
)
def test_what_is_no_function_is_refused(loop, functions, message):
    with pytest.raises(TypeError, match=message):
        loop.module(GRPOLightningModule, reward_functions=functions)


def test_equal_functions_are_added_by_place():
    four, eight = (lambda problem, completions, n=n: [n] * 3 for n in (4.0, 8.0))
    functions = [Const(1.0), Const(0.0), four, eight, partial(constant, value=16.0)]
    right, wrong, ungraded = scored(functions, [1, 1, 0.5, 1, -1])
    assert [right.reward, wrong.reward, ungraded.reward] == [1 + 1 + 2 + 8 - 16, 1 + 2 + 8 - 16, 1 + 2 + 8 - 16]
    assert wrong.rewards == {"correct": 0, "Const": 1, "Const_2": 0, "lambda": 4, "lambda_2": 8, "constant": 16}


def test_names_are_the_same_in_metrics_records_and_cards(loop, tmp_path):
    from masa_lightning.callbacks.rollout_table import RolloutTable

    functions = [Const(1.0), Const(0.25), Named(3.0, "mine")]
    module = loop.scripted(loop.boxes(0, 1, 2), GRPOLightningModule, reward_functions=functions)
    recorder = loop.fit(module, loop.Problems(2), RolloutTable(), default_root_dir=tmp_path)
    metrics = {name: value for name, value in recorder.metrics[0].items() if name.startswith("rewards/")}
    assert metrics.pop("rewards/correct/mean") == pytest.approx(1 / 3)
    assert metrics == {"rewards/Const/mean": 1, "rewards/Const_2/mean": 0.25, "rewards/mine/mean": 3}
    assert recorder.metrics[0]["reward"] == pytest.approx(1 / 3 + 4.25)
    records = [json.loads(line) for line in next(tmp_path.rglob("*rollouts.jsonl")).read_text().splitlines()]
    assert all(record["rewards"].keys() == {"correct", "Const", "Const_2", "mine"} for record in records)
    saved = {}
    module.on_save_checkpoint(saved)
    settings = saved["masa"]["run"]["module"]
    assert list(settings["reward_functions"]) == ["Const", "Const_2", "mine"]
    assert settings["reward_functions"]["Const_2"] == {"class": "Const", "value": 0.25}
    assert settings["reward_weights"] == [1.0, 1.0, 1.0]
    write_card(tmp_path, saved["masa"])
    assert '| further rewards | `["Const", "Const_2", "mine"]` |' in (tmp_path / "README.md").read_text()
    written = json.loads((tmp_path / "training_settings.json").read_text())["module"]
    assert written["reward_functions"]["Const_2"] == {"class": "Const", "value": 0.25}


# -- what reward functions give ----------------------------------------------------------------------------------------

NUMBERS = [1, True, 1.0, np.float32(1), np.bool_(True), np.int64(1), Fraction(1), Decimal(1), torch.tensor(1.0)]
NUMBERS += [torch.tensor([1]), torch.tensor(True), np.array([1.0])]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_of_every_kind_are_understood(value):
    rewards = [rollout.rewards["lambda"] for rollout in scored([gives([value, 0, 0.5])])]
    assert rewards == [1, 0, 0.5]
    assert all(type(reward) is float for reward in rewards)


@pytest.mark.parametrize("result", [(1, 0, 0.5), np.array([1, 0, 0.5]), torch.tensor([1, 0, 0.5])], ids=repr)
def test_lists_of_every_kind_are_understood(result):
    assert [rollout.reward for rollout in scored([gives(result)])] == [2, 0, 0.5]


WHERE = r"'lambda' gave .*of problem 'p7'; expected .*one finite number a completion"


@pytest.mark.parametrize(
    ("result", "found"),
    [
        ([1.0, 2.0], "2 values for the 3 completions"),
        ([1.0] * 4, "4 values for the 3 completions"),
        ([], "0 values"),
        (None, r"None \(NoneType\)"),
        (1.0, r"1.0 \(float\)"),
        ("123", r"'123' \(str\)"),
        ({0.0: 1, 1.0: 2, 2.0: 3}, "dict"),
        ({1.0, 2.0, 3.0}, "set"),
        pytest.param((x for x in [1.0, 2.0, 3.0]), "generator", id="generator"),
        (torch.zeros(3, 1), r"shape \(3, 1\)"),
        (np.zeros((3, 2)), r"shape \(3, 2\)"),
        (torch.tensor(1.0), r"shape \(\)"),
        ([1.0, None, 1.0], r"None \(NoneType\) for a completion"),
        ([1.0, "1", 1.0], r"'1' \(str\) for a completion"),
        ([1.0, [1.0], 1.0], r"\[1.0\] \(list\) for a completion"),
        ([1.0, torch.zeros(2), 1.0], r"\(Tensor\) for a completion"),
        ([1.0, 1j, 1.0], r"\(complex\) for a completion"),
        ([1.0, math.nan, 1.0], r"nan \(float\) for a completion"),
        ([1.0, np.float64("inf"), 1.0], "inf"),
        ([1.0, -math.inf, 1.0], r"-inf \(float\) for a completion"),
        ([1.0, 10**400, 1.0], "int"),
        ([1.0, Decimal("sNaN"), 1.0], "Decimal"),
        (np.array(["1", "2", "3"]), r"'1' \(str_?\) for a completion|str"),
    ],
    ids=repr,
)
def test_what_is_no_list_of_numbers_is_refused(result, found):
    with pytest.raises(ValueError, match=WHERE) as refused:
        scored([gives(result)])
    assert refused.match(found)


def test_an_exception_keeps_its_cause_and_says_where():
    def divides(problem, completions):
        return [1 / 0 for _ in completions]

    message = (
        "the reward function 'divides' failed on the 3 completions of problem 'p7' with ZeroDivisionError: division"
    )
    with pytest.raises(ValueError, match=message) as refused:
        scored([divides])
    assert isinstance(refused.value.__cause__, ZeroDivisionError)


def sure(completion, confidence): ...


def sure_of_all(problems, completions, confidences): ...


@pytest.mark.parametrize("function", [sure, sure_of_all])
def test_a_confidence_that_nobody_states_is_refused_when_the_module_is_made(loop, function):
    """It was None after the first rollouts."""
    with pytest.raises(TypeError, match=rf"'{function.__name__}' requires 'confidence.* expected a module with confid"):
        loop.module(GRPOLightningModule, reward_functions=[function])
    loop.module(GRPOLightningModule, reward_functions=[function], confidence=StatedConfidence())
    either = lambda completion, confidence=None: 0.0  # noqa: E731
    loop.module(GRPOLightningModule, reward_functions=[either, RemoteReward(either)])
    with pytest.raises(TypeError, match=rf"'{function.__name__}' requires 'confidence"):
        loop.module(GRPOLightningModule, reward_functions=[RemoteReward(function)])


@pytest.mark.parametrize("stop", ["</confidence>", "</", "</confidence>\n", "confidence"])
def test_a_stop_that_cuts_the_tag_is_refused(loop, stop):
    with pytest.raises(ValueError, match=r"sampling.stop has .*, with which <confidence> is written, so that none"):
        loop.module(GRPOLightningModule, confidence=StatedConfidence(), sampling=SamplingSettings(stop=(stop,)))
    loop.module(GRPOLightningModule, confidence=StatedConfidence(), sampling=SamplingSettings(stop=("Problem:",)))


class Later:
    async def grade(self, problems, completions, on_progress=None):
        return [True] * len(completions)

    def close(self): ...


class Unclosed:
    def grade(self, problems, completions, on_progress=None):
        return [True] * len(completions)


@pytest.mark.parametrize("grader", [Later(), Later, object(), Unclosed(), lambda problems, completions: []])
def test_what_is_no_grader_is_refused_when_the_module_is_made(loop, grader):
    with pytest.raises(TypeError, match=r"grader is .*; expected an object with a plain method `grade"):
        loop.module(GRPOLightningModule, grader=grader)


def test_a_sum_beyond_all_numbers_is_refused():
    with pytest.raises(
        ValueError, match=r"with 1e\+200 \* 1e\+200 of the reward function 'Const' .*problem 'p7' is inf"
    ):
        scored([Const(1e200)], [1e200])


def test_a_function_cannot_change_what_the_next_one_sees():
    def greedy(problem, completions):
        rewards = [float(len(c)) for c in completions]
        completions.clear()
        return rewards

    def which(problem, completions):
        return [float("abc".index(c)) for c in completions]

    assert [rollout.rewards["which"] for rollout in scored([greedy, which])] == [0, 1, 2]


def test_a_problem_without_solutions_is_not_asked_for():
    functions = [lambda problem, completions: [sum(map(len, completions)) / len(completions)] * len(completions)]
    scored(functions, grader=Gives([True]), groups=[group(), group("a")])


def test_the_overlong_penalty_is_added():
    rollout = scored([Const(1.0)], grader=Gives([True] * 3), max_length=6, overlong_buffer=2)[0]
    assert rollout.rewards == {"correct": 1, "Const": 1, "overlong": -0.5}
    assert rollout.reward == 1.5


# -- weights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 reward_weights were given for 2 reward_functions"),
        ([], "0 reward_weights were given for 2 reward_functions"),
        ([1.0, math.nan], r"the weight of the reward function 'Const_2' is nan \(float\); expected a finite number"),
        ([math.inf, 1.0], "the weight of the reward function 'Const' is inf"),
        ([1.0, "2"], r"is '2' \(str\); expected a finite number"),
        ([1.0, None], "is None"),
    ],
)
def test_weights_that_are_refused(loop, weights, message):
    with pytest.raises(ValueError, match=message):
        loop.module(GRPOLightningModule, reward_functions=[Const(1.0), Const(2.0)], reward_weights=weights)


# -- what graders give -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verdicts",
    [
        [True, False, None],
        [1, 0, None],
        [1.0, 0.0, None],
        (np.bool_(True), np.bool_(False), None),
        [np.int64(1), np.float32(0), None],
        [torch.tensor(True), torch.tensor([0]), None],
    ],
    ids=repr,
)
def test_verdicts_of_every_kind_are_understood(verdicts):
    rollouts = scored(grader=Gives(verdicts))
    assert [(r.correct, r.ungraded, r.reward) for r in rollouts] == [
        (True, False, 1),
        (False, False, 0),
        (False, True, 0),
    ]


def test_an_array_of_verdicts_is_understood():
    assert [r.correct for r in scored(grader=Gives(np.array([True, False, True])))] == [True, False, True]


@pytest.mark.parametrize(
    "value",
    [
        "True",
        "False",
        "",
        "1",
        2,
        -1,
        0.5,
        math.nan,
        [True],
        {},
        pytest.param(object(), id="object"),
        np.float32(0.3),
        torch.ones(2),
    ],
    ids=str,
)
def test_what_is_no_verdict_is_refused(value):
    message = r"the grader Gives gave .* for a completion of problem 'p7'; expected True, False, or None"
    with pytest.raises(ValueError, match=message):
        scored(grader=Gives([True, value, True]))


@pytest.mark.parametrize(
    "verdicts", [[True], [True] * 4, [], None, True, "yes", {"p7": True}, np.ones((3, 1))], ids=str
)
def test_another_number_of_verdicts_is_refused(verdicts):
    message = "the grader Gives gave .* for the 3 completions of problem 'p7'; expected a list with True, False or None"
    with pytest.raises(ValueError, match=message):
        scored(grader=Gives(verdicts))


def test_an_error_of_many_problems_names_the_first_and_the_last():
    problems = [Problem(id=name, problem="?", answer="1") for name in "aabcd"]
    with pytest.raises(ValueError, match="1 values for the 5 completions of problem 'a' to 'd'"):
        read_verdicts(Gives(None), problems, [True])


def test_an_exception_of_a_grader_keeps_its_cause_and_says_where():
    class Breaks:
        def grade(self, problems, completions, on_progress=None):
            raise KeyError("judge")

        def close(self): ...

    message = (
        "the grader Breaks failed on the 2 completions of problem 'a' to 'p7' with KeyError: 'judge'; expected a list"
    )
    with pytest.raises(ValueError, match=message) as refused:
        first = group("x")
        first.problem.id = "a"
        scored(grader=Breaks(), groups=[first, group("x")])
    assert isinstance(refused.value.__cause__, KeyError)


def test_without_an_answer_nobody_is_asked():
    rollouts = scored(grader=Gives("nothing"), groups=[group("a", answer="")])
    assert [(r.correct, r.ungraded, r.reward) for r in rollouts] == [(False, True, 0)]


# -- in several processes ----------------------------------------------------------------------------------------------


class Moody:
    """Fails at one problem, which one of the processes has."""

    def __call__(self, problem, completions):
        if problem.id == "train-1":
            raise ConnectionRefusedError("connection refused by the judge")
        return [0.0] * len(completions)


def _work(rank, folder, checkpoint):
    loop = Loop(checkpoint)
    module = loop.module(GRPOLightningModule, reward_functions=[Moody()], grader=loop.Grades())
    with pytest.raises(ValueError, match="could not score") as ended:
        loop.fit(module, Problems(2, batch_size=1), devices=2, strategy=two_processes.strategy("ddp"))
    (folder / str(rank)).write_text(f"{ended.value}|{type(ended.value.__cause__).__name__}")


def test_all_processes_end_with_the_error_of_one(tiny_checkpoint, tmp_path):
    two_processes.run(_work, tmp_path, tiny_checkpoint)
    first, second = ((tmp_path / str(rank)).read_text().split("|") for rank in range(2))
    assert first[0] == second[0]
    for part in ("process 1 of 2", "'Moody'", "'train-1'", "ConnectionRefusedError: connection refused by the judge"):
        assert part in first[0]
    assert [first[1], second[1]] == ["NoneType", "ValueError"]
