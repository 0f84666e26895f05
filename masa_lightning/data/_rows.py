"""The rows of a table -> problems, and what is wrong with the rows that are none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from string import ascii_uppercase as LETTERS
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn

from masa_lightning.data._answers import answer_text
from masa_lightning.data._cells import MissingAnswerError, Row, UnusableRowError, find, is_unicode, kind, own_id
from masa_lightning.data._options import (
    OPTION_COLUMNS,
    Counting,
    Options,
    how_counted,
    read_options,
    right_option,
    usual_counting,
)
from masa_lightning.data._questions import (
    CONTEXT_COLUMNS,
    PROBLEM_COLUMNS,
    VERL_ANSWER,
    VERL_PROBLEM,
    VERL_QUESTIONS,
    dropped_messages,
    plain_text,
    problem_text,
    same_text_key,
)
from masa_lightning.data._wrappers import other_form
from masa_lightning.functional.grading import grade
from masa_lightning.functional.readable import is_readable
from masa_lightning.types import ChoiceAnswer, CodeAnswer, MathAnswer, NumberAnswer, Problem

Reader = Callable[[Row], Problem]  # its `id` is that of the row, or empty; raises UnusableRowError

ANSWER_COLUMN = "answer"
_CONTRADICTED = "the same problem is there with another answer"
_METADATA_CHARACTERS = 200
_OPTION = re.compile(r"(?i:op|option|choice|ending|sol|ans|answer)_?(?:[a-jA-J]|\d)")  # a column of one option
_MOST_COPIES = 2**16  # different rows whose problem is kept: DAPO-Math-17k has each of 17,000 a hundred times


@dataclass(slots=True, kw_only=True)
class Table:
    """What became of the rows of one source."""

    problems: list[Problem] = field(default_factory=list)
    rows: int = 0
    unusable: list[tuple[int, str]] = field(default_factory=list)  # (row number, reason)
    other_forms: list[tuple[int, str]] = field(default_factory=list)  # (row number, the form that a problem wants)
    unread: list[tuple[int, str]] = field(
        default_factory=list
    )  # (row number, an answer that is but a text to the grader)

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

    def warn(self, what: str) -> None:
        r"""Warns of answers that are right in one spelling alone, and of problems that want another form than `\boxed{}`."""
        if self.unread:
            row = self.unread[0][0]
            some = ", ".join(repr(text[:60]) for text in dict.fromkeys(text for _, text in self.unread[:50]))
            rank_zero_warn(
                f"{what}: {len(self.unread)} of {len(self.problems)} answers are neither words nor a number or formula that"
                f" can be read ({some:.300}; row {row} is the first): only the very same text will be right. Write the value"
                " alone, or take these rows out"
            )
        if self.other_forms:
            forms = ", ".join(
                f"{n} x {form}" for form, n in Counter(form for _, form in self.other_forms).most_common()
            )
            row = self.other_forms[0][0]
            rank_zero_warn(
                f"{what}: {len(self.other_forms)} of {len(self.problems)} problems ask for their answer in a form of"
                f" their own ({forms}; row {row} is the first), and the prompt then asks for it in \\boxed{{}}: two"
                " instructions, of which only the box is graded. Take theirs out of the data"
            )


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
            if not isinstance(row, Mapping):
                raise UnusableRowError(f"it is a {kind(row)}, not a struct with columns")
            problem = read(row)
        except UnusableRowError as e:
            table.unusable.append((i, str(e)))
            continue
        problem.source = source
        table.problems.append(problem)
        if not isinstance(problem.answer, CodeAnswer) and (form := other_form(problem.problem)):
            table.other_forms.append((i, form))
        if isinstance(problem.answer, MathAnswer) and not is_readable(problem.answer):
            table.unread.append((i, problem.answer))
        numbers.append(i)
    if any(isinstance(problem.answer, CodeAnswer) for problem in table.problems):
        numbers = leave_out_without_tests(table, numbers)
    numbers = leave_out_contradictions(table, numbers)
    ids = {problem.id for problem in table.problems}
    if "" in ids or len(ids) < len(table.problems):
        for i, problem in zip(numbers, table.problems, strict=True):
            problem.id = f"{prefix}{i}"
    return table


def leave_out_without_tests(table: Table, numbers: list[int]) -> list[int]:
    """Moves programs whose tests are none from the problems of a table to its unusable rows.

    Args:
        table: Of rows that were read.
        numbers: [problems] the row of each problem.

    Returns:
        [problems left] likewise.
    """
    from masa_lightning.grading.programs import launch  # not needed by most data

    programs = [index for index, problem in enumerate(table.problems) if isinstance(problem.answer, CodeAnswer)]
    found = launch.why_unusable([launch.Tests.of(table.problems[index]) for index in programs])
    return _leave_out(table, numbers, {index: reason for index, reason in zip(programs, found, strict=True) if reason})


def leave_out_contradictions(table: Table, numbers: list[int]) -> list[int]:
    """Moves problems that are there with different answers, of which nobody knows which is right, to the unusable rows.

    Programs are none of them: a problem may have several tests.

    Args:
        table: Of rows that were read.
        numbers: [problems] the row of each problem.

    Returns:
        [problems left] likewise.
    """
    same: dict[str, dict[str, list[int]]] = {}  # by the problem, by the answer: where they are
    for index, problem in enumerate(table.problems):
        if problem.answer and not isinstance(problem.answer, CodeAnswer):
            same.setdefault(same_text_key(problem.problem), {}).setdefault(problem.answer, []).append(index)
    reasons: dict[int, str] = {}
    for places in same.values():
        first, *others = places
        if any(
            not _same_answer(table.problems[places[first][0]], table.problems[places[other][0]]) for other in others
        ):
            reasons |= dict.fromkeys((index for found in places.values() for index in found), _CONTRADICTED)
    return _leave_out(table, numbers, reasons)


def _same_answer(one: Problem, other: Problem) -> bool:
    """Whether two problems of the same text have an answer of the same value, such as 1/2 and 0.5."""
    if not all(isinstance(problem.answer, MathAnswer | NumberAnswer) for problem in (one, other)):
        return False
    pairs = ((one.answer, other.answer), (other.answer, one.answer))
    return all(grade(rf"\boxed{{{answer}}}", right) for answer, right in pairs)


def _leave_out(table: Table, numbers: list[int], reasons: Mapping[int, str]) -> list[int]:
    table.unusable = sorted([*table.unusable, *((numbers[index], reason) for index, reason in reasons.items())])
    table.problems = [problem for index, problem in enumerate(table.problems) if index not in reasons]
    return [number for index, number in enumerate(numbers) if index not in reasons]


def choose_columns(
    columns: list[str], problem: str | None, answer: str | None, *, answered: bool = True
) -> tuple[str, str | None] | str:
    """Finds the problem and answer columns of a table, or says in a sentence why not.

    Without `answered` a table that has no answer column will do; its second column is then None.
    """
    if {"prompt", "reward_model"} <= {*columns}:
        problem, answer = problem or VERL_PROBLEM, answer or VERL_ANSWER
    if problem is None:
        problem = next(iter(_named(columns, PROBLEM_COLUMNS)), None)
        if problem is None:
            return "no problem column was found; set problem_column to the column with the problem text"
        lettered = [c for c in LETTERS if c in columns] if {"A", "B"} <= {*columns} else []
        if rest := [*_named(columns, CONTEXT_COLUMNS), *_named(columns, OPTION_COLUMNS), *lettered]:
            return (
                f"the column {problem!r} alone is not the whole problem where there is also {' and '.join(rest)};"
                f" set problem_column to all parts in order, such as {_in_order(problem, rest)!r},"
                f" or to {problem!r}"
            )
    if answer is None and "reward_model" in columns and not _named(columns, [ANSWER_COLUMN]):
        answer = VERL_ANSWER
    if answer is None:
        answer = (
            ANSWER_COLUMN if ANSWER_COLUMN in columns else next(iter(_named(columns, [ANSWER_COLUMN])), ANSWER_COLUMN)
        )
    if not answered and _missing_part(columns, answer):
        answer = None
    for setting, value in (("problem_column", problem), ("answer_column", answer)):
        if value is not None and (missing := _missing_part(columns, value)):
            return f"there is no column {missing!r}; set {setting} to one of those found"
    return problem, answer


class ColumnReader:
    """Reads rows by the names of their columns.

    Where `options`, `choices`, `answers` or `endings` is a part of the problem, or are columns A, B, ..., or such as
    `option1`, it is a choice: its text has the
    options one a line, with letters, and its answer is a letter.

    Args:
        columns: Of the table; the small ones that are not read become metadata.
        problem: Column of the problem; "a.b" is a part of a struct, "a+b" are columns joined by blank lines.
        answer: Column of the answer; None if there is none.
        answered: Whether a row without an answer is unusable.

    Attributes:
        system_messages: Prompts whose system message was dropped.
        conversations: Prompts of which the user's earlier messages were dropped.
    """

    def __init__(self, columns: list[str], problem: str, answer: str | None, *, answered: bool = True) -> None:
        self.problem, self.answer, self.answered = problem, answer, answered
        self.parts = problem.split("+")
        letters = [part for part in self.parts if part in [*LETTERS] or _OPTION.fullmatch(part)]
        named = [part for part in self.parts if part.split(".")[-1] in (*OPTION_COLUMNS, "answers", "endings")]
        self.options = named[:1] or (letters if len(letters) > 1 else [])
        self.counting: Counting = "unknown"
        read = [problem] if answer is None else [problem, answer]
        used = {part.split(".")[0] for column in read for part in column.split("+")} | {"id", "reward_model", "prompt"}
        self.others = [c for c in columns if c not in used]
        self.answers = [] if answer is None else answer.split("+")
        self.paths = dict.fromkeys([*self.parts, *self.answers])
        if problem == VERL_PROBLEM:
            self.paths |= dict.fromkeys(VERL_QUESTIONS)
        self.system_messages = self.conversations = 0
        self._copies: dict[bytes, tuple[Problem, Counter[str]]] = {}

    def look_at(self, rows: Iterable[Row]) -> None:
        """Finds out from all rows what a number means as the answer of a choice: an index from 0 or 1, or a value."""
        if self.options and self.answer is not None:
            usual = usual_counting(self.options[0], self.answer)
            self.counting = how_counted(self._options_and_answers(rows), usual)

    def __call__(self, row: Row) -> Problem:
        cells = {path: find(row, path) for path in self.paths}
        key = blake2b(repr(cells).encode(errors="surrogatepass"), digest_size=16).digest()
        if key not in self._copies:
            if len(self._copies) == _MOST_COPIES:
                self._copies.clear()
            dropped = sum((dropped_messages(cells[part]) for part in self.parts), Counter[str]())
            self._copies[key] = (self._choice(cells) if self.options else self._plain(cells)), dropped
        problem, dropped = self._copies[key]
        self.system_messages += dropped["system"] > 0
        self.conversations += dropped["user"] > 0
        metadata = {c: value for c in self.others if (value := _scalar(row.get(c))) is not None}
        return Problem(
            id=own_id(row, "id"),
            problem=problem.problem,
            answer=problem.answer,
            metadata=metadata,
        )

    def _plain(self, row: Row) -> Problem:
        text = problem_text(row, self.problem)
        try:
            answer = answer_text(self._answer(row))
        except MissingAnswerError:
            if self.answered:
                raise
            answer = ""
        return Problem(id="", problem=text, answer=answer)

    def _choice(self, row: Row) -> Problem:
        options, answer = self._options(row), self._answer(row)
        parts = [part for part in self.parts if part not in self.options[1:]]
        text = "\n\n".join(options.lines if part == self.options[0] else plain_text(find(row, part)) for part in parts)
        if answer is None and self.answered:
            raise MissingAnswerError("no answer")
        letter = "" if answer is None else LETTERS[right_option(options, answer, self.counting)]
        return Problem(id="", problem=text, answer=ChoiceAnswer(letter, options=options.texts))

    def _options(self, row: Row) -> Options:
        values = {part: find(row, part) for part in self.options}
        if _OPTION.fullmatch(self.options[0]):  # no labels, but a letter or number each
            texts = [*values.values()]
            while texts and texts[-1] is None:  # a table gives all rows all columns
                texts.pop()
            return read_options(texts)
        return read_options(values if len(values) > 1 else values[self.options[0]])

    def _answer(self, row: Row) -> Any:
        values = [find(row, part) for part in self.answers]
        if len(values) > 1:  # all of them are wanted
            return ", ".join(map(answer_text, values))
        value = values[0] if values else None
        if isinstance(value, str) and value in self.options and _OPTION.fullmatch(value):
            return LETTERS[self.options.index(value)]
        return value

    def _options_and_answers(self, rows: Iterable[Row]) -> Iterator[tuple[Options, Any]]:
        for row in rows:
            with suppress(UnusableRowError):
                answer = self._answer(row) if isinstance(row, Mapping) else None
                if answer is not None:
                    yield self._options(row), answer


def _missing_part(columns: list[str], column: str) -> str | None:
    parts = column.split("+")
    return next((part for part in parts if part.split(".")[0] not in columns and part not in columns), None)


def _named(columns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The columns with these names, in any case: SVAMP has `Body`."""
    return [column for name in names for column in columns if column.casefold() == name]


def _in_order(problem: str, rest: list[str]) -> str:
    before = _named(rest, CONTEXT_COLUMNS)
    return "+".join([*before, problem, *(part for part in rest if part not in before)])


def _scalar(value: Any) -> str | int | float | bool | None:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Decimal):
        value = float(value) if value.is_finite() else None
    if isinstance(value, str):
        return value if len(value) <= _METADATA_CHARACTERS and is_unicode(value) else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, bool | int) else None
