"""Rows whose answer is a program: with tests in Python, or with inputs and outputs as in APPS and LiveCodeBench."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from masa_lightning.data._cells import Row, UnusableRowError, first, own_id
from masa_lightning.data._questions import plain_text
from masa_lightning.data._readers import read_humaneval, read_mbpp
from masa_lightning.data._rows import Reader
from masa_lightning.grading.programs.stdio import read_cases
from masa_lightning.types import CodeAnswer, Problem

_SCRIPT = "Write a program that reads standard input and prints the answer, and nothing else, to standard output."
_FUNCTION = "Write the function `{name}`, or a class `Solution` with a method of that name."


def program_reader(columns: list[str]) -> Reader | None:
    """Returns the reader of a table of programs, told by its columns; None if it is no such table."""
    here = {*columns}
    if "input_output" in here or "public_test_cases" in here or {"inputs", "outputs"} <= here:
        return read_cases_row
    if {"prompt", "test", "entry_point"} <= here:
        return read_humaneval
    return read_mbpp if "test_list" in here or {"prompt", "test", "code"} <= here else None


def read_cases_row(row: Row) -> Problem:
    """Reads a task whose tests are inputs and outputs: of APPS, of LiveCodeBench, or in columns `inputs` and `outputs`."""
    if row.get("public_test_cases") is not None:
        cases = _live_code_bench(row)
    elif row.get("input_output") is not None:
        cases = _loaded(row["input_output"], "input_output")
    else:
        cases = {name: _loaded(row.get(name), name) for name in ("inputs", "outputs")} | {"fn_name": row.get("fn_name")}
    if not isinstance(cases, Mapping):
        raise UnusableRowError("its inputs and outputs are no struct")
    name = cases.get("fn_name") or None
    answer = json.dumps({"inputs": cases.get("inputs"), "outputs": cases.get("outputs"), "fn_name": name})
    try:
        read_cases(answer)
    except ValueError as error:
        raise UnusableRowError(str(error)) from None
    parts = [plain_text(first(row, "question_content", "question", "problem", "prompt"))]
    parts.append(_FUNCTION.format(name=name) if name else _SCRIPT)
    if isinstance(start := row.get("starter_code"), str) and start.strip():
        parts.append(f"Start with:\n\n```python\n{start.strip()}\n```")
    return Problem(id=own_id(row, "question_id", "problem_id"), problem="\n\n".join(parts), answer=CodeAnswer(answer))


def _live_code_bench(row: Row) -> dict[str, Any]:
    cases = []
    for column in ("public_test_cases", "private_test_cases"):
        part = [] if row.get(column) in (None, "") else _loaded(row[column], column)
        if not isinstance(part, list) or not all(isinstance(case, Mapping) for case in part):
            raise UnusableRowError(f"{column} is no list of structs")
        cases += part
    about = _loaded(row.get("metadata") or "{}", "metadata")
    name = about.get("func_name") if isinstance(about, Mapping) else None
    inputs, outputs = ([case.get(side) for case in cases] for side in ("input", "output"))
    if not name:
        if any(case.get("testtype") == "functional" for case in cases):
            raise UnusableRowError("a functional test without metadata.func_name")
        return {"inputs": inputs, "outputs": outputs}
    try:
        arguments = [[json.loads(line) for line in str(text).strip().splitlines()] for text in inputs]
        return {"inputs": arguments, "outputs": [json.loads(str(text)) for text in outputs], "fn_name": name}
    except ValueError:
        raise UnusableRowError("an input or output of a function is no JSON") from None


def _loaded(value: Any, column: str) -> Any:
    """Reads a cell that is JSON in a text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise UnusableRowError(f"{column} is no JSON (packed tests have to be unpacked first)") from None
