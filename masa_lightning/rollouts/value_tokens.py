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

_LONGEST_CHARACTER: Final = 16  # tokens


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
        ids = list(rollout.completion.token_ids)  # an array, if another process sent it
        completion = replace(rollout.completion, token_ids=ids)
        (text,) = self._texts([completion])
        places = value_places(as_read(completion, text), list(self._parts))
        if not places:
            return {}
        lengths = _Lengths(completion, self._texts, text, min(start for start, _ in places.values()))
        return {
            self._parts[key]: (
                bisect_right(lengths, start, lengths.base + 1) - 1,
                bisect_left(lengths, stop, lengths.base),
            )
            for key, (start, stop) in places.items()
        }


class _Lengths(Sequence[int]):
    """Characters of the text that the first 0, 1, 2, ... tokens have, decoded as they are asked for.

    Reasoning may have thousands of tokens before the object; what is behind `base` is decoded from there. Tokens that end
    within a character have what is before it.

    Args:
        completion: Whose tokens are decoded.
        texts: Decodes.
        text: All of them, decoded.
        first: The first character that is asked for.
    """

    def __init__(
        self, completion: Completion, texts: Callable[[Sequence[Completion]], list[str]], text: str, first: int
    ) -> None:
        self._completion, self._texts, self._text = completion, texts, text
        self.base, self._before = self._find_base(first)
        self._known = {self.base: self._before}

    def __len__(self) -> int:
        return len(self._completion.token_ids) + 1

    def __getitem__(self, count: Any) -> Any:
        place = count
        while place not in self._known:
            decoded = self._decoded(self.base, place)
            if self._text.startswith(decoded, self._before):
                self._known[place] = self._before + len(decoded)
            elif count - place > _LONGEST_CHARACTER:  # bytes that are no text
                self._known[place] = self._before
            else:
                place -= 1
        self._known[count] = self._known[place]
        return self._known[place]

    def _find_base(self, first: int) -> tuple[int, int]:
        """Tokens before `first`, and their characters, behind which decoding begins anew with the same result."""
        count, tail = len(self._completion.token_ids), 64
        while tail < count:
            for base in range(count - tail, max(0, count - tail - 16), -1):
                before, behind = self._decoded(0, base), self._decoded(base, None)
                if len(before) <= first and self._text == before + behind:
                    return base, len(before)
            tail *= 4
        return 0, 0

    def _decoded(self, start: int, stop: int | None) -> str:
        ids = self._completion.token_ids[start:stop]
        end = self._completion.finish_reason if stop is None else "length"
        return self._texts([replace(self._completion, token_ids=ids, logprobs=[], finish_reason=end)])[0]
