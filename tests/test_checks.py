"""Ranges and kinds of arguments."""

from __future__ import annotations

import re

import pytest

from masa_lightning.checks import check_object
from masa_lightning.protocols import Grader


class HalfAGrader:
    def grade(self, problems, completions, on_progress=None):
        return [True for _ in completions]


def test_an_object_is_told_what_it_lacks() -> None:
    said = "expected an object of Grader, such as AnswerGrader() (it has no close)"
    with pytest.raises(TypeError, match=re.escape(said)):
        check_object("grader", HalfAGrader(), Grader, note="such as AnswerGrader()")


def test_a_class_is_no_object() -> None:
    said = "grader is the class HalfAGrader, not an object of it; expected an object of Grader"
    with pytest.raises(TypeError, match=f"^{re.escape(said)}$"):
        check_object("grader", HalfAGrader, Grader)
