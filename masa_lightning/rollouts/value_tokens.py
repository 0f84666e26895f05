"""Meta completions -> which of their tokens hold each predicted value."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from masa_lightning.functional.parsing import value_places
from masa_lightning.quantities import Quantities
from masa_lightning.rollouts.meta_scorer import as_read
from masa_lightning.types import Completion, Rollout


class ValueTokens:
    """Finds the tokens of the values that the quantities read.

    Args:
        quantities: What is predicted.
        texts: Decodes completions.
    """

    def __init__(self, quantities: Quantities, texts: Callable[[Sequence[Completion]], list[str]]) -> None:
        self._parts = {quantity.key: quantity.reward_name for quantity in quantities.predicted}
        self._texts = texts

    def __call__(self, rollout: Rollout) -> dict[str, tuple[int, int]]:
        """Finds those of a meta rollout whose tokens are here.

        Returns:
            By part of the reward, the first token that has a character of the value, and the token behind the last one;
            without parts whose value is no JSON.
        """
        completion = replace(rollout.completion, token_ids=list(rollout.completion.token_ids))  # an array, if it was sent
        (text,) = self._texts([completion])
        lengths = _Lengths(completion, self._texts)
        return {
            self._parts[key]: (bisect_right(lengths, start) - 1, bisect_left(lengths, stop))
            for key, (start, stop) in value_places(as_read(completion, text), list(self._parts)).items()
        }


class _Lengths(Sequence[int]):
    """Characters of the first 0, 1, 2, ... tokens, decoded as they are asked for: a search asks for a few."""

    def __init__(self, completion: Completion, texts: Callable[[Sequence[Completion]], list[str]]) -> None:
        self._completion = completion
        self._texts = texts

    def __len__(self) -> int:
        return len(self._completion.token_ids) + 1

    def __getitem__(self, count: Any) -> Any:
        ids = self._completion.token_ids[:count]
        return len(self._texts([replace(self._completion, token_ids=ids, logprobs=[], finish_reason="length")])[0])
