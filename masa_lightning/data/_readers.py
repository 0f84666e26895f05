"""One row of a benchmark -> one problem with the kind of answer it has; each reader knows all shapes of its kind.

Shapes are told apart by their columns, so that a reader takes what the hub has and what people have in files.
"""

from __future__ import annotations

import math
import re

from masa_lightning.data._answers import answer_text
from masa_lightning.data._cells import Row, UnusableRowError, decoded, find, first, is_missing, kind, own_id
from masa_lightning.data._questions import VERL_ANSWER, VERL_PROBLEM, context_texts, plain_text, problem_text
from masa_lightning.types import CodeAnswer, NumberAnswer, Problem

_TEXT_ONLY = {"modality": "Text-only", "language": "English", "subject": "Math"}  # of all that OlympiadBench has
_MATH_SIGN = re.compile(r"(?<!\\)\$")
_UNIT_IN_BRACKETS = re.compile(r"\s*\([^()]*\)\s*(?=;|$)")
_SCIBENCH_TOLERANCE = 0.05  # relative; as its authors grade


def read_math(row: Row, *, several: bool = False) -> Problem:
    """Reads a problem whose answer is an expression; verl's format, or columns by usual names.

    Args:
        row: Of a table.
        several: Whether a list of answers holds those of several questions, all of which are wanted.
    """
    if row.get("reward_model") is not None:
        text, answer = problem_text(row, VERL_PROBLEM), find(row, VERL_ANSWER)
    else:
        text, answer = _question(row), decoded(first(row, "final_answer", "answer"))
    answers = answer if several and isinstance(answer, list) and answer else [answer]
    plain = ", ".join(_MATH_SIGN.sub("", answer_text(value)).strip() for value in answers)
    return Problem(id=own_id(row), problem=text, answer=plain)


def read_olympiad(row: Row) -> Problem:
    """Reads a problem of OlympiadBench, whose list of final answers is wanted as a whole; only English text in maths."""
    for column, expected in _TEXT_ONLY.items():
        found = row.get(column)
        if found is not None and not (isinstance(found, str) and found == expected):
            raise UnusableRowError(f"{column} is {str(found)[:40]}, not {expected}")
    return read_math(row, several=True)


def read_word_problem(row: Row) -> Problem:
    """Reads a problem of ASDiv: a story (`body`) with its question, and an answer like "9 (apples)"."""
    text, answer = _question(row), answer_text(row.get("answer"))
    return Problem(id=own_id(row), problem=text, answer=_UNIT_IN_BRACKETS.sub("", answer))


def read_number(row: Row) -> Problem:
    """Reads a problem whose answer is a number in a unit, which the text then tells."""
    text = plain_text(first(row, "problem_text", "problem", "question"))
    written = answer_text(first(row, "answer_number", "answer"), rounded=True)
    answer = written.replace("\N{MINUS SIGN}", "-").replace(",", "").removeprefix("+")
    try:
        finite = math.isfinite(float(answer))
    except ValueError:
        finite = False
    if not finite:
        raise UnusableRowError("answer is not a number")
    unit = None if is_missing(row.get("unit")) else row["unit"]
    if not isinstance(unit, str | None):
        raise UnusableRowError(f"unit is a {kind(unit)}, not text")
    if unit and (unit := unit.strip()):
        text += f"\n\nGive the answer as a number in units of {unit}."  # which may have a power of ten in it
    return Problem(id=own_id(row), problem=text, answer=NumberAnswer(answer, tolerance=_SCIBENCH_TOLERANCE))


def read_mbpp(row: Row) -> Problem:
    """Reads a task whose tests are told, for they give the function's name; more tests in `test` stay hidden (MBPP+)."""
    task, told, hidden = plain_text(first(row, "text", "prompt")), first(row, "test_list", "test"), row.get("test")
    if not isinstance(told, list) or not told:
        raise UnusableRowError("no list of tests")
    tests = [hidden] if isinstance(hidden, str) else told
    setup = [*(row.get("test_imports") or []), row.get("test_setup_code") or ""]
    return Problem(
        id=own_id(row),
        problem="\n".join([task, "", "Your code should pass these tests:", *told]),
        answer=CodeAnswer("\n".join([*filter(None, setup), *tests])),
    )


def read_humaneval(row: Row) -> Problem:
    """Reads the head of a function to complete; what stands before it (imports, helpers) is needed by the tests too."""
    prompt, test, name = row.get("prompt"), row.get("test"), row.get("entry_point")
    if not (isinstance(prompt, str) and isinstance(test, str) and isinstance(name, str)):
        raise UnusableRowError("no prompt, test or entry_point")
    return Problem(
        id=own_id(row),
        problem=f"Complete this function:\n\n```python\n{prompt.strip()}\n```",
        answer=CodeAnswer(f"{test}\ncheck({name})", preamble=prompt),
    )


def _question(row: Row) -> str:
    """The text of the problem, behind what it is about."""
    return "\n\n".join([*context_texts(row), plain_text(first(row, "problem", "question"))])
