"""Markdown that no text put into it can break: whatever is shown is code, in which markdown means nothing."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

LINE_BREAK = " \u23ce "
"""Stands for a line break in a table's cell."""


def code(value: Any) -> str:
    """A value as code on one line: a plain word as it is, anything else as JSON.

    >>> print(code("Qwen/Qwen3-8B"), code(0.5), code("two `words`"))
    `Qwen/Qwen3-8B` `0.5` `` "two `words`" ``
    """
    is_word = isinstance(value, str) and re.fullmatch(r"[\w@+:/.-]+", value)
    text = value if is_word else json.dumps(value, ensure_ascii=False, default=str)
    fence = _fence(text, 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def python_block(text: str) -> str:
    """Python as a fenced block."""
    fence = _fence(text, 3)
    return f"{fence}python\n{text}\n{fence}"


def python_literal(text: str) -> str:
    r"""A text as Python, each of its lines on a line.

    >>> print(python_literal("a\nb"))
    (
        'a\n'
        'b'
    )
    """
    lines = text.splitlines(keepends=True)
    return repr(text) if len(lines) < 2 else "(\n" + "".join(f"    {line!r}\n" for line in lines) + ")"


def plain(text: str) -> str:
    """Any text on one line of a table that becomes HTML, shown as it is.

    ASCII punctuation becomes character references, so that it means nothing to markdown or HTML; line breaks become a
    visible sign; control, format (such as right-to-left overrides) and surrogate characters are dropped.

    >>> plain("a|b <i>")
    'a&#124;b &#60;i&#62;'
    """
    line = LINE_BREAK.join(text.replace("\t", " ").splitlines())
    kept = (c for c in line if unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
    return "".join(f"&#{ord(c)};" if c.isascii() and not (c.isalnum() or c == " ") else c for c in kept)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lays out cells, which are markdown; in `code` a bar is no border."""
    lines = [[cell.replace("|", r"\|") for cell in row] for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _fence(text: str, least: int) -> str:
    """Backticks that none in the text close."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])
