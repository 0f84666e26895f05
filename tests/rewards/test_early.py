"""What can be asked of a solution is asked while others are drawn: once each, and in any number of processes alike."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import two_processes
from training_loop import Loop, Problems

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.rollouts.solution_scorer import SolutionScorer
from masa_lightning.sampling.transformers import TransformersSampler
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Completion, Problem, Rollout, RolloutGroup


def value(completion: str) -> float:
    return sum(map(ord, completion)) % 97 / 97


def plain(problem: Problem, completion: str) -> float:
    return value(completion)


class Judge:
    """Writes down each call."""

    name = "judge"

    def __init__(self, file: Path | None = None) -> None:
        self.file = file
        self.called = threading.Event()

    def __getstate__(self) -> dict[str, Any]:
        return {"file": self.file}

    async def __call__(self, problem: Problem, completion: str, completion_ids: list[int], log_metric: Any) -> float:
        self.called.set()
        log_metric("tokens", len(completion_ids))
        await asyncio.sleep(0.01)
        if self.file is not None:
            with self.file.open("a") as file:
                file.write(json.dumps([problem.id, completion_ids]) + "\n")
        return value(completion)


class OneByOne(TransformersSampler):
    """Draws a completion only when the judge was asked of the one before."""

    def __init__(self, judge: Judge) -> None:
        super().__init__(batch_size=1)
        self.judge = judge
        self.drawn = self.waited = 0

    def _run(self, requests: Any, settings: Any) -> Any:
        if self.drawn and self.on_completion is not None:
            assert self.judge.called.wait(20), "the judge was not asked while others are to be drawn"
            self.waited += 1
        self.drawn += 1
        return super()._run(requests, settings)


def rewards(loop: Loop, function: Any, sampler: Any, **settings: Any) -> tuple[list[Any], dict[str, float]]:
    settings = {"kind": GRPOLightningModule, "max_completion_length": 6, "grader": loop.Grades()} | settings
    module = loop.module(sampler=sampler, reward_functions=[function], **settings)
    recorder = loop.fit(module, Problems(2, batch_size=2), max_steps=1)
    found = [(g.problem.id, list(r.completion.token_ids), r.reward) for g in recorder.groups[0] for r in g.solutions]
    return found, recorder.metrics[0]


def test_functions_are_asked_while_others_are_drawn(loop: Loop, tmp_path: Path) -> None:
    judge = Judge(tmp_path / "calls")
    sampler = OneByOne(judge)
    found, metrics = rewards(loop, judge, sampler)
    assert sampler.waited == len(found) - 1 == 5
    expected, _ = rewards(loop, plain, TransformersSampler())
    assert found == expected
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert sorted(calls) == sorted([name, ids] for name, ids, _ in found)  # once each
    assert metrics["rewards/judge/tokens"] == sum(len(ids) for _, ids, _ in found) / 6
    assert metrics["timing_s/rewards/judge"] > 0


def test_meta_rollouts_are_not_told(loop: Loop, tmp_path: Path) -> None:
    judge = Judge(tmp_path / "calls")
    module = loop.module(reward_functions=[judge], sampler=TransformersSampler(), grader=loop.Grades())
    groups = loop.fit(module, Problems(2, batch_size=2), max_steps=1).groups[0]
    assert any(g.metas for g in groups)
    assert len((tmp_path / "calls").read_text().splitlines()) == sum(len(g.solutions) for g in groups)


class Fails(Judge):
    async def __call__(self, problem: Problem, completion: str) -> float:
        self.called.set()
        raise OSError("no answer")


def test_one_that_fails_early_ends_the_step_as_a_late_one_does(loop: Loop) -> None:
    judge = Fails()
    with pytest.raises(
        ValueError, match=r"'judge' failed on a completion of problem 'train-.' with OSError: no answer"
    ):
        rewards(loop, judge, OneByOne(judge))


def test_one_that_fails_ends_the_step_before_all_is_drawn(loop: Loop) -> None:
    judge = Fails()
    sampler = OneByOne(judge)
    draw = sampler._run

    def slowly(*given: Any) -> Any:
        time.sleep(0.2 * (sampler.drawn > 0))
        return draw(*given)

    sampler._run = slowly  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="'judge' failed on a completion"):
        rewards(loop, judge, sampler, num_generations=50)
    assert sampler.drawn < 90  # of 100


def test_what_cannot_begin_early_does_not() -> None:
    async def verdicts(completion: str, correct: bool) -> float:
        return 0.0

    async def many(problem: Problem, completions: list[str]) -> list[float]:
        return [0.0] * len(completions)

    for function, hears in ((plain, False), (verdicts, False), (many, False), (Judge(), True)):
        assert SolutionScorer(Loop.Grades(), [function], max_length=4).hears is hears


def drawn(text: str) -> Rollout:
    completion = Completion(token_ids=[1], logprobs=[], finish_reason="stop")
    return Rollout(kind="solution", prompt_ids=[1], completion=completion, text=text)


@pytest.mark.parametrize("how", ["close", "start"])
def test_what_was_begun_for_a_step_that_broke_off_is_ended(how: str) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def endless(completion: str) -> float:
        begun.set()
        try:
            await asyncio.sleep(1000)
        finally:
            ended.set()
        return 0.0

    scorer = SolutionScorer(Loop.Grades(), [endless], max_length=4)
    scorer.hear(Problem(id="a", problem="?", answer="1"), drawn("x"))
    assert begun.wait(20)
    scorer.close() if how == "close" else scorer.start(Stopwatch(), scorer._device)
    assert ended.wait(20)


class Halves(TransformersSampler):
    """Draws in two calls, and the first request twice."""

    def generate(self, requests: Any, settings: Any, on_progress: Any = None) -> list[Completion]:
        half = len(requests) // 2
        parts = [
            super(Halves, self).generate(part, settings) for part in (requests[:1], requests[:half], requests[half:])
        ]
        return parts[1] + parts[2]


class SaysSo(Halves):
    """Tells what it draws."""

    on_completion = None


def test_a_class_that_overrides_generate_does_not_tell_for_its_base(loop: Loop, tmp_path: Path) -> None:
    """Or calls would be made of what is not kept."""
    for sampler, calls in ((Halves(), 6), (SaysSo(), 7)):
        judge = Judge(tmp_path / type(sampler).__name__)
        rewards(loop, judge, sampler)
        assert judge.file is not None
        assert len(judge.file.read_text().splitlines()) == calls


def test_a_sampler_may_draw_in_any_calls(loop: Loop) -> None:
    async def named(problem: Problem, completion: str) -> float:
        return float(problem.id[-1]) + value(completion)

    def at_once(problem: Problem, completion: str) -> float:
        return float(problem.id[-1]) + value(completion)

    assert rewards(loop, named, Halves())[0] == rewards(loop, named, SaysSo())[0]
    found, _ = rewards(loop, named, SaysSo())
    expected, _ = rewards(loop, at_once, TransformersSampler())
    assert found == expected
    assert {name for name, *_ in found} == {"train-0", "train-1"}


def test_a_completion_that_is_changed_is_asked_again() -> None:
    asked: list[str] = []

    async def judge(completion: str) -> float:
        asked.append(completion)
        return float(len(completion))

    problem, rollout = Problem(id="a", problem="?", answer="1"), drawn("long")
    scorer = SolutionScorer(Loop.Grades(), [judge], max_length=4)
    scorer.hear(problem, replace(rollout))
    rollout.text = "x"
    scorer.score([RolloutGroup(problem=problem, solutions=[rollout])], lambda phase, total: lambda done, of: None)
    assert (asked, rollout.reward) == (["long", "x"], 1.0)


class Breaks(OneByOne):
    """Cannot draw the third."""

    def _run(self, requests: Any, settings: Any) -> Any:
        if self.drawn == 2:
            raise OSError("no more")
        return super()._run(requests, settings)


def test_calls_end_with_the_generation_that_breaks_off(loop: Loop) -> None:
    ended = threading.Event()

    class Endless(Judge):
        async def __call__(self, problem: Problem, completion: str) -> float:
            self.called.set()
            try:
                await asyncio.sleep(1000)
            finally:
                ended.set()
            return 0.0

    judge = Endless()
    with pytest.raises(OSError, match="no more"):
        rewards(loop, judge, Breaks(judge))
    assert ended.wait(20)


async def stops_the_loop(completion: str) -> float:
    if completion == "stop":
        asyncio.get_running_loop().stop()
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            continue


async def cancels_itself(completion: str) -> float:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
    return 0.0


@pytest.mark.parametrize("when", ["heard", "hear", "score"])
def test_a_function_that_ends_the_loop_is_told(when: str) -> None:
    """As `heard` is by a process that does not score what it drew."""
    problem, rollouts = Problem(id="a", problem="?", answer="1"), [drawn("go on"), drawn("stop"), drawn("late")]
    scorer = SolutionScorer(Loop.Grades(), [stops_the_loop], max_length=4)
    for rollout in rollouts[:2]:
        scorer.hear(problem, replace(rollout))
    with pytest.raises(RuntimeError, match="the event loop of reward functions has ended"):
        if when == "heard":
            scorer.heard(rollouts[0])
        elif when == "score":
            scorer.score([RolloutGroup(problem=problem, solutions=rollouts[:2])], lambda *_: lambda done, of: None)
        else:
            while True:
                scorer.hear(problem, replace(rollouts[2]))
                time.sleep(0.01)
    scorer.close()


@pytest.mark.parametrize("when", ["heard", "score"])
def test_a_function_that_cancels_itself_is_told(when: str) -> None:
    problem, rollout = Problem(id="a", problem="?", answer="1"), drawn("x")
    scorer = SolutionScorer(Loop.Grades(), [cancels_itself], max_length=4)
    scorer.hear(problem, replace(rollout))
    with pytest.raises(RuntimeError, match="a call of a reward function was cancelled, and not by this run"):
        if when == "heard":
            scorer.heard(rollout)
        else:
            scorer.score([RolloutGroup(problem=problem, solutions=[rollout])], lambda *_: lambda done, of: None)


def test_copies_have_nothing_begun() -> None:
    scorer = SolutionScorer(Loop.Grades(), [Judge()], max_length=4)
    scorer.hear(Problem(id="a", problem="?", answer="1"), drawn("x"))
    assert copy.deepcopy(scorer).heard(drawn("x")) == {}
    scorer.close()


def test_equal_completions_are_asked_each() -> None:
    """They are known by themselves, and not by what they say."""
    numbers = iter(range(100))

    async def counting(completion: str) -> float:
        return float(next(numbers))

    problem = Problem(id="a", problem="?", answer="1")
    scorer, rollouts = SolutionScorer(Loop.Grades(), [counting], max_length=4), [drawn("x") for _ in range(3)]
    for rollout in rollouts[:2]:  # the third one was not told
        scorer.hear(problem, rollout)
    scorer.score([RolloutGroup(problem=problem, solutions=rollouts)], lambda phase, total: lambda done, of: None)
    assert [r.reward for r in rollouts] == [0.0, 1.0, 2.0]


def test_seconds_count_from_the_first_call() -> None:
    watch, start = Stopwatch(), time.perf_counter() - 100
    with watch.phase("a", since=start):
        pass
    assert 100 <= watch.seconds["a"] < 160


def _work(rank: int, folder: Path, checkpoint: Path) -> None:
    warnings.filterwarnings("ignore")
    loop, judge = Loop(checkpoint), Judge(folder / "calls")
    module = loop.module(
        kind=GRPOLightningModule,
        sampler=TransformersSampler(batch_size=1),
        reward_functions=[judge],
        max_completion_length=6,
        grader=loop.Grades(),
    )
    strategy = two_processes.strategy("ddp")
    recorder = loop.fit(module, Problems(4, batch_size=2), devices=2, strategy=strategy, max_steps=1)
    groups = recorder.groups[0]
    (folder / f"{rank}.json").write_text(json.dumps([[g.problem.id, [r.reward for r in g.solutions]] for g in groups]))


def test_two_processes_ask_once_and_reward_as_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Whoever scores a solution, the process that drew it has asked."""
    two_processes.run(_work, tmp_path, tiny_checkpoint)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    loop = Loop(tiny_checkpoint)
    with warnings.catch_warnings():
        module = loop.module(
            kind=GRPOLightningModule,
            sampler=TransformersSampler(),
            reward_functions=[plain],
            max_completion_length=6,
            grader=loop.Grades(),
        )
        groups = loop.fit(module, Problems(4, batch_size=4), max_steps=1).groups[0]
    assert first == second == [[g.problem.id, [r.reward for r in g.solutions]] for g in groups]
    assert sorted(calls) == sorted([g.problem.id, list(r.completion.token_ids)] for g in groups for r in g.solutions)


class FailsInOne(Judge):
    async def __call__(self, problem: Problem, completion: str) -> float:
        if problem.id == "train-0":
            raise OSError("no answer")
        return 0.0


def _fail(rank: int, checkpoint: Path) -> None:
    warnings.filterwarnings("ignore")
    loop = Loop(checkpoint)
    sampler, strategy = TransformersSampler(batch_size=1), two_processes.strategy("ddp")
    module = loop.module(
        kind=GRPOLightningModule, sampler=sampler, reward_functions=[FailsInOne()], max_completion_length=6
    )
    with pytest.raises(ValueError, match=r"process . of 2 could not score its rollouts: .*'judge' failed .*OSError"):
        loop.fit(module, Problems(4, batch_size=2), devices=2, strategy=strategy, max_steps=1)


def test_a_call_that_fails_in_one_process_is_told_by_both(tiny_checkpoint: Path) -> None:
    two_processes.run(_fail, tiny_checkpoint)
