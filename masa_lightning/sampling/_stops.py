"""Stop strings: whether the text of a completion has come to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MARGIN = 8  # tokens in front of a stop string: decoders treat the first ones otherwise


def load_tokenizer(
    model_path: str,
    trust_remote_code: bool = False,
    why: str = "stop strings need the text of completions",
    instead: str = "Use stop_token_ids",
) -> Any:
    """The tokenizer that stop strings are looked for with.

    Args:
        model_path: Folder or hub name.
        trust_remote_code: Run Python code that it brings.
        why: Begins the error.
        instead: Ends it.

    Raises:
        ValueError: If the model has none.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=trust_remote_code)
        if len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # what transformers makes of no files
            raise ValueError("it has no tokens of text")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{why}, and the tokenizer of model {model_path!r} could not be loaded ({error}); expected one beside the "
            f"model. {instead}"
        ) from error
    return tokenizer


class StopStrings:
    """Looks for stop strings at the end of completions, token by token; special tokens are no text.

    Args:
        tokenizer: Of the model.
        stop: At least one.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._longest = max(len(text.encode()) for text in stop) + _MARGIN  # a token has at least one byte

    def reached(self, token_ids: Sequence[int]) -> bool:
        """Whether one ends within the last token; asked for after each."""
        tail: list[int] = []
        for token in reversed(token_ids):
            if token not in self._special:
                tail.append(token)
                if len(tail) == self._longest:
                    break
        text = self._tokenizer.decode(tail[::-1], skip_special_tokens=True)
        return any(stop in text for stop in self._stop)
