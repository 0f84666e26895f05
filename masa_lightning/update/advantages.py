"""Rewards of a step -> advantages."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from masa_lightning.functional.advantages import group_advantages
from masa_lightning.functional.controls import training_weights
from masa_lightning.settings import Algorithm
from masa_lightning.types import RolloutGroup


def assign_advantages(groups: Sequence[RolloutGroup], algorithm: Algorithm) -> None:
    """Sets the advantages of all rewarded rollouts, in place: each is compared with those of its problem and kind.

    Those of predictions are then weighted for the problems whose statistics controls changed, and which do not train; every
    loss is proportional to its advantages.
    """
    for kind in ("solution", "meta"):
        members = [(i, r) for i, g in enumerate(groups) for r in g.rollouts if r.kind == kind and r.reward is not None]
        advantages = group_advantages(
            torch.tensor([r.reward for _, r in members], dtype=torch.float64),
            torch.tensor([i for i, _ in members], dtype=torch.long),
            scale=algorithm.scale_rewards,
            baseline=algorithm.baseline,
        )
        for (_, rollout), advantage in zip(members, advantages.tolist(), strict=True):
            rollout.advantage = advantage
    for group, weight in zip(groups, training_weights(groups), strict=True):
        for rollout in group.metas if weight else ():
            rollout.advantage *= weight
