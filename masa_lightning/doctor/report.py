"""The lines of an examination as a table to paste, and as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Final

import masa_lightning
from masa_lightning.doctor.check import Line

_LONGEST: Final = 160  # characters of a cell; the whole is below the table


def head(width: int) -> str:
    """Returns the first two lines of the table, in markdown.

    Args:
        width: Characters of the longest name of a line.
    """
    return f"| {'check':<{width}} | state   |  seconds | found |\n|{'-' * (width + 2)}|---------|---------:|-------|"


def row(line: Line, width: int) -> str:
    """Returns a line of the table.

    >>> print(row(Line("memory", "ok", "8 GiB free", 0.01), 8))
    | memory   | ok      |     0.01 | 8 GiB free |
    """
    seconds = "" if line.state == "not run" else f"{line.seconds:.2f}"
    return f"| {line.name:<{width}} | {line.state:<7} | {seconds:>8} | {_cell(line.found)} |"


def closing(lines: Sequence[Line]) -> str:
    """Returns what stands below the table: what is to be done, and whether the machine is ready."""
    parts = []
    for line in lines:
        if line.state == "failed":
            parts.append(f"* **{line.name}** failed: {line.found.strip()}\n  Remedy: {line.remedy}")
        elif line.remedy:
            parts.append(f"* **{line.name}**: {line.remedy}")
    failed = sum(line.state == "failed" for line in lines)
    verdict = "This machine is ready." if not failed else f"{failed} of {len(lines)} lines failed."
    return "\n".join([*parts, *([""] if parts else []), verdict])


def as_json(lines: Iterable[Line]) -> str:
    """Returns the examination as JSON: `masa_lightning` (its version), `ready`, and `lines` with the fields of `Line`."""
    told = [asdict(line) for line in lines]
    ready = all(line["state"] != "failed" for line in told)
    return json.dumps({"masa_lightning": masa_lightning.__version__, "ready": ready, "lines": told}, indent=1)


def _cell(text: str) -> str:
    r"""Fits a text into a cell.

    >>> _cell("a|b\nc")
    'a/b c'
    """
    line = re.sub(r"\s+", " ", text.replace("|", "/")).strip()
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."
