"""Answers: the one that was meant, or a reason; one row a case."""

import json
import math
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masa_lightning.data._answers import answer_text, number_text
from masa_lightning.data._cells import MissingAnswerError, UnusableRowError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        # numbers
        (1e-05, "0.00001"),
        (1.5e-07, "0.00000015"),
        (-0.0, "0"),
        (2.0**53 - 1, "9007199254740991"),
        (12345678901234567890123, "12345678901234567890123"),
        (0.1, "0.1"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.5), "0.5"),
        (np.float32(16777215.0), "16777215"),
        (Decimal("0.1234567890123456789"), "0.1234567890123456789"),
        (Decimal("1E+30"), "1" + "0" * 30),
        (Decimal("-0.0"), "0"),
        (np.bool_(True), "True"),
        # lists and structs, as such and as text
        (["x"], "x"),
        ([7], "7"),
        ([["x"]], "x"),
        (["2", " 2"], "2"),
        (np.array(["x"]), "x"),
        (r'["\\frac{1}{2}"]', r"\frac{1}{2}"),
        (r'["\frac{1}{2}"]', r"\frac{1}{2}"),
        (r'["\theta", "\theta"]', r"\theta"),
        (r'["\sqrt{2}"]', r"\sqrt{2}"),
        (r"['\\frac12']", r"\frac12"),
        ("['1/2']", "1/2"),
        ('[["1/2"]]', "1/2"),
        ('["\\u00b0"]', "°"),
        ("[7]", "7"),
        ("[1, 2]", "[1, 2]"),  # an interval
        ("[0, 1)", "[0, 1)"),
        ("{Friday}", "{Friday}"),
        ('{"target": "2", "solution": "so"}', "2"),
        ({"target": ["2"]}, "2"),
        # GSM8K
        ("so\n#### 12\nThat is all.", "12"),
        ("so\n#### $1,200\n\nThat is all.", "$1200"),
        ("so\n####\n12\n", "12"),
        ("#### First step\n3+4\n#### 7", "7"),
        ("#### 12\nso\n#### 12", "12"),
        ("##### 5", "##### 5"),
        ("#### 12 apples", "12 apples"),
        ("x = 1\ny = 2", "x = 1\ny = 2"),
        ("1\r\n2", "1\r\n2"),
        (" \t5\t ", "5"),
        ("So it is\nnot 3\tdozen,\nnu\x0c\n#### 12", "12"),
        (r'["x \ne 3"]', r"x \ne 3"),
        (r"['\nu']", r"\nu"),
        (r"#### \frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_what_was_meant(value: Any, text: str) -> None:
    assert answer_text(value) == text


# As JSON has it where nobody doubled the backslash.
SWALLOWED = [
    *(r"\theta", r"\tan x", r"2\tan x", r"\tau", r"x\to 0", r"\top", r"\triangle ABC", r"5\text{ cm}", r"\tilde x"),
    *(r"\tbinom52", r"x \neq 3", r"x\ne3", r"\nu", r"\not 3", r"\notin A", r"\ni", r"\nleq 3", r"\nmid", r"\neg p"),
    *(r"\rho", r"a\rightarrow b", r"\rangle", r"\rfloor", r"\rm cm", r"\beta", r"\binom52", r"\bar x", r"\boxed{5}"),
    *(r"\frac12", r"\forall x", r"\flat", r"\begin{x}"),
    *(
        r"\nRightarrow",
        r"x \nRightarrow y",
        r"\nLeftrightarrow",
        r"\nleftrightarrow",
        r"\nVdash",
        r"\nvDash",
        r"\nshortmid",
    ),
    *(r"\npreceq", r"\nsucceq", r"\ntrianglelefteq", r"\normalsize 1", r"\nicefrac12", r"\norm{x}", r"\nVDash"),
]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2.0**53, r"a float past 2\*\*53, which may stand for another integer"),
        (-1.2345678901234568e22, r"a float past 2\*\*53"),
        (np.float32(2**24), r"a float past 2\*\*24"),
        (np.float16(2**11), r"a float past 2\*\*11"),
        (0.1 + 0.2, "a float with more than 15 digits, so it was rounded"),
        (np.float32(1 / 3), "a float with more than 6 digits"),
        (10**1000, "a number of more than 1000 digits"),
        pytest.param(10**5000, "a number of more than 1000 digits", id="5001 digits"),
        (Decimal("1E+999999999"), "a number of more than 1000 digits"),
        (Decimal("1E-999999999"), "a number of more than 1000 digits"),
        (Decimal("sNaN"), "not a finite number"),
        (np.float32("inf"), "not a finite number"),
        (["1", "2"], "a list of several"),
        ([1, 2], "a list of several"),
        ('["1", "2"]', "a list of several"),
        ([["1"], ["2"]], "a list of several"),
        ('["1"', "a list or struct that cannot be read"),
        ("['1' '2']", "a list or struct that cannot be read"),  # as numpy writes it; Python would read '12'
        ("array(['1'], dtype=object)", "a list or struct that cannot be read"),
        ('{"a": 1}', "struct without 'target'"),
        ({"target": 98, "numbers": [44, 19]}, "struct with 'numbers' beside 'target'"),  # Countdown wants an equation
        ({"target": {"a": 1}}, "struct without 'target'"),
        ("#### 5 so that is all", "text behind the final '####'"),
        ("3+4\n#### about 7", "text behind the final '####'"),
        ("#### 5 and then\nmore", "text behind the final '####'"),
        ("####\nfive\nmore", "text behind the final '####'"),
        ("#### 5\n#### 6", "several final answers"),
        ("#### 5\n#### six", "several final answers"),
        ("\x0crac{1}{2}", "LaTeX whose backslash was read as an escape"),
        *((json.loads(f'"{text}"'), "LaTeX whose backslash was read as an escape") for text in SWALLOWED),
        *((text, "LaTeX whose backslash was read as an escape") for text in ("\alpha", "2\vec x")),
        *((text, "the control character") for text in ("5\x01", "\x7f5", "1\0002", "a\tb")),
        ("\ud800", "not valid Unicode"),
        ('["x \\ne 3", "y"]', "a list of several"),
        ("5\ud800", "not valid Unicode"),
        (b"2", "answer is a bytes"),
        (datetime(2020, 1, 1), "answer is a datetime"),
        ({"a", "b"}, "answer is a set"),
    ],
)
def test_what_nobody_can_know(value: Any, reason: str) -> None:
    with pytest.raises(UnusableRowError, match=reason) as e:
        answer_text(value)
    assert not isinstance(e.value, MissingAnswerError)


@pytest.mark.parametrize(
    "value",
    [
        "None",
        "none",
        "N/A",
        "n/a",
        "nan",
        "NaN",
        "null",
        "[]",
        "[None]",
        [],
        [None],
        "####",
        "?",
        "-",
        "\u2014",
        "\u200b",
        "\0",
    ],
)
def test_no_answer(value: Any) -> None:
    with pytest.raises(MissingAnswerError):
        answer_text(value)


@given(st.integers() | st.decimals(-(10**30), 10**30))
def test_numbers_are_written_in_full(number: int | Decimal) -> None:
    text = number_text(number)
    assert Decimal(text) == number
    assert "e" not in text.lower()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_is_that_number_or_unusable(value: float) -> None:
    assert math.isclose(float(number_text(value, rounded=True)), value, rel_tol=0) or abs(value) < 1e-300
    try:
        text = number_text(value)
    except UnusableRowError:
        assert abs(value) >= 2**53 or len(Decimal(str(value)).as_tuple().digits) > 15
    else:
        assert float(text) == value
