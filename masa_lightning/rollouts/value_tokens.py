"""Meta completions -> which of their tokens hold each predicted value."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from masa_lightning.functional.parsing import value_places
from masa_lightning.quantities import Quantities
from masa_lightning.rollouts.meta_scorer import as_read
from masa_lightning.types import Completion, Rollout

_CONTEXT: Final = 16  # tokens: some decoders treat the first one in a way of its own


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
        completion = replace(
            rollout.completion, token_ids=list(rollout.completion.token_ids)
        )  # an array, if it was sent
        (text,) = self._texts([completion])
        places = value_places(as_read(completion, text), list(self._parts))
        if not places:
            return {}
        lengths = _Lengths(completion, self._texts, min(start for start, _ in places.values()))
        return {
            self._parts[key]: (bisect_right(lengths, start, lengths.base) - 1, bisect_left(lengths, stop, lengths.base))
            for key, (start, stop) in places.items()
        }


class _Lengths(Sequence[int]):
    """Characters of the first 0, 1, 2, ... tokens, decoded as they are asked for: a search asks for a few.

    Reasoning may have thousands of tokens before the object, so that behind `base` only the tokens from a little before it
    are decoded.

    Args:
        completion: Whose tokens are decoded.
        texts: Decodes.
        first: The first character that is asked for.
    """

    def __init__(self, completion: Completion, texts: Callable[[Sequence[Completion]], list[str]], first: int) -> None:
        self._completion, self._texts = completion, texts
        self.base, tail = 0, 64
        self._start, self._before = 0, 0
        while tail < len(completion.token_ids):
            base = len(completion.token_ids) - tail
            if (before := self._decoded(0, base)) <= first:
                self.base, self._start = base, max(0, base - _CONTEXT)
                self._before = before - self._decoded(self._start, base)
                break
            tail *= 4

    def __len__(self) -> int:
        return len(self._completion.token_ids) + 1

    def __getitem__(self, count: Any) -> Any:
        return self._before + self._decoded(self._start, count)

    def _decoded(self, start: int, stop: int) -> int:
        ids = self._completion.token_ids[start:stop]
        return len(self._texts([replace(self._completion, token_ids=ids, logprobs=[], finish_reason="length")])[0])
