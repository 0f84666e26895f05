"""What can be asked of a solution is asked while others are drawn: once each, and in any number of processes alike."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import warnings
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
