"""One row of a benchmark with options -> one problem whose answer is a letter; all shapes of such rows.

Shapes are told apart by their columns, so that the reader takes what the hub has and what people have in files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from string import ascii_uppercase as LETTERS
from typing import Any, NamedTuple

from masa_lightning.data._cells import Row, UnusableRowError, first, own_id
from masa_lightning.data._options import (
    OPTION_COLUMNS,
    Counting,
    Options,
    how_counted,
    read_options,
    right_option,
    usual_counting,
)
from masa_lightning.data._questions import context_texts, plain_text
from masa_lightning.types import ChoiceAnswer, Problem


class _Choice(NamedTuple):
    parts: list[Any]
    options: Options
    answer: Any
    default: Counting = "unknown"  # where no row of the table shows what its numbers mean


def read_choice(row: Row, counting: Counting = "unknown") -> Problem:
    """Reads a question with options; the problem's text has them one a line, with letters, and its answer is a letter.

    Args:
        row: Of any shape.
        counting: What numbers mean in its column of answers.
    """
    parts, options, answer, _ = _shaped(row)
    question = "\n\n".join([*map(plain_text, parts), options.lines])
    letter = LETTERS[right_option(options, answer, counting)]
    return Problem(id=own_id(row), problem=question, answer=ChoiceAnswer(letter, options=options.texts))


def counting_of(rows: Iterable[Row]) -> Counting:
    """What numbers mean as answers of these rows."""
    found = []
    for row in rows:
        if not isinstance(row, Mapping):
            continue
        try:
            choice = _shaped(row)
        except UnusableRowError:
            continue
        found.append(choice)
    default = found[0].default if found else "unknown"
    return how_counted(((choice.options, choice.answer) for choice in found), default)


def _shaped(row: Row) -> _Choice:
    shape = next((shape for column, shape in _SHAPES.items() if row.get(column) is not None), None)
    if shape is None:
        raise UnusableRowError("no options")
    return shape(row)


def _gpqa(row: Row) -> _Choice:
    answers = [row.get(c) for c in ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")]
    # A seed of the row's own: with one seed for all rows the right answer would have the same letter in each.
    order = [0, 1, 2, 3]
    random.Random(own_id(row) or plain_text(row.get("Question"))).shuffle(order)
    options = read_options([answers[i] for i in order], list(LETTERS[:4]))
    return _Choice([row.get("Question")], options, LETTERS[order.index(0)])


def _folio(row: Row) -> _Choice:
    options = ["True", "False", "Uncertain"]
    question = "Based on the above information, is the following statement true, false, or uncertain? "
    parts = [row.get("premises"), question + plain_text(row["conclusion"])]
    return _Choice(parts, read_options(options, options), row.get("label"))


def _big_bench_hard(row: Row) -> _Choice:
    text, _, options = plain_text(row["input"]).partition("\nOptions:\n")
    return _Choice([text, "Which of the following is true?"], read_options(options.splitlines()), row.get("target"))


def _agi_eval(row: Row) -> _Choice:
    context, _, question = plain_text(row["query"]).partition("Answer Choices:")[0].rpartition("Q:")
    options = read_options(first(row, *OPTION_COLUMNS))
    options = Options(options.texts, [str(i) for i in range(len(options.texts))], options.numbers)
    return _Choice([part for part in (context, question) if part], options, row.get("gold"))


def _columns(row: Row) -> _Choice:
    options = []
    for letter in LETTERS:
        option = row.get(letter)
        if option is None or (isinstance(option, str) and not option.strip()):
            break
        options.append(option)
    return _Choice([*context_texts(row), first(row, "question", "problem")], read_options(options), row.get("answer"))


def _options(row: Row) -> _Choice:
    column = next(column for column in OPTION_COLUMNS if row.get(column) is not None)
    answer = next((c for c in ("answer", "answerKey", "label", "answer_index") if row.get(c) is not None), "answer")
    parts = [*context_texts(row), first(row, "question", "problem")]
    return _Choice(parts, read_options(row[column]), row.get(answer), usual_counting(column, answer))


# By a column that only this shape has of those below it.
_SHAPES: dict[str, Callable[[Row], _Choice]] = {
    "Correct Answer": _gpqa,
    "conclusion": _folio,
    "input": _big_bench_hard,
    "query": _agi_eval,
    "options": _options,
    "choices": _options,
    "A": _columns,
}
