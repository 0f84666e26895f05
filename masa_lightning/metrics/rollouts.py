"""Rewards and lengths of rollouts, of a step or batch by batch. Names follow TRL's and verl's where they have one.

Each step gives the same names, NaN where there is nothing to say: Lightning would log the last value of a missing one again.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from masa_lightning.functional.confidence import CONFIDENCE_FAILURES
from masa_lightning.functional.parsing import FAILURE_REASONS
from masa_lightning.metrics.series import SeriesMetric
from masa_lightning.types import Rollout, RolloutGroup

NAN = float("nan")

_REWARDS = ("reward", "reward_std", "frac_reward_zero_std")
_SOLUTIONS = ("length", "terminated_length", "correct", "clipped", "ungraded", "prompt")
_METAS = ("length", "clipped", "prompt", "parsed")


class _RolloutStatistics(SeriesMetric):
    """Metrics of the rollouts of one kind; about 100 bytes are kept of each, and none of its tokens and text."""

    def __init__(self, series: Sequence[str], parts: Sequence[str], **kwargs: Any) -> None:
        super().__init__([*_REWARDS, *series, *(f"rewards/{part}" for part in parts)], **kwargs)
        self.parts = tuple(parts)

    def add_groups(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds groups with their rewards."""
        self.update(groups)

    def _add_rewards(self, groups: Sequence[Sequence[Rollout]]) -> None:
        rewards = [kept for g in groups if (kept := [r.reward for r in g if r.reward is not None])]
        self.add("reward", [reward for g in rewards for reward in g])
        self.add("reward_std", [stdev(g) for g in rewards if len(g) > 1])
        self.add("frac_reward_zero_std", [float(max(g) == min(g)) for g in rewards if len(g) > 1])
        for part in self.parts:
            self.add(f"rewards/{part}", [r.rewards[part] for g in groups for r in g if part in r.rewards])

    def _values(self, name: str) -> list[float]:
        values: list[float] = self.gathered(name).tolist()
        return values

    def _mean(self, name: str) -> float:
        values = self._values(name)
        return fmean(values) if values else NAN

    def _sum(self, name: str) -> float:
        return float(sum(self._values(name)))


class SolutionStatistics(_RolloutStatistics):
    """Rewards, with the parts they are made of, and lengths of the solution rollouts.

    Args:
        parts: Names of the parts; with "confidence" among them, what solutions state of themselves is counted too.
        kwargs: Those of every `torchmetrics.Metric`.
    """

    def __init__(self, parts: Sequence[str], **kwargs: Any) -> None:
        self.asked = ("stated", *CONFIDENCE_FAILURES) if "confidence" in parts else ()
        super().__init__([*_SOLUTIONS, *self.asked], parts, **kwargs)

    def update(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds groups with scored solutions."""
        rollouts = [r for g in groups for r in g.solutions]
        self._add_rewards([g.solutions for g in groups])
        self.add("length", [r.length for r in rollouts])
        self.add("terminated_length", [r.length for r in rollouts if r.completion.finish_reason == "stop"])
        self.add("correct", [float(r.correct) for r in rollouts])
        self.add("clipped", [float(r.completion.finish_reason == "length") for r in rollouts])
        self.add("ungraded", [float(r.ungraded) for r in rollouts])
        self.add("prompt", [len(r.prompt_ids) for r in rollouts])
        stated = [r.prediction for r in rollouts if r.prediction is not None]
        for name in self.asked:
            self.add(name, [float(p.failures.get("confidence", "stated") == name) for p in stated])

    def compute(self) -> dict[str, Tensor]:
        """Metrics of all rollouts of all processes, float64 scalars."""
        metrics = {name: self._mean(name) for name in _REWARDS}
        for name in ("length", "terminated_length"):
            lengths = self._values(name)
            metrics[f"completions/mean_{name}"] = self._mean(name)
            metrics[f"completions/min_{name}"] = min(lengths, default=0.0)
            metrics[f"completions/max_{name}"] = max(lengths, default=0.0)
        metrics |= {
            "pass_rate": self._mean("correct"),
            "completions/clipped_ratio": self._mean("clipped"),
            "completions/ungraded_ratio": self._mean("ungraded"),
            "prompts/mean_length": self._mean("prompt"),
            "tokens/prompt": self._sum("prompt"),
            "tokens/solution": self._sum("length"),
        }
        metrics |= {f"rewards/{part}/mean": self._mean(f"rewards/{part}") for part in self.parts}
        for name in self.asked:
            metrics["confidence/parse_rate" if name == "stated" else f"confidence/failures/{name}"] = self._mean(name)
        return _scalars(metrics)


class MetaStatistics(_RolloutStatistics):
    """Rewards with their parts, parsing and lengths of the meta rollouts; without any, the token counts alone.

    Args:
        parts: As of `SolutionStatistics`.
        kwargs: As of `SolutionStatistics`.
    """

    def __init__(self, parts: Sequence[str], **kwargs: Any) -> None:
        super().__init__([*_METAS, *FAILURE_REASONS], parts, **kwargs)

    def update(self, groups: Sequence[RolloutGroup]) -> None:
        """Adds groups with scored predictions."""
        rollouts = [r for g in groups for r in g.metas]
        predictions = [r.prediction for r in rollouts if r.prediction is not None]
        self._add_rewards([g.metas for g in groups])
        self.add("length", [r.length for r in rollouts])
        self.add("clipped", [float(r.completion.finish_reason == "length") for r in rollouts])
        self.add("prompt", [len(r.prompt_ids) for r in rollouts])
        self.add("parsed", [float(not p.failures) for p in predictions])
        for reason in FAILURE_REASONS:
            self.add(reason, [[*p.failures.values()].count(reason) for p in predictions])

    def compute(self) -> dict[str, Tensor]:
        """Metrics of all rollouts of all processes, float64 scalars."""
        tokens = {"tokens/meta": self._sum("length"), "tokens/meta_prompt": self._sum("prompt")}
        if not self._values("length"):
            return _scalars(tokens)
        return _scalars(
            tokens
            | {f"meta/{name}": self._mean(name) for name in _REWARDS}
            | {
                "meta/parse_rate": self._mean("parsed"),
                "meta/completions/mean_length": self._mean("length"),
                "meta/completions/clipped_ratio": self._mean("clipped"),
            }
            | {f"meta/failures/{reason}": self._mean(reason) for reason in FAILURE_REASONS}
            | {f"meta/rewards/{part}/mean": self._mean(f"rewards/{part}") for part in self.parts}
        )


def _scalars(metrics: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
