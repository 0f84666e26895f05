"""Meta rollouts -> predictions and rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from masa_lightning.functional.rewards import check_weights, weighted_mean
from masa_lightning.protocols import PhaseProgress
from masa_lightning.quantities import Quantities
from masa_lightning.types import Comparisons, Completion, Objective, RolloutGroup


class MetaScorer:
    """Reads what meta rollouts predict, and rewards them for what they foresaw of the solutions of their problem.

    Args:
        quantities: What is predicted.
        weights: Weight >= 0 of each part of the reward, 1 by default; a part that is absent or has weight 0 is left out.

    Raises:
        ValueError: If a weight is negative, not finite or of an unknown part, or none is positive.
    """

    phase = "meta_rewards"

    def __init__(self, quantities: Quantities, weights: Mapping[str, float] | None = None) -> None:
        self.quantities = quantities
        self.weights = dict.fromkeys(quantities.reward_names, 1.0) if weights is None else dict(weights)
        check_weights(self.weights, quantities.reward_names)

    @property
    def parts(self) -> list[str]:
        """Names of what a reward is made of."""
        return [name for name, weight in self.weights.items() if weight > 0]

    @property
    def objectives(self) -> list[Objective]:
        """What the reward is the weighted sum of, one a quantity that is rewarded."""
        total = sum(self.weights[name] for name in self.parts)
        return [(self.weights[name] / total, (name,)) for name in self.parts]

    def read(self, groups: Sequence[RolloutGroup]) -> None:
        """Sets the predictions of those meta rollouts that this process has, in place."""
        for rollout in (r for g in groups for r in g.metas):
            if rollout.prediction is None and rollout.is_here:
                rollout.prediction = self.quantities.read(as_read(rollout.completion, rollout.text))

    def score(self, groups: Sequence[RolloutGroup], progress: PhaseProgress | None = None) -> None:
        """Sets the predictions of meta rollouts and their rewards, in place.

        A meta rollout has no reward, and stays out of the update, where a control has biased its problem's solutions
        (`RolloutGroup.is_unbiased`).

        Args:
            groups: With graded solutions.
            progress: Not told, as this takes no time.

        Raises:
            ValueError: If a quantity gives no reward in [0, 1].
        """
        self.read(groups)
        for group in groups:
            if not group.is_unbiased:
                continue
            for rollout in group.metas:
                assert rollout.prediction is not None
                rollout.rewards = self.quantities.rewards(rollout.prediction, group, self.parts)
                rollout.reward = weighted_mean(rollout.rewards, self.weights)

    def compare(self, group: RolloutGroup) -> Comparisons:
        """As `Quantities.compare`."""
        return self.quantities.compare(group)


def as_read(completion: Completion, text: str) -> str:
    """The text of a meta completion as its prediction is read: one that was cut may end within its last number."""
    return f"{text}\u2026" if completion.finish_reason == "length" else text
