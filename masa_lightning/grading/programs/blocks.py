"""Finds the program in a completion: its blocks of Python code, and which of them defines what is tested."""

from __future__ import annotations

import re
import symtable
from collections.abc import Collection
from textwrap import dedent
from typing import Final

from masa_lightning.grading.programs.names import names_under_test

_TAG: Final = r"</?\w+>"  # of a model's template, such as </think> and </answer>
_FENCE: Final = re.compile(rf"(?:.*{_TAG})?([ \t]*)(`{{3,}}|~{{3,}})(.*)")
_UNSEEN: Final = re.compile("[\ufeff\u200b\0]")  # byte-order marks and other signs without a width
# python, python3.11, py3, {python}, {.python .numberLines}, python title="x.py", python,linenos; not python-repl
_PYTHON: Final = re.compile(r"\{?\s*\.?i?py(?:thon)?[\d.]*(?=[\s,:;{}]|$)", re.IGNORECASE)
_DEFINED: Final = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)|^(\w+)[ \t]*(?::[^=\n]*)?=(?!=)", re.MULTILINE)
_PRINTS: Final = re.compile(r"\bprint\s*\(|\bstdout\b|\bos\.write\b")


def program_of(completion: str, names: Collection[str] = (), *, prints: bool = False) -> str | None:
    r"""Returns the program that a completion ends with; None if it has no closed block of Python code.

    It is the last block that defines all that is tested, which need not be the last one: that may be an example or its
    output; blocks before it come with it where they define or import what it uses. If no block does, all belong together.

    Args:
        completion: Text with blocks of Markdown, with Python's label or none.
        names: What is tested; none if nobody knows.
        prints: Whether a program has to print; then the last block that does is taken.

    >>> program_of("So:\n```python\nx = 1\n```\nand\n```bash\nls\n```")
    'x = 1\n'
    >>> program_of("```python\ndef f(): return 1\n```\nIt gives\n```python\nprint(f())\n```", ["f"])
    'def f(): return 1\n'
    """
    blocks = code_blocks(completion)
    if not blocks:
        return None
    if prints:
        return next((text for _, text in reversed(blocks) if _PRINTS.search(text)), blocks[-1][1])
    defined = [{name for groups in _DEFINED.findall(text) for name in groups if name} for _, text in blocks]
    needed = {*names} & {name for has in defined for name in has}
    for index in reversed(range(len(blocks))):
        if defined[index] >= needed:
            return _with_helpers([text for _, text in blocks[: index + 1]])
    return "\n".join(text for (labelled, text), has in zip(blocks, defined, strict=True) if labelled or has & needed)


def _with_helpers(texts: list[str]) -> str:
    """Returns the last block, behind those before it that define or import what it uses and does not define."""
    *others, program = texts
    try:
        missing = names_under_test(program, set())
        for text in reversed(others):
            top = symtable.symtable(text, "<block>", "exec").get_symbols() if missing else []
            if missing & {symbol.get_name() for symbol in top if symbol.is_assigned() or symbol.is_imported()}:
                program = f"{text}\n{program}"
                missing = names_under_test(program, set())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass  # a block that is no Python ends the search
    return program


def code_blocks(completion: str) -> list[tuple[bool, str]]:
    """Returns the closed blocks of Python code, or of code without a label: (whether it has one, the code).

    A fence may stand behind a tag (`</think>`) or before one. What is closed by no line of its own is closed where its fence
    ends a line.
    """
    found: list[tuple[bool, str]] = []
    lines = _UNSEEN.sub("", completion).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start = 0
    while start < len(lines):
        opens = _FENCE.fullmatch(lines[start])
        start += 1
        if opens is None or ("`" in opens[3] and opens[2][0] == "`"):  # code within a line
            continue
        indent, fence, label = opens[1], opens[2], opens[3].strip()
        end, last = _end(lines, start, fence)
        if end < len(lines) and (not label or _PYTHON.match(label)):
            code = [*lines[start:end], *last]
            text = "".join(f"{line.removeprefix(indent)}\n" for line in code)  # a block in a list is indented with it
            found.append((bool(label), dedent(text) if text.lstrip("\n")[:1] in (" ", "\t") else text))
        start = end + 1
    return found


def _end(lines: list[str], start: int, fence: str) -> tuple[int, list[str]]:
    """Returns the line that closes a block, and the code in it; behind all lines if none does."""
    for index in range(start, len(lines)):
        match = _FENCE.fullmatch(lines[index])
        if match and match[2].startswith(fence) and re.fullmatch(rf"\s*(?:{_TAG}.*)?", match[3]):
            return index, []
    for index in range(start, len(lines)):
        line = lines[index].rstrip()
        if line.endswith(fence) and not line.endswith(fence + fence[0]):
            return index, [line.removesuffix(fence)]
    return len(lines), []
