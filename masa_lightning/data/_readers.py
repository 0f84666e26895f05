"""One row of a benchmark -> one problem with the kind of answer it has; each reader knows all shapes of its kind.

Shapes are told apart by their columns, so that a reader takes what the hub has and what people have in files.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from string import ascii_uppercase as LETTERS
from typing import Any

from masa_lightning.data._rows import (
    VERL_ANSWER,
    VERL_PROBLEM,
    Row,
    UnusableRowError,
    answer_text,
    find,
    own_id,
    plain_text,
    problem_text,
)
from masa_lightning.types import Problem

_IDS = ("id", "unique_id", "ID", "Record ID", "task_id", "example_id", "problemid", "index")
_TEXT_ONLY = {"modality": "Text-only", "language": "English", "subject": "Math"}  # of all that OlympiadBench has
_MATH_SIGN = re.compile(r"(?<!\\)\$")
_UNIT_IN_BRACKETS = re.compile(r"\s*\([^()]*\)\s*(?=;|$)")
_LETTER = re.compile(r"\(?([A-Z])\s*[).:]\s*")
_SCIBENCH_TOLERANCE = 0.05  # relative; as its authors grade

_Choice = tuple[list[Any], list[Any], list[str], Any]  # parts of the question, options, their labels, the right label


def read_math(row: Row) -> Problem:
    """Reads a problem whose answer is an expression, or several in a list; verl's format, or columns by usual names."""
    for column, expected in _TEXT_ONLY.items():
        if (found := row.get(column)) not in (None, expected):
            raise UnusableRowError(f"{column} is {found}, not {expected}")
    if row.get("reward_model") is not None:
        text, answer = problem_text(row, VERL_PROBLEM), find(row, VERL_ANSWER)
    else:
        text, answer = _joined(row, "context", ("problem", "question")), _first(row, "final_answer", "answer")
    answers = answer if isinstance(answer, list) and answer else [answer]
    plain = ", ".join(_MATH_SIGN.sub("", answer_text(value)).strip() for value in answers)
    return Problem(id=own_id(row, *_IDS), problem=text, answer=plain)


def read_word_problem(row: Row) -> Problem:
    """Reads a problem of ASDiv: a story (`body`) with its question, and an answer like "9 (apples)"."""
    text, answer = _joined(row, "body", ("problem", "question")), answer_text(row.get("answer"))
    return Problem(id=own_id(row, *_IDS), problem=text, answer=_UNIT_IN_BRACKETS.sub("", answer))


def read_number(row: Row) -> Problem:
    """Reads a problem whose answer is a number in a unit, which the text then tells."""
    text = plain_text(_first(row, "problem_text", "problem", "question"))
    written = answer_text(_first(row, "answer_number", "answer"))
    answer = written.replace("\N{MINUS SIGN}", "-").replace(",", "").removeprefix("+")
    try:
        finite = math.isfinite(float(answer))
    except ValueError:
        finite = False
    if not finite:
        raise UnusableRowError("answer is not a number")
    if unit := str(row.get("unit") or "").strip():
        text += f"\n\nGive the answer as a number in units of {unit}."  # which may have a power of ten in it
    metadata = {"tolerance": _SCIBENCH_TOLERANCE}
    return Problem(id=own_id(row, *_IDS), problem=text, answer=answer, answer_type="number", metadata=metadata)


def read_choice(row: Row) -> Problem:
    """Reads a question with options; the problem's text has them one a line, with letters, and its answer is a letter."""
    shape = next((shape for column, shape in _CHOICE_SHAPES.items() if row.get(column) is not None), None)
    if shape is None:
        raise UnusableRowError("no options")
    parts, options, labels, answer = shape(row)
    texts = _without_letters(["" if option is None else str(option).strip() for option in options])
    if not 2 <= len(texts) <= len(LETTERS):
        raise UnusableRowError(f"{len(texts)} options, not 2 to {len(LETTERS)}")
    if not all(texts):
        raise UnusableRowError("an option without text")
    right = str(answer).strip()
    spellings = (right, right.strip("()."))
    place = next((names.index(name) for names in (labels, texts) for name in spellings if name in names), None)
    if place is None:
        raise UnusableRowError("the answer is not among the options")
    lines = "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False))
    question = "\n\n".join([*map(plain_text, parts), lines])
    metadata = {"options": texts}
    return Problem(
        id=own_id(row, *_IDS), problem=question, answer=LETTERS[place], answer_type="choice", metadata=metadata
    )


def read_mbpp(row: Row) -> Problem:
    """Reads a task whose tests are told, for they give the function's name; more tests in `test` stay hidden (MBPP+)."""
    task, told, hidden = plain_text(_first(row, "text", "prompt")), _first(row, "test_list", "test"), row.get("test")
    if not isinstance(told, list) or not told:
        raise UnusableRowError("no list of tests")
    tests = [hidden] if isinstance(hidden, str) else told
    setup = [*(row.get("test_imports") or []), row.get("test_setup_code") or ""]
    return Problem(
        id=own_id(row, *_IDS),
        problem="\n".join([task, "", "Your code should pass these tests:", *told]),
        answer="\n".join([*filter(None, setup), *tests]),
        answer_type="code",
    )


def read_humaneval(row: Row) -> Problem:
    """Reads the head of a function to complete; what stands before it (imports, helpers) is needed by the tests too."""
    prompt, test, name = row.get("prompt"), row.get("test"), row.get("entry_point")
    if not (isinstance(prompt, str) and isinstance(test, str) and isinstance(name, str)):
        raise UnusableRowError("no prompt, test or entry_point")
    return Problem(
        id=own_id(row, *_IDS),
        problem=f"Complete this function:\n\n```python\n{prompt.strip()}\n```",
        answer=f"{test}\ncheck({name})",
        answer_type="code",
        metadata={"preamble": prompt},
    )


def _gpqa(row: Row) -> _Choice:
    answers = [row.get(c) for c in ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")]
    # A seed of the row's own: with one seed for all rows the right answer would have the same letter in each.
    order = [0, 1, 2, 3]
    random.Random(own_id(row, *_IDS) or str(row.get("Question"))).shuffle(order)
    return [row.get("Question")], [answers[i] for i in order], list(LETTERS[:4]), LETTERS[order.index(0)]


def _folio(row: Row) -> _Choice:
    options = ["True", "False", "Uncertain"]
    question = "Based on the above information, is the following statement true, false, or uncertain? "
    return [row.get("premises"), question + plain_text(row["conclusion"])], options, options, row.get("label")


def _big_bench_hard(row: Row) -> _Choice:
    text, _, options = str(row["input"]).partition("\nOptions:\n")
    lines = options.splitlines()
    return [text, "Which of the following is true?"], lines, list(LETTERS[: len(lines)]), row.get("target")


def _agi_eval(row: Row) -> _Choice:
    context, _, question = str(row["query"]).partition("Answer Choices:")[0].rpartition("Q:")
    options, right = row.get("choices") or [], row.get("gold") or [None]
    return [context, question], options, [str(i) for i in range(len(options))], right[0]


def _arc(row: Row) -> _Choice:
    choices = row["choices"]
    if isinstance(choices, list):
        return _options(row)
    return [row.get("question")], choices["text"], choices["label"], row.get("answerKey")


def _columns(row: Row) -> _Choice:
    options = []
    for letter in LETTERS:
        if not row.get(letter):
            break
        options.append(row[letter])
    return [row.get("question")], options, list(LETTERS[: len(options)]), row.get("answer")


def _options(row: Row) -> _Choice:
    options = _first(row, "options", "choices")
    context = _first(row, "context", "passage")
    parts = [part for part in (context, _first(row, "question", "problem")) if part]
    return parts, options, list(LETTERS[: len(options)]), _first(row, "answer", "label")


# By a column that only this shape has of those below it.
_CHOICE_SHAPES: dict[str, Callable[[Row], _Choice]] = {
    "Correct Answer": _gpqa,
    "conclusion": _folio,
    "input": _big_bench_hard,
    "query": _agi_eval,
    "options": _options,
    "choices": _arc,
    "A": _columns,
}


def _without_letters(options: list[str]) -> list[str]:
    """Takes the letters off options that all carry theirs: "A) True", "(B) False"."""
    found = [_LETTER.match(option) for option in options]
    if [match[1] if match else "" for match in found] != list(LETTERS[: len(options)]):
        return options
    return [option[match.end() :] for option, match in zip(options, found, strict=True) if match]


def _first(row: Row, *columns: str) -> Any:
    return next((value for column in columns if (value := row.get(column)) is not None), None)


def _joined(row: Row, before: str, columns: tuple[str, ...]) -> str:
    """The text of the first of some columns, with that of another before it if there is one."""
    text, start = plain_text(_first(row, *columns)), row.get(before)
    return f"{start.strip()}\n\n{text}" if isinstance(start, str) and start.strip() else text
