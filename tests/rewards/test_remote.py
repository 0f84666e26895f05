"""A judge on a server that is slow, fails, or talks nonsense: it is asked again, given up, counted, and never waited for."""

from __future__ import annotations

import asyncio
import copy
import functools
import math
import pickle
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from judge import JudgeServer
from training_loop import Loop

from masa_lightning import RemoteReward
from masa_lightning.distributed import Processes
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.rewards import remote
from masa_lightning.rollouts.solution_scorer import SolutionScorer
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next try comes at once."""
    monkeypatch.setattr(remote, "_LONGEST_WAIT", 0.0)
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)


def groups(*texts: str) -> list[RolloutGroup]:
    """A problem each."""
    made = []
    for i, text in enumerate(texts):
        completion = Completion(token_ids=[1, 2], logprobs=[], finish_reason="stop")
        rollout = Rollout(kind="solution", prompt_ids=[1], completion=completion, text=text)
        made.append(RolloutGroup(problem=Problem(id=f"p{i}", problem="?", answer="1"), solutions=[rollout]))
    return made


def scored(function: Any, *texts: str) -> tuple[list[float], float]:
    """Rewards of completions, and the share of calls that failed."""
    scorer, batch = SolutionScorer(Loop.Grades(), [function], max_length=8), groups(*texts)
    scorer.score(batch, lambda phase, total: lambda done, of: None)
    (name,) = scorer.functions
    metrics = scorer.take_metrics(Processes(0, 1))
    return [g.solutions[0].rewards[name] for g in batch], metrics[f"rewards/{name}/failed_ratio"]


def answered(question: str, before: int) -> tuple[float, int, str]:
    """By the words of a completion: its number, after the first, slow, broken and senseless answers."""
    kind, _, value = question.partition(" ")
    if kind == "slow" or (kind == "slow-first" and not before):
        return 3000.0, 200, value
    if kind == "down" or (kind == "down-first" and not before):
        return 0.0, 503, ""
    if kind == "odd" or (kind == "odd-first" and not before):
        return 0.0, 200, "I would rather not say"
    return 0.05, 200, value


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer(answered) as running:
        yield running


def judge_at(url: str) -> Any:
    async def judge(completion: str) -> float:
        async with httpx.AsyncClient(timeout=None, verify=False) as client:
            asked = {"messages": [{"role": "user", "content": completion}]}
            answer = await client.post(f"{url}/chat/completions", json=asked)
        return float(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    return judge


def judge_by_threads(url: str) -> Any:
    def judge(completion: str) -> float:
        asked = {"messages": [{"role": "user", "content": completion}]}
        answer = httpx.post(f"{url}/chat/completions", json=asked, timeout=60, verify=False)
        return float(answer.raise_for_status().json()["choices"][0]["message"]["content"])

    return judge


@pytest.mark.parametrize("judge", [judge_at, judge_by_threads])
def test_what_fails_is_asked_again(server: JudgeServer, judge: Any) -> None:
    function = RemoteReward(judge(server.url), timeout=5, max_retries=1)
    assert scored(function, "good 1", "down-first 2", "odd-first 3") == ([1.0, 2.0, 3.0], 0.0)
    assert sorted(server.asked) == ["down-first 2", "down-first 2", "good 1", "odd-first 3", "odd-first 3"]


@pytest.mark.parametrize("judge", [judge_at, judge_by_threads])
def test_what_is_slow_is_not_waited_for(server: JudgeServer, judge: Any) -> None:
    function = RemoteReward(judge(server.url), timeout=5, max_retries=0, on_failure=-0.5)
    with pytest.warns(
        UserWarning, match=r"'judge' failed with TimeoutError: no answer within 5 seconds; it counts as -0\.5"
    ):
        assert scored(function, "good 1", "slow 2", "good 3", "slow 4") == ([1.0, -0.5, 3.0, -0.5], 0.5)


def test_what_keeps_failing_counts_as_it_was_said(server: JudgeServer) -> None:
    function = RemoteReward(judge_at(server.url), timeout=5, max_retries=2, on_failure=0.25)
    with pytest.warns(UserWarning, match="a call of the reward function 'judge' failed with") as warned:
        assert scored(function, "down 1", "odd 2", "good 3", "good 4") == ([0.25, 0.25, 3.0, 4.0], 0.5)
    assert len(warned) == 1  # once
    assert (server.asked.count("down 1"), server.asked.count("odd 2")) == (3, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("down 1", "HTTPStatusError: .*503"),
        ("odd 1", "ValueError: could not convert string to float: 'I would rather not say'"),
        ("slow 1", "TimeoutError: no answer within 5 seconds"),
        ("good nan", r"ValueError: it gave nan \(float\) for a completion of this call; expected one finite number"),
    ],
)
def test_without_a_number_for_it_a_failure_ends_the_run(server: JudgeServer, text: str, said: str) -> None:
    function = RemoteReward(judge_at(server.url), timeout=5, max_retries=0)
    with pytest.raises(
        ValueError, match=rf"the reward function 'judge' failed on a completion of problem 'p1' with {said}"
    ):
        scored(function, "good 1", text)


def test_no_server_at_all() -> None:
    function = RemoteReward(judge_at("http://127.0.0.1:9"), max_retries=1)
    said = (
        r"'judge' failed on a completion of problem 'p0' with ConnectError.* \(after 2 tries; with on_failure=0\.0 "
        r"RemoteReward would count it as 0\); expected"
    )
    with pytest.raises(ValueError, match=said):
        scored(function, "good 1")


def test_as_many_at_a_time_as_it_may(server: JudgeServer) -> None:
    texts = [f"good {i}" for i in range(12)]
    assert scored(RemoteReward(judge_at(server.url), max_concurrent=3), *texts)[0] == [float(i) for i in range(12)]
    assert server.most <= 3


def test_all_of_a_limit_are_used() -> None:
    """Four calls wait for one another: three at a time would wait for ever."""
    together = asyncio.Barrier(4)

    async def judge(completion: str) -> float:
        await together.wait()
        return 1.0

    assert scored(RemoteReward(judge, max_concurrent=4, max_retries=0), *"abcdefgh") == ([1.0] * 8, 0.0)


def test_forms_of_several_completions() -> None:
    async def batch(completions: list[str], metadata: Any) -> list[float]:
        lost = completions.pop()  # which the next try has again
        if len(completions) == 1:
            completions.clear()
            raise ConnectionError("lost " + lost)
        return [0.0] * len(completions)  # one too few

    function = RemoteReward(batch, max_retries=1, on_failure=2.0)
    with pytest.warns(UserWarning, match="it gave 2 values for the 3 completions of this call; expected a list"):
        assert scored(function, "a", "b", "c") == ([2.0, 2.0, 2.0], 1.0)
    with pytest.warns(UserWarning, match="ConnectionError: lost b; it counts as 2"):
        assert scored(RemoteReward(batch, max_retries=3, on_failure=2.0), "a", "b") == ([2.0, 2.0], 1.0)


def test_what_the_function_logs_is_logged() -> None:
    async def judge(completion: str, log_metric: Any) -> float:
        log_metric("letters", len(completion))
        return 1.0

    scorer = SolutionScorer(Loop.Grades(), [RemoteReward(judge)], max_length=8)
    scorer.score(groups("a", "abc"), lambda phase, total: lambda done, of: None)
    assert scorer.take_metrics(Processes(0, 1)) == {"rewards/judge/letters": 2.0, "rewards/judge/failed_ratio": 0.0}


def test_copies_have_a_limit_of_their_own() -> None:
    function = RemoteReward(pickled, max_concurrent=1, timeout=7)
    assert scored(function, "a", "b")[0] == [1.0, 1.0]  # the limit has been met
    for twin in (copy.deepcopy(function), pickle.loads(pickle.dumps(function))):
        assert (twin.timeout, twin.__name__) == (7, "pickled")
        assert scored(twin, "a", "b")[0] == [1.0, 1.0]


async def pickled(completion: str) -> float:
    await asyncio.sleep(0)
    return 1.0


def test_progress_is_told_by_the_main_thread() -> None:
    told = []

    def progress(phase: str, total: int) -> Any:
        def report(done: int, of: int) -> None:
            told.append((phase, done, of))
            assert threading.current_thread() is threading.main_thread()

        return report

    scorer = SolutionScorer(Loop.Grades(), [RemoteReward(pickled)], max_length=8)
    scorer.score(groups("a", "b", "c"), progress)
    assert told[-1] == ("rewards", 3, 3)


def strange(completion: str, answer: str) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"function": strange}, TypeError, "the reward function 'strange' requires 'answer'"),
        ({"function": "judge"}, TypeError, r"function is 'judge' \(str\); expected a reward function"),
        ({"function": RemoteReward}, TypeError, "expected a reward function"),
        ({"max_concurrent": 0}, ValueError, "max_concurrent is 0; expected >= 1"),
        ({"timeout": 0}, ValueError, r"timeout is 0; expected > 0 \(seconds\)"),
        ({"timeout": math.inf}, ValueError, "timeout is inf"),
        ({"max_retries": -1}, ValueError, "max_retries is -1; expected >= 0"),
        ({"on_failure": math.nan}, ValueError, r"on_failure is nan; expected a number \(None stops the run\)"),
    ],
)
def test_settings_that_are_refused(settings: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        RemoteReward(**{"function": pickled, **settings})


def test_checkpoints_name_it_and_what_it_calls(loop: Any) -> None:
    function = RemoteReward(pickled, timeout=7, on_failure=0.5)
    module = loop.module(GRPOLightningModule, reward_functions=[function])
    (kept,) = module.hparams["reward_functions"]
    assert kept["class_path"] == "masa_lightning.RemoteReward"
    assert kept["init_args"]["function"] == {"python": f"{__name__}.pickled"}
    assert (kept["init_args"]["timeout"], kept["init_args"]["on_failure"]) == (7, 0.5)
    assert [*module.scorer.functions] == ["pickled"]


def test_a_judge_that_does_not_let_itself_be_cancelled_is_not_waited_for() -> None:
    waited, stop = [], threading.Event()

    async def stubborn(completion: str) -> float:
        while not stop.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)
                waited.append(True)
        return 1.0

    with pytest.warns(UserWarning, match=r"no answer within 0\.2 seconds"):
        assert scored(RemoteReward(stubborn, timeout=0.2, max_retries=1, on_failure=0.5), "x") == ([0.5], 1.0)
    assert waited  # it goes on, and nobody waits for it
    stop.set()


def test_what_a_late_call_logs_is_not_counted() -> None:
    ended, logged = threading.Event(), threading.Event()

    def late(completion: str, log_metric: Any) -> float:
        ended.wait(60)
        log_metric("words", 1)
        logged.set()
        return 1.0

    scorer = SolutionScorer(
        Loop.Grades(), [RemoteReward(late, timeout=0.2, max_retries=0, on_failure=0.0)], max_length=8
    )
    with pytest.warns(UserWarning, match="no answer"):
        scorer.score(groups("x"), lambda phase, total: lambda done, of: None)
    ended.set()
    assert logged.wait(60)
    assert scorer.take_metrics(Processes(0, 1)) == {"rewards/late/failed_ratio": 1.0}


@pytest.mark.parametrize("kind", ["plain", "async"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StopIteration("no more"), "no more|StopIteration"),  # which no future takes
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt("now"), "KeyboardInterrupt: now"),
        (asyncio.CancelledError(), "cancelled itself|CancelledError"),
        (OSError("closed"), "closed"),
    ],
)
def test_whatever_a_judge_raises_is_a_failure_of_its_call(kind: str, error: BaseException, said: str) -> None:
    def plain(completion: str) -> float:
        raise error

    async def later(completion: str) -> float:
        raise error

    function = plain if kind == "plain" else later
    remote = RemoteReward(function, timeout=20, max_retries=0, on_failure=-1.0)
    with pytest.warns(UserWarning, match=said):
        assert scored(remote, "x", "y") == ([-1.0, -1.0], 1.0)
    with pytest.raises(ValueError, match=rf"the reward function '{function.__name__}' failed .*({said})"):
        scored(RemoteReward(function, timeout=20, max_retries=0), "x")


def test_a_plain_function_around_an_async_one_is_awaited() -> None:
    async def later(completion: str) -> float:
        await asyncio.sleep(0)
        return float(completion)

    @functools.wraps(later)
    def wrapped(completion: str) -> Any:
        return later(completion)

    assert scored(RemoteReward(wrapped, timeout=20, max_retries=0, on_failure=0.0), "2", "3") == ([2.0, 3.0], 0.0)
