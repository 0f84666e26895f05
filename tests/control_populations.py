"""Simulated problems whose truth is known, under the real controls: no model, no Trainer."""

from dataclasses import dataclass, field

import numpy as np

from masa_lightning.types import Completion, MetaPrediction, Problem, Rollout, RolloutGroup

BUDGET = 10_000


def rollout(kind, length=1, reason="stop", **known):
    completion = Completion(token_ids=range(length), logprobs=(), finish_reason=reason)
    return Rollout(kind=kind, prompt_ids=[], completion=completion, text="", **known)


@dataclass
class Population:
    """Problems with what is predicted of them and what happens to them if nobody interferes; arrays of [N] and [N, G]."""

    rates: np.ndarray  # predicted, in 0..8
    predicted: np.ndarray  # lengths
    correct: np.ndarray
    lengths: np.ndarray
    hinted: np.ndarray | None = None
    """What is correct with a hint."""
    groups: list[RolloutGroup] = field(default_factory=list)

    def step(self, *controls, step=0, key="0"):
        """Draws, decides and solves as the module does; returns the groups."""
        self.groups = []
        for i, (rate, length) in enumerate(zip(self.rates.tolist(), self.predicted.tolist(), strict=True)):
            prediction = MetaPrediction(pass_rate=rate, solution_length=length, notions=("sum",))
            metas = [rollout("meta", prediction=prediction) for _ in range(2)]
            self.groups.append(RolloutGroup(problem=Problem(id=str(i), problem="?", answer="1"), metas=metas))
        for control in controls:
            control.decide(self.groups, step=step, key=f"{key}/{step}", budget=BUDGET, count=8, audit=True)
        for group, *truth in zip(self.groups, *map(np.ndarray.tolist, self.truths()), strict=True):
            solve(group, *truth)
        for control in controls:
            control.settle(self.groups)
        return self.groups

    def truths(self):
        return self.correct, self.correct if self.hinted is None else self.hinted, self.lengths


def solve(group, correct, hinted, lengths):
    limit = group.token_limit or BUDGET
    for ok, length in zip(() if group.gated else hinted if group.hint else correct, lengths, strict=False):
        cut = length > limit
        known = {"correct": bool(ok) and not cut}
        group.solutions.append(rollout("solution", min(length, limit), "length" if cut else "stop", **known))


def draw(rng, count, predicted=300):
    """A third of the problems is hopeless, and predicted so; lengths differ by problem and by rollout."""
    kind = rng.choice(3, count, p=[0.3, 0.1, 0.6])
    rates = np.select([kind == 0, kind == 1], [0, 8], 4)
    chance = np.select([kind == 0, kind == 1], [rng.beta(0.3, 3, count), 0.97], rng.random(count))
    centre = rng.normal(np.where(kind == 0, 0.8, 0.2), 0.5)
    lengths = np.ceil(predicted * np.exp(centre[:, None] + rng.normal(0, 0.35, (count, 8)))).clip(1, BUDGET - 1)
    correct = rng.random((count, 8)) < chance[:, None]
    hinted = rng.random((count, 8)) < (chance[:, None] + 1) / 2
    return Population(rates, np.full(count, predicted), correct, lengths.astype(int), hinted)
