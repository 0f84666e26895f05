"""Finds the program in a completion: its blocks of Python code, and which of them defines what is tested."""

from __future__ import annotations

import re
import symtable
from collections.abc import Collection
from typing import Final

from masa_lightning.grading.programs.names import names_under_test

_FENCE: Final = re.compile(r"([ \t]*)(`{3,}|~{3,})(.*)")
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
    """Returns the closed blocks of Python code, or of code without a label: (whether it has one, the code)."""
    found: list[tuple[bool, str]] = []
    indent, fence, label = "", "", ""
    lines: list[str] = []
    for line in completion.replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line)
        if match and not fence:
            if "`" in match[3] and match[2][0] == "`":
                continue  # code within a line
            indent, fence, label, lines = match[1], match[2], match[3].strip(), []
        elif match and match[2].startswith(fence) and not match[3].strip():
            if not label or _PYTHON.match(label):
                found.append((bool(label), "".join(f"{text}\n" for text in lines)))
            fence = ""
        else:
            lines.append(line.removeprefix(indent))  # a block in a list is indented with it
    return found
