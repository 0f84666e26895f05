"""Where the final answer is in a completion: the last box."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_BOX: Final = r"(?:\\|(?<=\\))(?:boxed|fbox)"
_BRACES: Final = re.compile(
    rf"(?P<open>{_BOX}\s*\{{)"
    rf"|{_BOX}(?:\s*(?=[+-]?\d)|\s+(?=[A-Za-z]))(?P<bare>[+-]?\d+(?:[.,]\d+)*|[A-Za-z])"  # \boxed 5
    r"(?=[.,;:!]?\s*(?:\$|\\[)\]]|\n|\}|$))"
    r"|\\.|[{}]",
    re.DOTALL,
)


class _Box(NamedTuple):
    command: int  # where the command starts
    start: int  # of the content
    end: int  # of the content
    content: tuple[int, int]  # the same, without boxes directly around it


def last_box(text: str) -> str | None:
    r"""Returns the content of the last `\boxed{...}` or `\fbox{...}`; None if there is none, or it is never closed.

    Of boxes in a box the outermost counts, and boxes directly around a box are taken off. A number or letter needs no
    braces where nothing follows it in its formula, `$\boxed 5$`. Linear in the length of the text.
    """
    boxes = _outermost(text)
    return None if not boxes else text[slice(*boxes[-1].content)].strip()


def all_boxes(text: str) -> list[str]:
    r"""Returns the contents of all boxes that are in no other box; the last one may not be left open."""
    return [text[slice(*box.content)].strip() for box in _outermost(text)]


def _outermost(text: str) -> list[_Box]:
    stack: list[tuple[int, int]] = []  # command and content start of each open box, -1 for another brace
    boxes: list[_Box] = []  # closed ones
    for match in _BRACES.finditer(text):
        if match["open"]:
            stack.append((match.start(), match.end()))
        elif match["bare"]:
            boxes.append(_Box(match.start(), match.start("bare"), match.end(), match.span("bare")))
        elif match[0] == "{":
            stack.append((-1, -1))
        elif match[0] == "}" and stack:
            command, start = stack.pop()
            if command >= 0:
                boxes.append(_closed(text, command, start, match.start(), boxes))
    open_box = max((start for _, start in stack), default=-1)
    return [] if boxes and open_box > boxes[-1].start else boxes


def _closed(text: str, command: int, start: int, end: int, boxes: list[_Box]) -> _Box:
    """Takes the boxes inside a box off the list; one that is all of its content is what it holds."""
    inside = []
    while boxes and boxes[-1].start > start:
        inside.append(boxes.pop())
    if len(inside) == 1:
        before, behind = text[start : inside[0].command], text[inside[0].end : end]
        if not before.strip() and not behind.removeprefix("}").strip():
            return _Box(command, start, end, inside[0].content)
    return _Box(command, start, end, (start, end))
