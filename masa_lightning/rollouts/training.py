"""Problems of a training step -> scored groups, with others in place of those that teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from masa_lightning.rollouts.controlled import ControlledRollouts
from masa_lightning.rollouts.plan import keys_by_index
from masa_lightning.rollouts.refill import ProblemReserve, fill
from masa_lightning.settings import Algorithm, SamplingSettings
from masa_lightning.types import Kind, Problem, RolloutGroup


class Trained(TypedDict):
    """What a training step returns, for callbacks."""

    groups: list[RolloutGroup]
    """Of all processes. Tokens and texts of a group are in one of them (`Rollout.holder`)."""


class TrainingRollouts:
    """Draws and scores the groups of training steps; dynamic sampling draws other problems for those that teach nothing.

    Args:
        rollouts: Draws and scores.
        sampling: How tokens are drawn.
        algorithm: Says whether, and how often, problems are replaced.
        reserve: What other problems come from.
    """

    def __init__(
        self,
        *,
        rollouts: ControlledRollouts,
        sampling: SamplingSettings,
        algorithm: Algorithm,
        reserve: ProblemReserve,
    ) -> None:
        self.rollouts, self.sampling, self.algorithm, self.reserve = rollouts, sampling, algorithm, reserve

    def draw(
        self, problems: Sequence[Problem], counts: dict[Kind, int], *, step: int
    ) -> tuple[list[RolloutGroup], dict[str, float]]:
        """Makes, draws and scores the groups of a step; a collective.

        Args:
            problems: Of all processes.
            counts: Rollouts a problem, by kind.
            step: Training steps done before; seeds are functions of it and of a problem's index in the step.

        Returns:
            The groups, and the metrics of what was left out and drawn in its place.

        Raises:
            ValueError: If the prompts of all problems are too long.
        """
        rollouter, key = self.rollouts.rollouter, f"fit/{step}"
        groups = rollouter.new_groups(problems, counts)
        if not groups:
            raise ValueError(
                f"none of the {len(problems)} problems of the batch has a prompt of at most "
                f"{rollouter.max_prompt_length} tokens; raise max_prompt_length, or shorten what stands around the problem "
                "(prompts, confidence.instruction)"
            )
        overlong, drawn = len(problems) - len(groups), len(groups)
        self._draw(groups, counts, key, step)
        if self.algorithm.dynamic_sampling:

            def draw(more: list[Problem], number: int) -> list[RolloutGroup]:
                refill = rollouter.new_groups(more, counts)
                self._draw(refill, counts, f"{key}/refill/{number}", step)
                return refill

            groups, left_out = fill(groups, reserve=self.reserve, draw=draw, max_refills=self.algorithm.max_refills)
            overlong += left_out
        return groups, {"prompts/overlong": float(overlong), "prompts/refilled": float(len(groups) - drawn)}

    def _draw(self, groups: list[RolloutGroup], counts: dict[Kind, int], key: str, step: int) -> None:
        keys = keys_by_index(groups, key)
        self.rollouts.draw(groups, counts, self.sampling, keys, key=key, step=step, training=True)
