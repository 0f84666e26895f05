"""How many of its attempts the model will get right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.experts import true_pass_rate
from masa_lightning.functional.parsing import read_integer
from masa_lightning.functional.prompts import PASS_RATE, Question
from masa_lightning.functional.rewards import Scoring, difficulty_reward
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.types import RolloutGroup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from masa_lightning.metrics.calibration import PassRateCalibration, PassRatePoints


class PassRate(Quantity):
    """Predicts the pass rate, as a number of attempts; its reward is the "difficulty" reward.

    Args:
        scale: Predictions are integers in 0..scale, >= 1.
        scoring: See `functional.rewards.difficulty_reward`.
        base: Base b of the exponential reward, in (0, 1).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> PassRate(scale=16).ask(budget=512).text.partition(";")[0]
        'out of 16 independent attempts of yours, how many will end with the correct answer'
    """

    key = "pass_rate"
    reward_name = "difficulty"
    unit = "share of correct rollouts"
    greatest = 1.0
    shown = ("pearson", "spearman", "mae", "bias", "ece")

    def __init__(self, scale: int = 8, scoring: Scoring = "exponential", base: float = 0.01) -> None:
        check_number("scale of PassRate", scale, ">= 1", whole=True)
        check_number("base of PassRate", base, "> 0", "< 1")
        check_choice("scoring of PassRate", scoring, get_args(Scoring))
        self.scale = scale
        self.scoring: Scoring = scoring
        self.base = base

    def ask(self, budget: int) -> Question:
        return PASS_RATE.filled(pass_rate_scale=self.scale)

    def read(self, value: Any) -> int:
        return read_integer(value, 0, self.scale)

    def schema(self, budget: int) -> dict[str, Any]:
        return {"type": "integer", "minimum": 0, "maximum": self.scale}

    def reward(self, predicted: int, group: RolloutGroup) -> float:
        return difficulty_reward(predicted / self.scale, group.correct, self.base, self.scoring)

    def truth(self, predicted: int | None, group: RolloutGroup) -> int:
        return true_pass_rate(group.correct, self.scale)

    def metric(self, **settings: Any) -> PassRateCalibration:
        from masa_lightning.metrics.calibration import PassRateCalibration  # the report does without torch

        return PassRateCalibration(**settings)

    def compare(self, predicted: int, group: RolloutGroup, budget: int) -> tuple[float, ...] | None:
        return (predicted / self.scale, sum(group.correct), len(group.solutions)) if group.solutions else None

    def pictures(self, points: PassRatePoints, where: str = "") -> dict[str, Figure]:
        from masa_lightning.metrics.figures import pass_rate_scatter, reliability_diagram

        return {
            "pass_rate_scatter": pass_rate_scatter(points.predicted, points.actual, where),
            "pass_rate_reliability": reliability_diagram(points.predicted, points.correct, points.count, where=where),
        }
