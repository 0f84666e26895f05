"""Which notions a correct solution will use."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, get_args

from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.confidence import answer_text
from masa_lightning.functional.parsing import read_notions
from masa_lightning.functional.prompts import NOTIONS, Question
from masa_lightning.functional.rewards import Counting, PreparedTexts, notion_reward, prepare_texts
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.types import RolloutGroup

_LETTER: Final = r"0-9A-Za-z\u00C0-\u167F\u2070-\u2FFF\u3001-\uD7FF"  # or a sign, and no space of Unicode
_NOTION: Final = rf"^[{_LETTER}][^\"\\\u0000-\u001F\u007F]{{0,39}}$"
_MOST: Final = 8  # notions that structured outputs draw


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
        check_choice("counting of Notions", counting, get_args(Counting))
        check_number("expert_reward of Notions", expert_reward, ">= 0", "<= 1")
        self.counting: Counting = counting
        self.expert_reward: float = expert_reward

    def ask(self, budget: int) -> Question:
        return NOTIONS

    def read(self, value: Any) -> tuple[str, ...]:
        return read_notions(value)

    def schema(self, budget: int) -> dict[str, Any]:
        """A list of 1 to 8 texts of 1 to 40 characters, none of them a quote or a backslash."""
        notion = {"type": "string", "pattern": _NOTION}
        return {"type": "array", "items": notion, "minItems": 1, "maxItems": _MOST}

    def reward(self, predicted: tuple[str, ...], group: RolloutGroup) -> float:
        texts = _prepared(tuple(map(answer_text, group.solutions)))
        return notion_reward(predicted, group.problem.problem, texts, group.correct, self.counting)

    def truth(self, predicted: tuple[str, ...], group: RolloutGroup) -> tuple[str, ...]:
        """What was predicted: nobody knows a better answer."""
        return predicted


@lru_cache(maxsize=1)  # all predictions of a problem are scored one after the other
def _prepared(texts: tuple[str, ...]) -> PreparedTexts:
    return prepare_texts(texts)
