"""How many tokens a correct solution will take."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from masa_lightning.functional.experts import true_length
from masa_lightning.functional.parsing import read_integer
from masa_lightning.functional.prompts import SOLUTION_LENGTH, Question
from masa_lightning.functional.rewards import length_reward
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.types import RolloutGroup

if TYPE_CHECKING:
    from masa_lightning.metrics.calibration import LengthCalibration


class SolutionLength(Quantity):
    """Predicts the number of tokens of a correct solution; its reward is the "length" reward."""

    key = "solution_length"
    reward_name = metric_name = "length"
    unit = "tokens"
    shown = ("pearson", "abs_rel_error", "in_range")

    def ask(self, budget: int) -> Question:
        return SOLUTION_LENGTH.filled(max_completion_length=budget)

    def read(self, value: Any) -> int:
        return read_integer(value, 1)

    def schema(self, budget: int) -> dict[str, Any]:
        return {"type": "integer", "minimum": 1, "maximum": budget}

    def reward(self, predicted: int, group: RolloutGroup) -> float:
        return length_reward(predicted, group.lengths, group.correct)

    def truth(self, predicted: int | None, group: RolloutGroup) -> int:
        return true_length(group.correct, group.lengths)

    def metric(self, **settings: Any) -> LengthCalibration:
        from masa_lightning.metrics.calibration import LengthCalibration

        return LengthCalibration(**settings)

    def compare(self, predicted: int, group: RolloutGroup, budget: int) -> tuple[float, ...] | None:
        """Against the lengths of correct solutions. Predictions above ten times the budget are all equally wrong."""
        right = [rollout.length for rollout in group.solutions if rollout.correct]
        return (float(min(predicted, 10 * budget)), fmean(right), min(right), max(right)) if right else None
