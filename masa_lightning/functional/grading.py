r"""Completion, answer -> correct? Box, spelling, structure, value: one step a file.

Only the last `\boxed{...}` of a completion is its answer. What numbers, words, choices and lists of them can decide is
decided at once; formulas and sets of numbers are read whole or not at all, and compared exactly (`_equality`). In doubt
an answer is wrong. Conventions: a percent sign is either a unit or a hundredth ("10%" equals "10" and "0.1"), a unit may
be missing but not differ, "x = 5" equals "5", and a decimal equals what it is the rounding of, to 6 places or more.

The reader of formulas is our own. math-verify, which was here before, drops what it cannot read and falls back on the last
number of a text, rounds exact numbers, ignores units and the case of letters, and has no bound on its work: each of these
rewarded wrong answers, and the checks against them were as long as a reader. Numbers of any precision are mpmath's.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from typing import Final

from masa_lightning.functional._answers import MAX_ANSWER_CHARS, quick_leaf, right_parts
from masa_lightning.functional._chains import holds
from masa_lightning.functional._equality import same_formula, same_zeros
from masa_lightning.functional._equations import SIGN
from masa_lightning.functional._evaluation import Budget
from masa_lightning.functional._formula import Node, Unreadable, read_formula
from masa_lightning.functional._levels import split_outside
from masa_lightning.functional._quantity import Number, is_rounded, read_number, read_value, without_units
from masa_lightning.functional._regions import FLIPPED, MARK, same_region
from masa_lightning.functional._spelling import normalise
from masa_lightning.functional._structure import compare, part_equations
from masa_lightning.functional.boxes import last_box

_COMPARISON_COST: Final = 2e-4  # seconds, to read the texts
_DECIMAL: Final = re.compile(r"\d\.\d")


def grade(completion: str, answer: str) -> bool:
    r"""Decides whether the last box of a completion holds the answer. Never raises.

    It ends within about 2 s, whatever the texts are: the work is counted before it is done. For many completions
    `grading.math_grader.MathGrader` uses several processes.

    Args:
        completion: Text with the final answer in `\boxed{}` or `\fbox{}`.
        answer: The ground truth, as text, boxed or not.

    >>> grade(r"so \boxed{33.0}", "33"), grade(r"so \boxed{34}", "33"), grade("so 33", "33")
    (True, False, False)
    """
    quick = quick_verdict(completion, answer)
    return checked_verdict(completion, answer) if quick is None else quick


def quick_verdict(completion: str, answer: str) -> bool | None:
    r"""Decides what needs no formula to be read, in linear time; None for the rest. Never raises.

    >>> quick_verdict(r"\boxed{1,234}", "1234"), quick_verdict(r"\boxed{\sqrt{4}}", "2")
    (True, None)
    """
    return quick_box_verdict(last_box(completion), answer)


def checked_verdict(completion: str, answer: str) -> bool:
    r"""Decides all, formulas too. Never raises.

    >>> checked_verdict(r"\boxed{\sqrt{4}}", "2")
    True
    """
    return checked_box_verdict(last_box(completion), answer)


def quick_box_verdict(box: str | None, answer: str) -> bool | None:
    """`quick_verdict` on what `last_box` returned."""
    if not box or len(box) > MAX_ANSWER_CHARS:
        return False
    if box.strip() == answer.strip():
        return True
    expected = _expected(answer)
    if expected is None:
        return False
    predicted = _answer(box)
    if len(expected) > MAX_ANSWER_CHARS:
        return predicted == expected
    try:
        return compare(predicted, expected, quick_leaf)
    except (RecursionError, ValueError, OverflowError):
        return False


def checked_box_verdict(box: str | None, answer: str) -> bool:
    """`checked_verdict` on what `last_box` returned."""
    quick = quick_box_verdict(box, answer)
    if quick is not None or box is None:
        return bool(quick)
    try:
        return bool(compare(_answer(box), _expected(answer) or "", partial(_checked_leaf, budget=Budget())))
    except (RecursionError, ValueError, ArithmeticError):
        return False


def _answer(box: str) -> str:
    return normalise(part_equations(box))


def _expected(answer: str) -> str | None:
    """Several boxes are a list of all they hold. None for what is longer than any answer."""
    boxes = right_parts(answer)
    return ", ".join(map(_answer, boxes)) if boxes else None


def _checked_leaf(predicted: str, expected: str, budget: Budget) -> bool:
    quick = quick_leaf(predicted, expected)
    if quick is not None:
        return quick
    budget.charge(_COMPARISON_COST)
    values = without_units(predicted, expected)
    if values is None:
        return False
    predicted, expected = values
    if MARK.search(predicted) or MARK.search(expected):
        region = same_region(predicted, expected, budget)
        if region is not None:
            return region
    rounded = [(read_number(a), b) for a, b in ((predicted, expected), (expected, predicted))]
    if any(_is_rounded(number, other, budget) for number, other in rounded):
        return True
    mine, truth = (split_outside(text, SIGN) for text in (predicted, expected))
    try:
        if set(mine[1]) == {"="} and mine[0][-1:] == truth[0]:
            return holds(mine[0], budget)
        if mine[1] or truth[1]:
            return _same_relation(*mine, *truth, budget)
        return same_formula(_formula(predicted), _formula(expected), budget)
    except Unreadable:
        return False


def _same_relation(sides: list[str], signs: list[str], others: list[str], wanted: list[str], budget: Budget) -> bool:
    """Compares equations and inequalities: one may be a multiple of the other, or be written from right to left."""
    if len(signs) == len(wanted) == 1:
        sign = same_zeros((_formula(sides[0]), _formula(sides[1])), (_formula(others[0]), _formula(others[1])), budget)
        seen = signs[0] if sign > 0 else FLIPPED.get(signs[0], signs[0])
        return bool(sign) and seen == wanted[0] and wanted[0] in FLIPPED
    backwards = [FLIPPED.get(sign, sign) for sign in reversed(signs)]
    for parts, order in ((sides, signs), (sides[::-1], backwards)):
        if order == wanted and all(
            same_formula(_formula(p), _formula(e), budget) for p, e in zip(parts, others, strict=True)
        ):
            return True
    return False


def _is_rounded(number: Number | None, formula: str, budget: Budget) -> bool:
    """Is the number a decimal that a formula without decimals is rounded to?"""
    if number is None or not number.decimal or _DECIMAL.search(formula):
        return False
    value = read_value(formula, budget)
    return value is not None and is_rounded(number, value)


@lru_cache(maxsize=256)
def _formula(text: str) -> Node:
    return read_formula(text)
