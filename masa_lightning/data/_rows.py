"""The rows of a table -> problems, and what is wrong with the rows that are none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from masa_lightning.types import Problem

Row = Mapping[str, Any]
Reader = Callable[[Row], Problem]  # its `id` is that of the row, or empty; raises UnusableRowError

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


class MissingAnswerError(UnusableRowError):
    """A row whose answer is not there, or empty."""


@dataclass(slots=True, kw_only=True)
class Table:
    """What became of the rows of one source."""

    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    unusable: list[tuple[int, str]] = field(default_factory=list)  # (row number, reason)

    def report(self, examples: int = 5) -> str:
        """The unusable rows in one sentence: the first few, then counts by reason."""
        first = "; ".join(f"row {i}: {reason}" for i, reason in self.unusable[:examples])
        counts = Counter(reason for _, reason in self.unusable).most_common(10)
        return f"{first}. By reason: " + ", ".join(f"{n} x {reason}" for reason, n in counts)

    def check(self, what: str, max_unusable_share: float, remedy: str) -> None:
        """Warns of unusable rows; raises a ValueError if they are more than a share of all, in [0, 1]."""
        if not self.unusable:
            return
        share = len(self.unusable) / self.rows
        text = f"{what}: {len(self.unusable)} of {self.rows} rows cannot be used: {self.report()}"
        if share > max_unusable_share:
            raise ValueError(
                f"{text}. That is a share of {share:.3g}, and max_unusable_share is {max_unusable_share}: {remedy}, or"
                " raise max_unusable_share"
            )
        rank_zero_warn(text)


def read_rows(rows: Iterable[Row], read: Reader, source: str, prefix: str = "") -> Table:
    """Turns rows into problems of a source.

    Args:
        rows: Of one source, numbered from 0.
        read: Makes a problem of a row.
        source: `Problem.source`.
        prefix: Of the row's number, which is a problem's id unless all rows have ids of their own, no two the same.
    """
    table = Table()
    numbers: list[int] = []
    for i, row in enumerate(rows):
        table.rows += 1
        try:
            problem = read(row)
        except UnusableRowError as e:
            table.unusable.append((i, str(e)))
            continue
        problem.source = source
        table.problems.append(problem)
        numbers.append(i)
    ids = {problem.id for problem in table.problems}
    if "" in ids or len(ids) < len(table.problems):
        for i, problem in zip(numbers, table.problems, strict=True):
            problem.id = f"{prefix}{i}"
    return table


def check_share(max_unusable_share: float) -> float:
    """Returns a share; raises a ValueError if it is none."""
    if not 0 <= max_unusable_share <= 1:
        raise ValueError(f"max_unusable_share is {max_unusable_share}; expected a share in [0, 1]")
    return max_unusable_share


def choose_columns(
    columns: list[str], problem: str | None, answer: str | None, *, answered: bool = True
) -> tuple[str, str | None] | str:
    """Finds the problem and answer columns of a table, or says in a sentence why not.

    Without `answered` a table that has no answer column will do; its second column is then None.
    """
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
    if not answered and _missing_part(columns, answer):
        answer = None
    for setting, value in (("problem_column", problem), ("answer_column", answer)):
        if value is not None and (missing := _missing_part(columns, value)):
            return f"there is no column {missing!r}; set {setting} to one of those found"
    return problem, answer


class ColumnReader:
    """Reads rows by the names of their columns.

    Args:
        columns: Of the table; the small ones that are not read become metadata.
        problem: Column of the problem; "a.b" is a part of a struct, "a+b" are columns joined by blank lines.
        answer: Column of the answer; None if there is none.
        answered: Whether a row without an answer is unusable.

    Attributes:
        system_messages: Prompts whose system message was dropped.
    """

    def __init__(self, columns: list[str], problem: str, answer: str | None, *, answered: bool = True) -> None:
        self.problem, self.answer, self.answered = problem, answer, answered
        read = [problem] if answer is None else [problem, answer]
        used = {part.split(".")[0] for column in read for part in column.split("+")} | {"id", "reward_model", "prompt"}
        self.others = [c for c in columns if c not in used]
        self.system_messages = 0

    def __call__(self, row: Row) -> Problem:
        text = problem_text(row, self.problem)
        try:
            answer = answer_text(None if self.answer is None else find(row, self.answer))
        except MissingAnswerError:
            if self.answered:
                raise
            answer = ""
        self.system_messages += any(_has_system_message(find(row, part)) for part in self.problem.split("+"))
        metadata = {c: value for c in self.others if (value := _scalar(row[c])) is not None}
        return Problem(id=own_id(row, "id"), problem=text, answer=answer, metadata=metadata)


def own_id(row: Row, *columns: str) -> str:
    """The id that a row has in the first of these columns that it has one in, as text; empty without."""
    values = (row.get(column) for column in columns)
    ids = (str(value).strip() for value in values if isinstance(value, str | int) and not isinstance(value, bool))
    return next(filter(None, ids), "")


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
        raise MissingAnswerError("no answer")
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
        raise MissingAnswerError("empty answer")
    return str(value.strip())


def same_text_key(text: str) -> str:
    """Equal for texts that differ in white space and case alone."""
    return " ".join(text.split()).casefold()


def problem_text(row: Row, column: str) -> str:
    """The text of a problem from a column, or from several joined by "+"; of a chat its last user message."""
    text = "\n\n".join(plain_text(find(row, part)) for part in column.split("+"))
    if column == VERL_PROBLEM:
        # verl's message is the question with instructions; a question that is a part of it is the problem itself.
        for path in _VERL_QUESTIONS:
            question = find(row, path)
            if isinstance(question, str) and question.strip() and same_text_key(question) in same_text_key(text):
                return question.strip()
    return text


def plain_text(value: Any) -> str:
    """The text of a cell: a string, chat messages (the last user message), or lines."""
    if _is_chat(value):
        users = [m.get("content") for m in value if m["role"] == "user"]
        if not users:
            raise UnusableRowError("chat without a user message")
        value = users[-1]
    elif isinstance(value, list) and value and all(isinstance(line, str) for line in value):
        value = "\n".join(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise UnusableRowError("no problem")
    if not isinstance(value, str):
        raise UnusableRowError(f"problem is a {type(value).__name__}, not text or chat messages")
    if not value.strip():
        raise UnusableRowError("empty problem")
    return value.strip()


def find(row: Row, path: str) -> Any:
    """The value of a column, or of a field "a.b" of a struct; None without."""
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _missing_part(columns: list[str], column: str) -> str | None:
    parts = column.split("+")
    return next((part for part in parts if part.split(".")[0] not in columns and part not in columns), None)


def _is_chat(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def _has_system_message(value: Any) -> bool:
    return _is_chat(value) and any(m["role"] == "system" for m in value)


def _scalar(value: Any) -> str | int | float | bool | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        return value if len(value) <= _METADATA_CHARACTERS else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else None
