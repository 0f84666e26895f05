"""Each form of a reward function is given what it asks for, in place, and awaited where it has to be."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from masa_lightning.distributed import Processes
from masa_lightning.rewards import background
from masa_lightning.rollouts.solution_scorer import SolutionScorer
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup


def rollout(text: str, ids: list[int], reason: Any = "stop") -> Rollout:
    completion = Completion(token_ids=ids, logprobs=[], finish_reason=reason)
    return Rollout(kind="solution", prompt_ids=[1], completion=completion, text=text)


def groups() -> list[RolloutGroup]:
    """Three problems: two completions, none, and one."""
    first, second, third = (Problem(id=f"p{i}", problem=f"{i}?", answer="1", metadata={"level": i}) for i in range(3))
    return [
        RolloutGroup(problem=first, solutions=[rollout("right", [5, 6]), rollout("wrong", [7], "length")]),
        RolloutGroup(problem=second),
        RolloutGroup(problem=third, solutions=[rollout("?", [8, 9, 10])]),
    ]


class Grader:
    """The verdict is the text's."""

    def __init__(self, before: Any = lambda: None) -> None:
        self.before = before

    def grade(self, problems: Any, completions: Any, on_progress: Any = None) -> list[bool | None]:
        self.before()
        return [{"right": True, "wrong": False}.get(text) for text in completions]

    def close(self) -> None: ...


def quiet(phase: str, total: int) -> Any:
    return lambda done, of: None


def scored(*functions: Any, grader: Any = None) -> tuple[dict[str, list[float]], SolutionScorer]:
    """The rewards of the three solutions by the function's name, and the scorer."""
    scorer, batch = SolutionScorer(grader or Grader(), functions, max_length=8), groups()
    scorer.score(batch, quiet)
    rollouts = [r for g in batch for r in g.solutions]
    return {name: [r.rewards[name] for r in rollouts] for name in scorer.functions}, scorer


def test_one_completion_at_a_time() -> None:
    seen = []

    def one(
        problem: Any,
        metadata: Any,
        completion: Any,
        completion_ids: Any,
        length: Any,
        finish_reason: Any,
        correct: Any,
        device: Any,
    ) -> float:
        seen.append((problem.id, metadata, completion, completion_ids, length, finish_reason, correct))
        assert device == torch.device("cpu")
        return metadata["level"] + length / 10

    rewards, _ = scored(one)
    assert rewards == {"one": [0.2, 0.1, 2.3]}
    assert seen == [
        ("p0", {"level": 0}, "right", [5, 6], 2, "stop", True),
        ("p0", {"level": 0}, "wrong", [7], 1, "length", False),
        ("p2", {"level": 2}, "?", [8, 9, 10], 3, "stop", None),
    ]


def test_one_problem_at_a_time() -> None:
    seen = []

    def of_problem(
        problem: Any,
        metadata: Any,
        completions: Any,
        completion_ids: Any,
        lengths: Any,
        finish_reasons: Any,
        correct: Any,
    ) -> list[float]:
        seen.append((problem.id, metadata["level"], completions, completion_ids, lengths, finish_reasons, correct))
        return [n / sum(lengths) for n in lengths]

    rewards, _ = scored(of_problem)
    assert rewards == {"of_problem": [2 / 3, 1 / 3, 1.0]}
    assert seen == [
        ("p0", 0, ["right", "wrong"], [[5, 6], [7]], [2, 1], ["stop", "length"], [True, False]),
        ("p2", 2, ["?"], [[8, 9, 10]], [3], ["stop"], [None]),
    ]


def test_the_whole_batch_at_once() -> None:
    seen = []

    def of_batch(**asked: Any) -> torch.Tensor:
        seen.append(asked)
        return torch.tensor(asked["lengths"])

    rewards, _ = scored(of_batch)
    assert rewards == {"of_batch": [2.0, 1.0, 3.0]}
    (asked,) = seen
    assert [p.id for p in asked["problems"]] == ["p0", "p0", "p2"]
    assert asked["completions"] == ["right", "wrong", "?"]
    assert asked["completion_ids"] == [[5, 6], [7], [8, 9, 10]]
    assert asked["finish_reasons"] == ["stop", "length", "stop"]
    assert asked["correct"] == [True, False, None]
    assert asked["metadata"] == [{"level": 0}, {"level": 0}, {"level": 2}]


def test_no_solutions_at_all_are_no_call() -> None:
    def asked(completions: Any) -> Any:
        raise AssertionError("called")

    scorer = SolutionScorer(Grader(), [asked], max_length=8)
    scorer.score([groups()[1]], quiet)
    scorer.score([], quiet)


async def later(problem: Any, completion: str) -> float:
    await asyncio.sleep(0.01 * len(completion))  # the last are the first
    return float(len(completion))


async def pair(problems: Any, completions: list[str]) -> list[float]:
    await asyncio.sleep(0)
    return [float(len(text)) for text in completions]


def test_what_is_async_is_awaited_and_stays_in_place() -> None:
    rewards, _ = scored(later, pair, lambda completion: 7)
    assert rewards == {"later": [5.0, 5.0, 1.0], "pair": [5.0, 5.0, 1.0], "lambda": [7.0, 7.0, 7.0]}


def test_what_is_async_runs_all_at_once_and_while_the_grader_works() -> None:
    """Three calls and the grader wait for one another: one after another they would wait for ever."""
    graded, called = threading.Event(), threading.Event()
    together = asyncio.Barrier(3)

    async def judge(completion: str) -> float:
        await together.wait()
        called.set()
        return float(await asyncio.to_thread(graded.wait, 60))

    def at_work() -> None:
        assert called.wait(60)
        graded.set()

    rewards, _ = scored(judge, grader=Grader(at_work))
    assert rewards == {"judge": [1.0, 1.0, 1.0]}


def test_what_is_async_and_asks_for_verdicts_has_them() -> None:
    async def judge(correct: Any) -> list[float]:
        return [0.5 if each is None else float(each) for each in correct]

    assert scored(judge)[0] == {"judge": [1.0, 0.0, 0.5]}


def test_one_loop_serves_a_process_so_that_clients_may_be_kept() -> None:
    loops = []

    async def judge(completions: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(completions)

    scored(judge)
    scored(judge)
    assert loops[0] is loops[1]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "gave None"),
        (math.nan, r"gave nan \(float\)"),
        ("good", r"gave 'good' \(str\)"),
        ([1.0], r"gave \[1.0\] \(list\)"),
        (torch.zeros(2), "gave tensor"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_what_is_no_number_of_one_completion_is_refused(given: Any, found: str, is_async: bool) -> None:
    def judge(problem: Any, completion: str) -> Any:
        return given if completion == "?" else 1.0

    async def judge_later(problem: Any, completion: str) -> Any:
        return judge(problem, completion)

    name = "judge_later" if is_async else "judge"
    with pytest.raises(
        ValueError, match=rf"'{name}' {found}.* for a completion of problem 'p2'; expected one finite number"
    ):
        scored(judge_later if is_async else judge)


def test_another_number_of_values_for_the_batch_is_refused() -> None:
    with pytest.raises(
        ValueError, match="'lambda' gave 2 values for the 3 completions of problem 'p0' to 'p2'; expected"
    ):
        scored(lambda completions: [1.0, 2.0])


@pytest.mark.parametrize("error", [ConnectionError, SystemExit, KeyboardInterrupt])
def test_the_first_call_that_fails_ends_the_others(error: type[BaseException]) -> None:
    ended = []

    async def judge(completion: str) -> float:
        if completion == "?":
            raise error("no judge")
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(completion)
        return 0.0

    said = (
        rf"'judge' failed on a completion of problem 'p2' with {error.__name__}: no judge; expected one finite number"
    )
    with pytest.raises(ValueError, match=said) as raised:
        scored(judge)
    assert isinstance(raised.value.__cause__, error)
    assert sorted(ended) == ["right", "wrong"]
    assert scored(pair)[0]  # the loop lives on


def test_an_error_elsewhere_ends_what_is_running() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def judge(completions: Any) -> Any:
        try:
            begun.set()
            await asyncio.sleep(600)
        finally:
            ended.set()

    def broken(completions: Any) -> Any:
        assert begun.wait(60)
        raise KeyError("broken")

    with pytest.raises(ValueError, match=r"'broken' failed .* with KeyError"):
        scored(judge, broken)
    assert ended.wait(60)


def test_what_has_not_begun_when_all_ends_never_does() -> None:
    begun = threading.Event()

    async def judge() -> None:
        begun.set()

    with background.Background() as running:
        held, go_on = threading.Event(), threading.Event()

        async def holds_the_loop() -> None:
            held.set()
            go_on.wait(60)

        running.start(holds_the_loop())
        assert held.wait(60)
        running.start(judge())
    go_on.set()

    async def after() -> None: ...

    with background.Background() as later_on:
        later_on.start(after())
        later_on.wait(lambda: None)
    assert not begun.is_set()


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_interrupts")
def test_an_interrupt_ends_the_wait_and_what_is_running() -> None:
    ended = threading.Event()

    async def judge(completion: str) -> float:
        try:
            os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C
            await asyncio.sleep(600)
        finally:
            ended.set()
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        scored(judge)
    assert ended.wait(60)


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_are_means_over_calls() -> None:
    def one(completion: str, log_metric: Any) -> float:
        log_metric("letters", len(completion))
        return 0.0

    async def batch(lengths: Any, log_metric: Any) -> list[float]:
        log_metric("judge/tokens", torch.tensor(6.5))
        if len(log) == 0:
            log_metric("once", True)
        return [0.0] * len(lengths)

    log: list[dict[str, float]] = []
    scorer = SolutionScorer(Grader(), [one, batch], max_length=8)
    for _ in range(2):
        scorer.score(groups(), quiet)
        log.append(scorer.take_metrics(Processes(0, 1)))
    first, second = log
    assert first == {
        "rewards/one/letters": pytest.approx(11 / 3),
        "rewards/batch/judge/tokens": 6.5,
        "rewards/batch/once": 1.0,
    }
    # The name of what is not logged again stays, or Lightning would log its last value.
    assert math.isnan(second.pop("rewards/batch/once"))
    assert second == {name: value for name, value in first.items() if name != "rewards/batch/once"}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("mean", 1.0, r"the name 'mean' \(str\); expected letters"),
        ("two words", 1.0, "the name 'two words'"),
        ("a//b", 1.0, "the name 'a//b'"),
        (3, 1.0, r"the name 3 \(int\)"),
        ("letters", None, r"was given None \(NoneType\) as 'letters'; expected a finite number"),
        ("letters", math.nan, "was given nan"),
        ("letters", sys.float_info.max * 10, "was given inf"),
    ],
)
def test_metrics_that_are_refused(name: Any, value: Any, said: str) -> None:
    def judge(completion: str, log_metric: Any) -> float:
        log_metric(name, value)
        return 0.0

    with pytest.raises(ValueError, match=f"'judge' failed on a completion .* log_metric .*{said}"):
        scored(judge)


def test_a_function_that_cancels_itself_is_named() -> None:
    async def tired(completion: str) -> float:
        raise asyncio.CancelledError

    with pytest.raises(ValueError, match="'tired' failed on a completion of problem 'p0' with Cancelled"):
        scored(tired)


@pytest.mark.parametrize("how", ["stop", "exit"])
def test_a_loop_that_was_ended_is_told_and_made_anew(how: str) -> None:
    async def ends(completion: str) -> float:
        async def leave() -> None:
            raise SystemExit(1)

        if how == "stop":
            asyncio.get_running_loop().stop()
        else:
            await asyncio.create_task(leave())
        await asyncio.sleep(60)
        return 1.0

    with pytest.raises((RuntimeError, ValueError), match=r"event loop of reward functions has ended|SystemExit"):
        scored(ends)
    assert scored(later)[0]["later"] == scored(later)[0]["later"]


def test_a_loop_that_is_blocked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PATIENCE", 0.3)

    async def blocks(completions: list[str]) -> list[float]:
        time.sleep(1.5)  # noqa: ASYNC251 - the fault
        return [1.0] * len(completions)

    with pytest.warns(UserWarning, match=r"has blocked its event loop for 0\.3 seconds.*expected one that awaits"):
        assert scored(blocks)[0] == {"blocks": [1.0] * 3}


def test_metadata_that_is_changed_stays_as_it_was() -> None:
    def spoils(metadata: dict[str, Any], completion: str) -> float:
        metadata["level"] = -1
        return 0.0

    def level(metadata: dict[str, Any], completion: str) -> float:
        return float(metadata["level"])

    assert scored(spoils, level)[0]["level"] == [0.0, 0.0, 2.0]


def test_metrics_without_a_finite_sum_do_not_end_the_run() -> None:
    def large(completion: str, log_metric: Any) -> float:
        log_metric("size", 1.7e308)
        return 0.0

    _, scorer = scored(large)
    assert scorer.take_metrics(Processes(0, 1)) == {"rewards/large/size": math.inf}
