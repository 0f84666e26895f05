r"""Completion, answer -> correct? The one room here that may use a maths checker (math-verify, imported when needed).

Only the last `\boxed{...}` of a completion is its answer. What numbers, words, choices and lists of them can decide is
decided here; the rest goes to math-verify, behind checks for the liberties it takes (it ignores units, the case of
letters, number bases and words, reads `1 1/2` as 1, takes equations without solutions as equal, and rounds 1e-7 to 0). In
doubt an answer is wrong. Conventions: a percent sign is either a unit or a hundredth ("10%" equals "10" and "0.1"), a
unit may be missing but not differ, "x = 5" equals "5", and rounded decimals equal exact values to 6 places.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from masa_lightning.functional._answers import MAX_ANSWER_CHARS, quick_leaf
from masa_lightning.functional._boxes import last_box
from masa_lightning.functional._quantity import split_unit
from masa_lightning.functional._spelling import normalise
from masa_lightning.functional._structure import compare

# Where either side has one of these, math-verify drops or misreads a part of it.
_MISREAD: Final = re.compile(
    r"\\(?:[lcvd]?dots[a-z]?|approx|sim|simeq|cong|equiv|[pb]?mod|star|neg|not|neq?|to|mapsto|implies|cancel|text\w*|mbox)"
    r"(?![a-zA-Z])|['?#&:]|\.\.\.|…|≈|≠|\d ?_|(?<!_)\d +\d|(?<!_)\d +\\frac|\\\\"
)
_MATRIX: Final = re.compile(r"\\begin\{[pbBv]matrix\}.*?\\end\{[pbBv]matrix\}", re.DOTALL)
_RELATION: Final = re.compile(r"[<>]|\\(?:[lg]eq?|[lg]t|leqslant|geqslant)(?![a-zA-Z])|[≤≥]")
_COMMAND: Final = re.compile(r"\\[a-zA-Z]+")
_TOO_BIG: Final = re.compile(r"\^ ?\{? ?-?\d{6,}|\d{5,} ?!")
_EXACT_TOLERANCE: Final = 1e-30
_DECIMAL_TOLERANCE: Final = 1e-6


def grade(completion: str, answer: str) -> bool:
    r"""Decides whether the last box of a completion holds the answer. Never raises.

    There is no time limit: a hostile expression can keep the maths checker busy for hours. Use `modules.grader.MathGrader`
    for completions of a model.

    Args:
        completion: Text with the final answer in `\boxed{}` or `\fbox{}`.
        answer: The ground truth, as text, boxed or not.

    >>> grade(r"so \boxed{33.0}", "33"), grade(r"so \boxed{34}", "33"), grade("so 33", "33")
    (True, False, False)
    """
    quick = quick_verdict(completion, answer)
    return checked_verdict(completion, answer) if quick is None else quick


def quick_verdict(completion: str, answer: str) -> bool | None:
    r"""Decides what needs no maths checker, in linear time; None for the rest. Never raises.

    >>> quick_verdict(r"\boxed{1,234}", "1234"), quick_verdict(r"\boxed{\sqrt{4}}", "2")
    (True, None)
    """
    return quick_box_verdict(box_content(completion), answer)


def checked_verdict(completion: str, answer: str) -> bool:
    r"""Decides with the maths checker. Never raises, but may take for ever: run it where it can be killed.

    >>> checked_verdict(r"\boxed{\sqrt{4}}", "2")
    True
    """
    return checked_box_verdict(box_content(completion), answer)


def box_content(completion: str) -> str | None:
    """Returns what the last box holds, as written; None without a closed box."""
    return last_box(completion)


def quick_box_verdict(box: str | None, answer: str) -> bool | None:
    """`quick_verdict` on what `box_content` returned."""
    if not box or len(box) > MAX_ANSWER_CHARS:
        return False
    predicted, expected = normalise(box), _expected(answer)
    if len(expected) > MAX_ANSWER_CHARS:
        return predicted == expected
    try:
        return compare(predicted, expected, quick_leaf)
    except (RecursionError, ValueError, OverflowError):
        return False


def checked_box_verdict(box: str | None, answer: str) -> bool:
    """`checked_verdict` on what `box_content` returned."""
    quick = quick_box_verdict(box, answer)
    if quick is not None or box is None:
        return bool(quick)
    try:
        return bool(compare(normalise(box), _expected(answer), _checked_leaf))
    except Exception:  # sympy and its parsers raise anything on what is no mathematics: not shown to be right
        return False


def _expected(answer: str) -> str:
    box = last_box(answer) if "\\" in answer else None
    return normalise(answer if box is None else box)


def _checked_leaf(predicted: str, expected: str) -> bool:
    quick = quick_leaf(predicted, expected)
    if quick is not None:
        return quick
    predicted, expected = (split_unit(text)[0] for text in (predicted, expected))
    both = (predicted, expected)
    if any(_MISREAD.search(_MATRIX.sub(_without_grid, text)) or _TOO_BIG.search(text) for text in both):
        return False
    relations = [bool(_RELATION.search(text)) for text in both]
    intervals = [text[0] in "([" or "\\cup" in text or "\\mathbb" in text for text in both]
    if relations[0] != relations[1] and not (relations[0] and intervals[1]) and not (relations[1] and intervals[0]):
        return False
    letters = set("".join(_COMMAND.sub("", text) for text in both))
    if any(letter.isupper() and letter.lower() in letters for letter in letters - {"R"}):
        return False  # math-verify takes a and A for the same
    mine, truth = _parse(predicted), _parse(expected)
    return mine is not None and truth is not None and _same_value(mine, truth)


def _without_grid(matrix: re.Match[str]) -> str:
    return matrix[0].replace("&", ",").replace("\\\\", ",")


def _libraries() -> tuple[Any, Any]:
    return import_module("math_verify"), import_module("sympy")


@lru_cache(maxsize=256)
def _parse(text: str) -> Any:
    """Returns a sympy object; None if there is none or it has no value."""
    math_verify, sympy = _libraries()
    extended: Any = import_module("latex2sympy2_extended")
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its own timeouts are off
    normalisation = extended.NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="all", equations=False
    )
    config = math_verify.LatexExtractionConfig(boxed_match_priority=0, normalization_config=normalisation)
    # Without its timeouts, which use signal.alarm and so work in a main thread only.
    found = math_verify.parse(rf"\boxed{{{text}}}", [config], fallback_mode="no_fallback", parsing_timeout=None)
    if not found or not isinstance(found[0], sympy.Basic | sympy.MatrixBase):
        return None
    if isinstance(found[0], sympy.Basic) and found[0].has(sympy.nan, sympy.zoo):
        return None
    return found[0]


def _same_value(mine: Any, truth: Any) -> bool:
    math_verify, sympy = _libraries()
    if isinstance(mine, sympy.Eq) and isinstance(truth, sympy.Eq):
        return _same_equation(mine, truth)
    if isinstance(mine, sympy.Eq) or isinstance(truth, sympy.Eq):
        return False
    # strict: variables have names; relations against sets: x < 2 is (-oo, 2).
    options = {"float_rounding": 6, "numeric_precision": 15, "strict": True, "allow_set_relation_comp": True}
    if not math_verify.verify(truth, mine, timeout_seconds=None, **options):
        return False
    if not (getattr(mine, "is_number", False) and getattr(truth, "is_number", False)):
        return True
    # math-verify rounds to decimal places, so that all small numbers are equal: look at the relative difference.
    a, b = (sympy.N(value.doit(), 50) for value in (mine, truth))
    if a == b:
        return True
    size = max(abs(a), abs(b))
    tolerance = _DECIMAL_TOLERANCE if mine.has(sympy.Float) or truth.has(sympy.Float) else _EXACT_TOLERANCE
    return bool(size <= 1e-40 or abs(a - b) <= tolerance * size)


def _same_equation(mine: Any, truth: Any) -> bool:
    """Is one equation a multiple of the other?"""
    a, b = mine.lhs - mine.rhs, truth.lhs - truth.rhs
    if a.free_symbols != b.free_symbols or not a.free_symbols:
        return False
    ratio = _libraries()[1].simplify(a / b)
    return bool(ratio.is_number and ratio.is_finite and not ratio.is_zero)
