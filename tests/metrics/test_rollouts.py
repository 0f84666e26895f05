"""Rewards and lengths of rollouts: batch by batch as at once, against sums by hand, and over processes."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
import torch

from masa_lightning.functional.parsing import FAILURE_REASONS
from masa_lightning.metrics.rollouts import MetaStatistics, SolutionStatistics
from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup


def rollout(kind: Any, length: int, reward: float | None, **what: Any) -> Rollout:
    completion = Completion(token_ids=[1] * length, logprobs=(), finish_reason="length" if length == 9 else "stop")
    rewards = {} if reward is None else {"update": reward / 2}  # a name that every metric has already
    return Rollout(
        kind=kind, prompt_ids=[1] * 3, completion=completion, text="", reward=reward, rewards=rewards, **what
    )


def groups() -> list[RolloutGroup]:
    problem, failures = Problem(id="1", problem="?", answer="2"), {"pass_rate": FAILURE_REASONS[0]}
    solved = [rollout("solution", n, r, correct=r == 1) for n, r in ((2, 1.0), (9, 0.1), (4, 0.1), (5, None))]
    metas = [
        rollout("meta", 7, 0.3, prediction=MetaPrediction(pass_rate=1)),
        rollout("meta", 9, 0.0, prediction=MetaPrediction(failures=failures | {"math_notion": FAILURE_REASONS[0]})),
    ]
    equal = [rollout("solution", 1, 0.0, ungraded=True), rollout("solution", 3, 0.0)]
    return [
        RolloutGroup(problem=problem, solutions=solved, metas=metas),
        RolloutGroup(problem=problem),
        RolloutGroup(problem=problem, solutions=equal),
    ]


def values(metric: Any) -> dict[str, float]:
    return {name: value.item() for name, value in metric.compute().items()}


def test_one_rollout_of_a_problem_says_nothing_of_a_spread() -> None:
    """As in a validation with one prediction each, which once said 1: that all problems teach nothing."""
    group = RolloutGroup(problem=Problem(id="a", problem="?", answer="1"), solutions=[rollout("solution", 1, 1.0)])
    metric = SolutionStatistics([])
    metric.add_groups([group, group])
    assert math.isnan(values(metric)["frac_reward_zero_std"])
    assert math.isnan(values(metric)["reward_std"])


def test_solutions() -> None:
    metric = SolutionStatistics(["update"])
    for group in groups():
        metric.add_groups([group])
    assert values(metric) == {
        "reward": statistics.fmean([1, 0.1, 0.1, 0, 0]),
        "reward_std": statistics.fmean([statistics.stdev([1, 0.1, 0.1]), 0]),
        "frac_reward_zero_std": 0.5,
        "completions/mean_length": 4,
        "completions/min_length": 1,
        "completions/max_length": 9,
        "completions/mean_terminated_length": 3,
        "completions/min_terminated_length": 1,
        "completions/max_terminated_length": 5,
        "pass_rate": 1 / 6,
        "completions/clipped_ratio": 1 / 6,
        "completions/ungraded_ratio": 1 / 6,
        "prompts/mean_length": 3,
        "tokens/prompt": 18,
        "tokens/solution": 24,
        "rewards/update/mean": statistics.fmean([0.5, 0.05, 0.05, 0, 0]),
    }


def test_predictions() -> None:
    metric = MetaStatistics(["update"])
    metric.add_groups(groups())
    metrics = values(metric)
    assert metrics.pop(f"meta/failures/{FAILURE_REASONS[0]}") == 1  # two parts of one of two predictions
    assert [metrics.pop(f"meta/failures/{reason}") for reason in FAILURE_REASONS[1:]] == [0.0] * (
        len(FAILURE_REASONS) - 1
    )
    assert metrics == {
        "tokens/meta": 16,
        "tokens/meta_prompt": 6,
        "meta/reward": 0.15,
        "meta/reward_std": statistics.stdev([0.3, 0]),
        "meta/frac_reward_zero_std": 0,
        "meta/parse_rate": 0.5,
        "meta/completions/mean_length": 8,
        "meta/completions/clipped_ratio": 0.5,
        "meta/rewards/update/mean": 0.075,
    }


def test_nothing() -> None:
    solutions, metas = SolutionStatistics(["correct"]), MetaStatistics(["length"])
    assert values(metas) == {"tokens/meta": 0, "tokens/meta_prompt": 0}
    metrics = values(solutions)
    assert {name for name, value in metrics.items() if value == 0} == {
        "tokens/prompt",
        "tokens/solution",
        *(f"completions/{bound}_{of}" for bound in ("min", "max") for of in ("length", "terminated_length")),
    }
    assert all(map(math.isnan, (value for value in metrics.values() if value != 0)))
    metas.add_groups(groups())
    metas.reset()
    assert values(metas) == {"tokens/meta": 0, "tokens/meta_prompt": 0}


@pytest.mark.parametrize("kind", [SolutionStatistics, MetaStatistics])
def test_two_processes_equal_one_to_the_last_bit(kind: Any) -> None:
    g = torch.Generator().manual_seed(0)
    many = [
        RolloutGroup(
            problem=Problem(id=str(i), problem="?", answer="2"),
            solutions=[rollout("solution", 3, torch.rand(1, generator=g).item()) for _ in range(3)],
            metas=[rollout("meta", 3, torch.rand(1, generator=g).item(), prediction=MetaPrediction()) for _ in "ab"],
        )
        for i in range(40)
    ]
    whole, first, second = kind(["update"]), kind(["update"]), kind(["update"])
    whole.add_groups(many)
    first.add_groups(many[25:])
    second.add_groups(many[:25])
    others = iter([second.gathered(name) for name in ("reward", *second.states)][1:])  # in the order of the states
    first.distributed_available_fn = lambda: True
    first.dist_sync_fn = lambda state, group=None: [state, next(others)]
    assert values(first) == values(whole)
