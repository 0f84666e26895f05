"""Rollouts -> the scalars that are logged. Names follow TRL's and verl's where they have one.

Each step gives the same names, NaN where there is nothing to say: Lightning would log the last value of a missing one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from masa_lightning.functional.parsing import FAILURE_REASONS
from masa_lightning.types import Rollout, RolloutGroup

NAN = float("nan")


def solution_metrics(groups: Sequence[RolloutGroup], parts: Sequence[str]) -> dict[str, float]:
    """Rewards, with the parts they are made of, and lengths of the solution rollouts."""
    rollouts = [r for g in groups for r in g.solutions]
    prompts = [len(r.prompt_ids) for r in rollouts]
    terminated = [r.length for r in rollouts if r.completion.finish_reason == "stop"]
    metrics = _group_rewards([g.solutions for g in groups])
    metrics |= {f"completions/{name}": value for name, value in _lengths([r.length for r in rollouts]).items()}
    metrics |= {
        f"completions/{name.replace('length', 'terminated_length')}": v for name, v in _lengths(terminated).items()
    }
    metrics |= {
        "pass_rate": _mean([float(r.correct) for r in rollouts]),
        "completions/clipped_ratio": _mean([float(r.completion.finish_reason == "length") for r in rollouts]),
        "completions/ungraded_ratio": _mean([float(r.ungraded) for r in rollouts]),
        "prompts/mean_length": _mean(prompts),
        "tokens/prompt": float(sum(prompts)),
        "tokens/solution": float(sum(r.length for r in rollouts)),
    }
    return metrics | _reward_parts(rollouts, parts, "rewards/{}/mean")


def meta_metrics(groups: Sequence[RolloutGroup], parts: Sequence[str]) -> dict[str, float]:
    """Rewards with their parts, parsing and lengths of the meta rollouts; without any, the token counts alone."""
    rollouts = [r for g in groups for r in g.metas]
    metrics = {
        "tokens/meta": float(sum(r.length for r in rollouts)),
        "tokens/meta_prompt": float(sum(len(r.prompt_ids) for r in rollouts)),
    }
    if not rollouts:
        return metrics
    predictions = [r.prediction for r in rollouts if r.prediction is not None]
    reasons = [reason for p in predictions for reason in p.failures.values()]
    metrics |= {f"meta/{name}": value for name, value in _group_rewards([g.metas for g in groups]).items()}
    metrics |= {
        "meta/parse_rate": _mean([float(not p.failures) for p in predictions]),
        "meta/completions/mean_length": _mean([r.length for r in rollouts]),
        "meta/completions/clipped_ratio": _mean([float(r.completion.finish_reason == "length") for r in rollouts]),
    }
    metrics |= {f"meta/failures/{reason}": reasons.count(reason) / len(predictions) for reason in FAILURE_REASONS}
    return metrics | _reward_parts(rollouts, parts, "meta/rewards/{}/mean")


def _group_rewards(groups: Sequence[Sequence[Rollout]]) -> dict[str, float]:
    rewards = [kept for g in groups if (kept := [r.reward for r in g if r.reward is not None])]
    spreads = [stdev(g) for g in rewards if len(g) > 1]
    return {
        "reward": _mean([reward for g in rewards for reward in g]),
        "reward_std": _mean(spreads),
        "frac_reward_zero_std": _mean([float(max(g) == min(g)) for g in rewards]),
    }


def _reward_parts(rollouts: Sequence[Rollout], parts: Sequence[str], name: str) -> dict[str, float]:
    return {name.format(part): _mean([r.rewards[part] for r in rollouts if part in r.rewards]) for part in parts}


def _lengths(lengths: Sequence[int]) -> dict[str, float]:
    return {
        "mean_length": _mean(lengths),
        "min_length": float(min(lengths, default=0)),
        "max_length": float(max(lengths, default=0)),
    }


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else NAN
