r"""Splitting text at signs that stand in no bracket: the `=` of `\sum_{k=1}` parts nothing."""

from __future__ import annotations

import re
from typing import Final

_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")
_STEP: Final = re.compile(r"\\[A-Za-z]+|\\?.", re.DOTALL)


def split_outside(text: str, signs: re.Pattern[str]) -> tuple[list[str], list[str]]:
    r"""Splits a text at the signs outside brackets of any kind.

    Args:
        text: LaTeX.
        signs: Matches a sign at its start; it does not match brackets.

    Returns:
        The parts, stripped, and the signs between them, one less.

    >>> split_outside(r"S=\\sum_{k=1}^{n} k", re.compile("="))
    (['S', '\\\\sum_{k=1}^{n} k'], ['='])
    """
    if not signs.search(text):  # most answers
        return [text.strip()], []
    parts, found = [], []
    depth = start = at = 0
    while at < len(text):
        if depth == 0 and (match := signs.match(text, at)) and match.end() > at:
            parts.append(text[start:at].strip())
            found.append(match[0].strip())
            start = at = match.end()
            continue
        step = _STEP.match(text, at)
        assert step is not None
        last = step[0][-1]
        depth += (last in _OPENING) - (last in _CLOSING)
        at = step.end()
    return [*parts, text[start:].strip()], found


def closes_at_end(text: str) -> bool:
    r"""Is the bracket at the start of a text closed by the one at its end? `\{` is a bracket like any other."""
    depth = 0
    for step in _STEP.finditer(text):
        last = step[0][-1]
        depth += (last in _OPENING) - (last in _CLOSING)
        if depth <= 0:
            return step.end() == len(text)
    return False
