"""Rewards of a step -> advantages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from masa_lightning.functional.advantages import MultiObjective, advantage_terms, group_advantages
from masa_lightning.functional.controls import training_weights
from masa_lightning.settings import Algorithm
from masa_lightning.types import Kind, Objective, Rollout, RolloutGroup


def assign_advantages(
    groups: Sequence[RolloutGroup], algorithm: Algorithm, objectives: Mapping[Kind, Sequence[Objective]]
) -> None:
    """Sets the advantages of all rewarded rollouts, in place: each is compared with those of its problem and kind.

    Those of predictions are then weighted for the problems whose statistics controls changed, and which do not train; every
    loss is proportional to its advantages.

    Args:
        groups: Of a step, scored.
        algorithm: Says how rewards become advantages.
        objectives: What the rewards of each kind are made of; for all but "sum_then_normalize".

    Raises:
        ValueError: If a reward is not the weighted sum of its objectives, and these are normalised apart.
    """
    aggregation = algorithm.multi_objective_aggregation
    kinds: tuple[Kind, ...] = ("solution", "meta")
    for kind in kinds:
        members = [(i, r) for i, g in enumerate(groups) for r in g.rollouts if r.kind == kind and r.reward is not None]
        index = torch.tensor([i for i, _ in members], dtype=torch.long)
        scale, baseline = algorithm.scale_rewards, algorithm.baseline
        terms: list[dict[str, float]] = [{} for _ in members]
        if aggregation != "sum_then_normalize" and members:
            own = objectives.get(kind, ())
            values = [_values(rollout, own, groups[i], aggregation) for i, rollout in members]
            weights = torch.tensor([weight for weight, _ in own], dtype=torch.float64)
            table = torch.tensor(values, dtype=torch.float64)
            found = advantage_terms(table, weights, index, scale, baseline)
            advantages = found.sum(1)
            if aggregation == "normalize_per_value" and kind == "meta":
                names = ["+".join(names) for _, names in own]
                terms = [dict(zip(names, row, strict=True)) for row in found.tolist()]
        else:
            rewards = torch.tensor([r.reward for _, r in members], dtype=torch.float64)
            advantages = group_advantages(rewards, index, scale, baseline)
        for (_, rollout), advantage, own_terms in zip(members, advantages.tolist(), terms, strict=True):
            rollout.advantage, rollout.terms = advantage, own_terms
    for group, weight in zip(groups, training_weights(groups), strict=True):
        for rollout in group.metas if weight else ():
            rollout.advantage *= weight
            rollout.terms = {name: weight * term for name, term in rollout.terms.items()}


def _values(
    rollout: Rollout, objectives: Sequence[Objective], group: RolloutGroup, aggregation: MultiObjective
) -> list[float]:
    """The objectives of a reward, which have to make it up: what is added past them would be lost."""
    values = [sum(rollout.rewards.get(name, math.nan) for name in names) for _, names in objectives]
    total = sum(weight * value for (weight, _), value in zip(objectives, values, strict=True))
    named = {"+".join(names): weight for weight, names in objectives}
    assert rollout.reward is not None
    if not math.isclose(total, rollout.reward, rel_tol=1e-9, abs_tol=1e-9):
        raise ValueError(
            f"a {rollout.kind} rollout of problem {group.problem.id!r} has the reward {rollout.reward}, and its parts "
            f"{rollout.rewards} with the weights {named} make {total}; "
            f'expected them equal under multi_objective_aggregation "{aggregation}", which knows the parts alone: make '
            "what is added a reward function or a quantity"
        )
    return values
