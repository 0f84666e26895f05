"""Where a text ends that ran into a stop string."""

from __future__ import annotations

from collections.abc import Sequence


def before_stop(text: str, stop: Sequence[str]) -> str:
    r"""Leaves out the first of the stop strings, and all behind it, as vLLM does.

    Args:
        text: A completion.
        stop: Texts that end a completion, none of them empty.

    >>> before_stop("It is 4.\n\nProblem: 3+3", ["###", "\n\nProblem:"])
    'It is 4.'
    """
    return text[: min((i for s in stop if (i := text.find(s)) >= 0), default=len(text))]
