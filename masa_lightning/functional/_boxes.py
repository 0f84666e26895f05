"""Where the final answer is in a completion: the last box."""

from __future__ import annotations

import re
from typing import Final

_BRACES: Final = re.compile(r"\\(?:boxed|fbox)\s*\{|(?<=\\)(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)


def last_box(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}` or `\fbox{...}`; None if there is none, or it is never closed.

    Of boxes in a box the outermost counts, and boxes directly around a box are taken off.
    """
    stack: list[int] = []  # content start of each open box, -1 for another brace
    boxes: list[tuple[int, int]] = []  # closed ones
    for match in _BRACES.finditer(text):
        token = match[0]
        if token[0] == "}":
            if stack and (start := stack.pop()) >= 0:
                while boxes and boxes[-1][0] > start:  # inside this one
                    boxes.pop()
                boxes.append((start, match.start()))
        elif token[-1] == "{" and (len(token) > 2 or token == "{"):
            stack.append(match.end() if len(token) > 1 else -1)
    if not boxes or max(stack, default=-1) > boxes[-1][0]:
        return None
    content = text[boxes[-1][0] : boxes[-1][1]].strip()
    while (inner := re.fullmatch(r"\\(?:boxed|fbox)\s*\{(.*)\}", content, re.DOTALL)) and _is_wrapped(content):
        content = inner[1].strip()
    return content


def _is_wrapped(text: str) -> bool:
    """Is the first brace of the text closed by its last character?"""
    depth = 0
    for match in _BRACES.finditer(text):
        if match[0][-1] == "{" and match[0] != "\\{":
            depth += 1
        elif match[0] == "}":
            depth -= 1
            if depth == 0:
                return match.end() == len(text)
    return False
