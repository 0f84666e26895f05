"""Meta rollouts -> predictions and rewards for what they foresaw of the solutions of their problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from masa_lightning.functional.parsing import parse_meta_prediction
from masa_lightning.functional.rewards import Counting, Scoring, check_weights, meta_reward, prepare_texts
from masa_lightning.protocols import PhaseProgress
from masa_lightning.types import RolloutGroup


class MetaScorer:
    """Reads predictions and rewards them (docs/method.md, 3).

    Args:
        weights: One factor a part of the reward.
        pass_rate_scale: Predicted pass rates are whole numbers up to it.
        base: Of the exponential difficulty reward.
        scoring: How the difficulty is scored.
        counting: How notions are counted.
    """

    phase = "meta_rewards"

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        pass_rate_scale: int,
        base: float,
        scoring: Scoring,
        counting: Counting,
    ) -> None:
        check_weights(weights)
        self.weights, self.pass_rate_scale = weights, pass_rate_scale
        self.base, self.scoring, self.counting = base, scoring, counting

    @property
    def parts(self) -> list[str]:
        """Names of what a reward is made of."""
        return [name for name, weight in self.weights.items() if weight > 0]

    def read(self, groups: Sequence[RolloutGroup]) -> None:
        """Reads the predictions of meta rollouts that this process has, in place."""
        for rollout in (r for g in groups for r in g.metas):
            if rollout.prediction is None and rollout.is_here:
                cut = rollout.completion.finish_reason == "length"  # perhaps within its last number
                text = f"{rollout.text}\u2026" if cut else rollout.text
                rollout.prediction = parse_meta_prediction(text, pass_rate_scale=self.pass_rate_scale)

    def score(self, groups: Sequence[RolloutGroup], progress: PhaseProgress) -> None:
        """Reads predictions and rewards them by the scored solutions of their groups, in place.

        A meta rollout has no reward, and stays out of the update, where a control kept its problem's statistics from
        being true.
        """
        self.read(groups)
        for group in groups:
            if not group.is_unbiased:
                continue
            texts = prepare_texts([r.text for r in group.solutions])
            for rollout in group.metas:
                assert rollout.prediction is not None
                rollout.reward, rollout.rewards = meta_reward(
                    rollout.prediction,
                    group.problem.problem,
                    group.correct,
                    group.lengths,
                    texts,
                    weights=self.weights,
                    base=self.base,
                    scoring=self.scoring,
                    counting=self.counting,
                )
