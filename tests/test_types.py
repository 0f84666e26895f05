from __future__ import annotations

import copy
import json
import pickle
import re
from dataclasses import replace
from typing import Any, Self

import pytest
from lightning_utilities.core.apply_func import apply_to_collection

from masa_lightning.types import Answer, ChoiceAnswer, CodeAnswer, MathAnswer, NumberAnswer, Problem

ANSWERS = [
    MathAnswer("1/2"),
    NumberAnswer("2.5", tolerance=0.01),
    ChoiceAnswer("B", options=["4", "5"]),
    CodeAnswer("assert f(1) == 1", preamble="import math"),
]


class Level(NumberAnswer):
    """A user's class that declares nothing of its own, one that does, and one that takes any attribute."""

    __slots__ = ()


class Unit(NumberAnswer):
    __slots__ = ("unit",)

    def __new__(cls, text: str, *, tolerance: float, unit: str) -> Self:
        answer = super().__new__(cls, text, tolerance=tolerance)
        answer.unit = unit
        return answer


class Free(ChoiceAnswer):
    pass


def problem(answer: Any, **others: Any) -> Problem:
    return Problem(id="1", problem="?", answer=answer, **others)


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.kind)
def test_an_answer_is_its_text(answer: Answer) -> None:
    text = str(answer)
    assert type(text) is str and answer == text and text == answer and hash(answer) == hash(text)
    assert f"{answer}" == text and answer.strip() == text and {text: 1}[answer] == 1
    assert json.loads(json.dumps({"answer": answer})) == {"answer": text}
    assert (answer != text, answer != text + "0") == (False, True)
    assert {answer, text} == {text}  # counted as one


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.kind)
def test_copies_between_processes_and_batches_are_the_same(answer: Answer) -> None:
    given = problem(answer, metadata={"level": 3})
    moved = apply_to_collection([given], dtype=int, function=lambda value: value)[0]  # as Lightning moves a batch
    for other in (pickle.loads(pickle.dumps(given)), copy.deepcopy(given), replace(given), moved):
        assert type(other.answer) is type(answer) and repr(other) == repr(given) and other == given
        assert other.answer_type == answer.kind


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_all_protocols_keep_what_an_answer_has(protocol: int) -> None:
    free = Free("A", options=["x"])
    free.note = "mine"
    for answer in (*ANSWERS, Level("2", tolerance=0.1), Unit("2", tolerance=0.1, unit="km"), free):
        for other in (pickle.loads(pickle.dumps(answer, protocol)), copy.deepcopy(answer), copy.copy(answer)):
            assert type(other) is type(answer) and repr(other) == repr(answer)
            assert getattr(other, "note", "") == getattr(answer, "note", "")
    assert repr(Unit("2", tolerance=0.1, unit="km")) == "Unit('2', tolerance=0.1, unit='km')"


def test_numbers_in_all_spellings_that_are_graded() -> None:
    for text in ("2.5", r"\pi", r"2\pi", "e", "-e", r"\sqrt2", "\N{GREEK SMALL LETTER PI}/2", "1.5e3", r"\frac12", ""):
        assert NumberAnswer(text, tolerance=0.1) == text
    for text in ("1,234", "1,234,567.5", r"1{,}234", r"1\,234", r"\sqrt[3]{2}", r"2\;\text{m}", "x=5"):
        assert NumberAnswer(text, tolerance=0.1) == text
    assert problem(42).answer == "42" and problem(12345678901234567890).answer == "12345678901234567890"


def test_a_plain_text_is_mathematics() -> None:
    assert isinstance(problem("42").answer, MathAnswer)
    assert repr(problem("42")) == "Problem(id='1', problem='?', answer='42', source='', metadata={})"
    given = problem("42")
    given.answer = "43"
    assert given.answer_type == "math"


def test_a_row_of_plain_values_makes_the_same_problem() -> None:
    row = {"id": "1", "problem": "?", "answer": "B", "answer_type": "choice", "metadata": {"options": ["4", "5"]}}
    made = Problem(**json.loads(json.dumps(row)))
    assert repr(made) == repr(problem(ANSWERS[2], metadata={"options": ["4", "5"]}))
    assert problem("1", answer_type="number", metadata={"tolerance": 0}).answer.tolerance == 0
    assert repr(problem("t", answer_type="code").answer) == "CodeAnswer('t', preamble='')"
    assert problem("t", answer_type="code", metadata={"preamble": "p"}).answer.preamble == "p"
    assert problem(ANSWERS[1], answer_type="number").answer is ANSWERS[1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: problem("1", answer_type="essay"),
            r"problem '1' has the answer_type 'essay'; expected 'math', .* or 'code'",
        ),
        (
            lambda: problem("1", answer_type="number"),
            r"no 'tolerance' .* found \[\]; expected answer=NumberAnswer\(...\)",
        ),
        (
            lambda: problem("A", answer_type="choice", metadata={"options": "xy"}),
            "problem '1': options is 'xy'; expected a list",
        ),
        (
            lambda: problem(ANSWERS[1], answer_type="choice"),
            "has a NumberAnswer and the answer_type 'choice'; give one",
        ),
        (lambda: NumberAnswer("1", tolerance=-0.1), "tolerance is -0.1"),
        (lambda: NumberAnswer("1", tolerance=float("nan")), "tolerance is nan"),
        (
            lambda: ChoiceAnswer("C", options=["x", "y"]),
            "the answer is 'C' and there are 2 options; expected one of A, B",
        ),
        (lambda: ChoiceAnswer("A", options={"A": "x"}), "options is {'A': 'x'}; expected a list"),
        (lambda: ChoiceAnswer("", options=[]), r"options is \[\]"),
        *(
            (lambda make=make, text=text: make(text), rf"the answer is {re.escape(repr(text))}; expected a text")
            for make in (
                problem,
                MathAnswer,
                CodeAnswer,
                lambda text: NumberAnswer(text, tolerance=0.1),
                lambda text: ChoiceAnswer(text, options=["x", "y"]),
            )
            for text in (None, b"2", ["2"], {"2"}, 2.5, True)
        ),
        *(
            (lambda text=text: NumberAnswer(text, tolerance=0.1), f"the answer is '{text}', which holds no number")
            for text in ("abc", "nan", "inf", "one", "text", "B")
        ),
        *(
            (
                lambda text=text: NumberAnswer(text, tolerance=0.1),
                "which holds several, or a ratio or time; expected one",
            )
            for text in ("[5]", "10:30", "1,2", "(1,2)", "1 or 2", "1, 2", "0,5", "3 to 1", "1;2")
        ),
        (lambda: ChoiceAnswer(2, options=["x", "y"]), "the answer is 2 and there are 2 options"),
        (lambda: CodeAnswer("assert f()", preamble=None), "preamble is None; expected Python as a text"),
    ],
)
def test_what_cannot_be_graded_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
