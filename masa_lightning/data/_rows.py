"""One row of a table -> one `Problem`, and what is wrong with the rows that are none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from masa_lightning.types import Problem

Row = Mapping[str, Any]

PROBLEM_COLUMNS = ("problem", "question")
ANSWER_COLUMN = "answer"
VERL_PROBLEM, VERL_ANSWER = "prompt", "reward_model.ground_truth"
_VERL_QUESTIONS = ("reward_model.ground_truth.question", "extra_info.question")
_REST_OF_QUESTION = ("context", "passage", "options", "choices")  # without these such a question has no answer
_METADATA_CHARACTERS = 200
_GSM8K_ANSWER = re.compile(r"####([^\n]*)\s*\Z")
_GROUPED_NUMBER = re.compile(r"-?\$?\d{1,3}(,\d{3})+(\.\d+)?")


class UnusableRowError(Exception):
    """A row that is no problem; the message is the reason."""


@dataclass(slots=True, kw_only=True)
class Table:
    """What became of the rows of one source."""

    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    unusable: list[tuple[int, str]] = field(default_factory=list)  # (row number, reason)
    system_messages: int = 0
    """Prompts whose system message was dropped."""

    def report(self, examples: int = 5) -> str:
        """The unusable rows in one sentence: the first few, then counts by reason."""
        first = "; ".join(f"row {i}: {reason}" for i, reason in self.unusable[:examples])
        counts = Counter(reason for _, reason in self.unusable).most_common(10)
        return f"{first}. By reason: " + ", ".join(f"{n} x {reason}" for reason, n in counts)


def choose_columns(columns: list[str], problem: str | None, answer: str | None) -> tuple[str, str] | str:
    """Finds the problem and answer columns of a table, or says in a sentence why not."""
    if {"prompt", "reward_model"} <= {*columns}:
        problem, answer = problem or VERL_PROBLEM, answer or VERL_ANSWER
    if problem is None:
        problem = next((c for c in PROBLEM_COLUMNS if c in columns), None)
        if problem is None:
            return "no problem column was found; set problem_column to the column with the problem text"
        if rest := [c for c in _REST_OF_QUESTION if c in columns]:
            return (
                f"the column {problem!r} alone is not the whole problem where there is also {' and '.join(rest)};"
                f" set problem_column to all parts in order, such as {'+'.join([*rest[:1], problem, *rest[1:]])!r},"
                f" or to {problem!r}"
            )
    if answer is None:
        answer = ANSWER_COLUMN
    for setting, value in (("problem_column", problem), ("answer_column", answer)):
        if missing := [part for part in value.split("+") if part.split(".")[0] not in columns and part not in columns]:
            return f"there is no column {missing[0]!r}; set {setting} to one of those found"
    return problem, answer


def read_table(rows: Iterable[Row], columns: list[str], problem: str, answer: str, source: str) -> Table:
    """Turns rows into problems.

    Args:
        rows: Of one source, numbered from 0.
        columns: Of the table.
        problem: Column of the problem; "a.b" is a part of a struct, "a+b" are columns joined by blank lines.
        answer: Column of the answer.
        source: Label for ids and `Problem.source`.
    """
    table = Table()
    used = {part.split(".")[0] for part in (problem + "+" + answer).split("+")} | {"id", "reward_model", "prompt"}
    others = [c for c in columns if c not in used]
    own_ids: list[str | None] = []
    for i, row in enumerate(rows):
        table.rows += 1
        try:
            text = _problem_text(row, problem, table)
            truth = answer_text(_find(row, answer))
        except UnusableRowError as e:
            table.unusable.append((i, str(e)))
            continue
        own = row.get("id")
        own_ids.append(str(own) if isinstance(own, str | int) and not isinstance(own, bool) and str(own) else None)
        metadata = {c: value for c in others if (value := _scalar(row[c])) is not None}
        table.problems.append(Problem(id=f"{source}/{i}", problem=text, answer=truth, source=source, metadata=metadata))
    if None not in own_ids and len({*own_ids}) == len(own_ids):
        for p, own_id in zip(table.problems, own_ids, strict=True):
            p.id = str(own_id)
    return table


def answer_text(value: Any) -> str:
    r"""The answer as text: 204.0 -> "204"; of a GSM8K solution what follows the final "####".

    >>> answer_text(204.0), answer_text(0.5), answer_text("3 * 24 = 72\n#### 1,072"), answer_text("x + 1")
    ('204', '0.5', '1072', 'x + 1')
    """
    if isinstance(value, Mapping):  # verl: {"target": ..., "solution": ..., "question": ...}
        if "target" not in value:
            raise UnusableRowError("answer is a struct without 'target'")
        value = value["target"]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        raise UnusableRowError("no answer")
    if isinstance(value, float | Decimal):
        if not math.isfinite(value):
            raise UnusableRowError("answer is not a finite number")
        value = int(value) if value == int(value) else value
        return format(value, "f") if isinstance(value, Decimal) else str(value)
    if isinstance(value, bool | int):
        return str(value)
    if not isinstance(value, str):
        raise UnusableRowError(f"answer is a {type(value).__name__}, not text or a number")
    if final := _GSM8K_ANSWER.search(value):
        value = final[1].strip()
        if _GROUPED_NUMBER.fullmatch(value):
            value = value.replace(",", "")
    if not value.strip():
        raise UnusableRowError("empty answer")
    return str(value.strip())


def same_text_key(text: str) -> str:
    """Equal for texts that differ in white space and case alone."""
    return " ".join(text.split()).casefold()


def _problem_text(row: Row, column: str, table: Table) -> str:
    parts = [_text(_find(row, part), table) for part in column.split("+")]
    text = "\n\n".join(parts)
    if column == VERL_PROBLEM:
        # verl's message is the question with instructions; a question that is a part of it is the problem itself.
        for path in _VERL_QUESTIONS:
            question = _find(row, path)
            if isinstance(question, str) and question.strip() and same_text_key(question) in same_text_key(text):
                return question.strip()
    return text


def _text(value: Any, table: Table) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnusableRowError("no problem")
    if isinstance(value, list) and value and all(isinstance(m, Mapping) and "role" in m for m in value):
        users = [m.get("content") for m in value if m["role"] == "user"]
        if not users:
            raise UnusableRowError("chat without a user message")
        table.system_messages += any(m["role"] == "system" for m in value)
        value = users[-1]
    elif isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if value is None:
        raise UnusableRowError("no problem")
    if not isinstance(value, str):
        raise UnusableRowError(f"problem is a {type(value).__name__}, not text or chat messages")
    if not value.strip():
        raise UnusableRowError("empty problem")
    return value.strip()


def _find(row: Row, path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _scalar(value: Any) -> str | int | float | bool | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value if len(value) <= _METADATA_CHARACTERS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else None
