from __future__ import annotations

import copy
import json
import pickle
from dataclasses import replace
from typing import Any

import pytest
from lightning_utilities.core.apply_func import apply_to_collection

from masa_lightning.types import Answer, ChoiceAnswer, CodeAnswer, MathAnswer, NumberAnswer, Problem

ANSWERS = [
    MathAnswer("1/2"),
    NumberAnswer("2.5", tolerance=0.01),
    ChoiceAnswer("B", options=["4", "5"]),
    CodeAnswer("assert f(1) == 1", preamble="import math"),
]


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
    ],
)
def test_what_cannot_be_graded_is_refused_when_it_is_made(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
