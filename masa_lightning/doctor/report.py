"""The lines of an examination as a table to paste, and as JSON."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import masa_lightning
from masa_lightning.doctor.check import Line

_USUAL, _LONGEST = 160, 400  # characters of a cell, and of one that tells what failed; the whole is below the table


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
    found = _cell(line.found, _LONGEST if line.state == "failed" else _USUAL)
    return f"| {line.name:<{width}} | {line.state:<7} | {seconds:>8} | {found} |"


def closing(lines: Sequence[Line], interrupted: bool = False) -> str:
    """Returns what stands below the table: what is to be done, and whether the machine is ready.

    Args:
        lines: Of the table.
        interrupted: Whether there would have been more.
    """
    parts = [f"* **{line.name}**: {line.remedy}" for line in lines if line.remedy and line.state != "failed"]
    faults: dict[str, list[Line]] = {}  # what is wrong with several is said once
    for line in lines:
        if line.state == "failed":
            faults.setdefault(line.found.strip(), []).append(line)
    for found, alike in faults.items():
        names = ", ".join(f"**{line.name}**" for line in alike)
        remedies = "; ".join(dict.fromkeys(line.remedy for line in alike))
        parts.append(f"* {names} failed: {found}\n  Remedy: {remedies}")
    failed = sum(line.state == "failed" for line in lines)
    skipped = sum(line.state == "not run" for line in lines)
    ready = f"This machine is ready for what was run; {skipped} of {len(lines)} lines were not."
    verdict = f"{failed} of {len(lines)} lines failed." if failed else ready if skipped else "This machine is ready."
    if interrupted:
        verdict = f"Interrupted: {failed} of {len(lines)} lines failed so far."
    return "\n".join([*parts, *([""] if parts else []), verdict])


def as_json(lines: Iterable[Line], interrupted: bool = False) -> str:
    """Returns the examination as JSON.

    Its names are `masa_lightning` (the version), `ready`, `interrupted`, and `lines` with the fields of `Line`.

    Args:
        lines: Of the examination.
        interrupted: Whether there would have been more.
    """
    told = [_plain(asdict(line)) for line in lines]
    ready = not interrupted and all(line["state"] != "failed" for line in told)
    return json.dumps(
        {"masa_lightning": masa_lightning.__version__, "ready": ready, "interrupted": interrupted, "lines": told},
        indent=1,
        allow_nan=False,
    )


def _plain(value: Any) -> Any:
    """Makes null of numbers that JSON has not.

    >>> _plain({"a": [1.5, float("nan")]})
    {'a': [1.5, None]}
    """
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(text: str, longest: int = _USUAL) -> str:
    r"""Fits a text into a cell.

    >>> _cell("a|b\nc")
    'a/b c'
    """
    line = re.sub(r"\s+", " ", text.replace("|", "/")).strip()
    return line if len(line) <= longest else f"{line[: longest - 4]} ..."
