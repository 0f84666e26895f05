"""Whether a right answer can be met by another spelling of it, or by its own text alone."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from masa_lightning.functional._answers import BASED, DATE, MAX_ANSWER_CHARS, right_parts
from masa_lightning.functional._equations import SIGN, part_equations
from masa_lightning.functional._evaluation import Budget
from masa_lightning.functional._formula import Unreadable, read_formula
from masa_lightning.functional._levels import split_outside
from masa_lightning.functional._quantity import read_number, split_unit
from masa_lightning.functional._regions import MARK, same_region
from masa_lightning.functional._spelling import normalise
from masa_lightning.functional._structure import readings

_VALUE: Final = re.compile(r"[\d\\^=<>]")
_TEXT_COMMAND: Final = re.compile(r"\\text ?\{([^{}]*)\}")
_WORDS: Final = re.compile(r"[A-Za-z]{4,}|[A-Za-z]{2,} [A-Za-z]{2,}")
_COMMAND: Final = re.compile(r"\\[A-Za-z]+")
_COLON: Final = re.compile(":")


@lru_cache(maxsize=2**16)  # data sets repeat their answers
def is_readable(answer: str) -> bool:
    r"""Whether `grade` reads an answer as words, or as numbers and formulas; of others it knows nothing but the text.

    Args:
        answer: A ground truth, boxed or not.

    >>> is_readable("7 apples"), is_readable(r"\frac{1}{2}"), is_readable("no solution"), is_readable("about 7")
    (True, True, True, False)
    """
    boxes = right_parts(answer)
    for box in boxes:
        text = normalise(part_equations(box))
        if len(text) > MAX_ANSWER_CHARS:
            return False
        try:
            if not (_is_region(text) or any(all(map(_is_value, elements)) for elements in readings(text))):
                return False
        except (RecursionError, ValueError, ArithmeticError):
            return False
    return bool(boxes)


def _is_region(text: str) -> bool:
    return bool(MARK.search(text)) and same_region(text, text, Budget()) is not None


def _is_value(text: str) -> bool:
    if not _has_value(text):
        return True  # words
    text = split_unit(text)[0]
    if read_number(text) or BASED.fullmatch(text) or DATE.fullmatch(text) or _is_region(text):
        return True
    if any(len(elements) > 1 and all(map(_is_value, elements)) for elements in readings(text)):
        return True  # a point among points
    sides, signs = split_outside(text, SIGN)
    if signs:
        return all(side and (not _has_value(side) or _is_formula(side)) for side in sides)
    return all(map(_is_formula, split_outside(text, _COLON)[0]))  # a ratio


def _has_value(text: str) -> bool:
    return bool(_VALUE.search(_TEXT_COMMAND.sub(r"\1", text)))


def _is_formula(text: str) -> bool:
    text = split_unit(text)[0]
    if _WORDS.search(_COMMAND.sub(" ", text)):
        return False  # letters that are read as a product
    try:
        read_formula(text)
    except Unreadable:
        return False
    return True
