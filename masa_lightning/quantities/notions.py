"""Which notions a correct solution will use."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, get_args

from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.parsing import read_notions
from masa_lightning.functional.prompts import NOTIONS, Question
from masa_lightning.functional.rewards import Counting, PreparedTexts, notion_reward, prepare_texts
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.types import RolloutGroup


class Notions(Quantity):
    """Predicts mathematical notions; its reward is the "notion" reward, by which experts are chosen.

    Args:
        counting: See `functional.rewards.notion_reward`.
        expert_reward: Least notion reward of a prediction that `ExpertSFT` may clone, in [0, 1].

    Raises:
        ValueError: If an argument is out of range.
    """

    key = "math_notion"
    name = "notions"
    reward_name = "notion"
    title = "Notions"
    shown = ()  # no metric says how well they are predicted but their reward

    def __init__(self, counting: Counting = "count", expert_reward: float = 0.2) -> None:
        check_choice("notion_counting", counting, get_args(Counting))
        check_number("min_expert_reward", expert_reward, ">= 0", "<= 1")
        self.counting: Counting = counting
        self.expert_reward: float = expert_reward

    def ask(self, budget: int) -> Question:
        return NOTIONS

    def read(self, value: Any) -> tuple[str, ...]:
        return read_notions(value)

    def reward(self, predicted: tuple[str, ...], group: RolloutGroup) -> float:
        texts = _prepared(tuple(rollout.text for rollout in group.solutions))
        return notion_reward(predicted, group.problem.problem, texts, group.correct, self.counting)

    def truth(self, predicted: tuple[str, ...], group: RolloutGroup) -> tuple[str, ...]:
        """What was predicted: nobody knows a better answer."""
        return predicted


@lru_cache(maxsize=1)  # all predictions of a problem are scored one after the other
def _prepared(texts: tuple[str, ...]) -> PreparedTexts:
    return prepare_texts(texts)
