"""The answer of a row as text: read right, or unusable with a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from masa_lightning.data._cells import (
    MissingAnswerError,
    UnusableRowError,
    decoded,
    kind,
    looks_written,
    valid_text,
    valid_unicode,
)
from masa_lightning.functional.readable import is_readable

_MOST_DIGITS = 1000  # of a number that is written in full
_NO_ANSWER = {"none", "null", "nan", "n/a", "<na>", "nat", "[]", "{}", "[none]", "[null]", "[nan]", "proof", "notfound"}
_NO_ANSWER |= {"?", "??", "???", "-", "--", "---", "...", "\N{HORIZONTAL ELLIPSIS}", "\N{EN DASH}", "\N{EM DASH}"}
_PROGRAM = re.compile(r"(?:assert\s|def\s+\w+\s*\(|import\s+\w+\s|from\s+[\w.]+\s+import\s|class\s+\w+\s*[:(])")
_FINAL = re.compile(r"(?<!#)####(?!#)([^\n]*)")  # as GSM8K marks a final answer
_NUMBER = re.compile(r"[-+]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?")
_LISTED_NUMBER = re.compile(r"\[\s*([-+]?\d+(?:\.\d+)?)\s*\]")  # [7]; two numbers are an interval or a point
_GROUPED_NUMBER = re.compile(r"-?\$?\d{1,3}(,\d{3})+(\.\d+)?")
_VERL_FIELDS = {"target", "solution", "question"}


def answer_text(value: Any, *, rounded: bool = False) -> str:
    r"""The answer as text: 204.0 -> "204"; of a GSM8K solution what follows the final "####".

    A list stands for its one element, whether it is a list or the text of one.

    Args:
        value: Of the answer's cell.
        rounded: Whether a number that was rounded to a float will do, because it is compared within a tolerance.

    Raises:
        MissingAnswerError: If there is none.
        UnusableRowError: If what is there is not one answer, or not the one that was meant.

    >>> answer_text(204.0), answer_text(0.00001), answer_text("3 * 24 = 72\n#### 1,072"), answer_text('["x + 1"]')
    ('204', '0.00001', '1072', 'x + 1')
    """
    value = _one(decoded(value))
    if value is None:
        raise MissingAnswerError("no answer")
    if isinstance(value, bool | int | float | Decimal | np.number | np.bool_):
        return number_text(value, rounded=rounded)
    if not isinstance(value, str):
        raise UnusableRowError(f"answer is a {kind(value)}, not text or a number")
    if looks_written(value):
        raise UnusableRowError("answer is a list or struct that cannot be read")
    final = _final(valid_unicode(value, "answer"))
    if not any(map(str.isprintable, final.strip())):  # such as a zero-width space
        raise MissingAnswerError("empty answer")
    text = valid_text(final, "answer").strip()
    if text.casefold() in _NO_ANSWER:
        raise MissingAnswerError(f"answer is not a number or expression, but {text!r}")
    if _PROGRAM.match(text):
        raise UnusableRowError("answer is a program or its tests, in a column of answers in mathematics")
    listed = _LISTED_NUMBER.fullmatch(text)
    return listed[1] if listed else text


def number_text(value: Any, *, rounded: bool = False) -> str:
    """A number in full, without an exponent: as it was written, or by the fewest digits that give the float.

    Args:
        value: An int, float or decimal number, or one of numpy's; a bool is "True" or "False".
        rounded: Whether a float may stand for a number that it cannot hold.

    Raises:
        UnusableRowError: If it is not finite, too long to be written, or a float that does not say which number was
            meant: an integer past 2**53 (float64), or all the digits that a float has.

    >>> number_text(1e-05), number_text(-0.0), number_text(Decimal("12.50")), number_text(np.float32(0.1))
    ('0.00001', '0', '12.50', '0.1')
    """
    if isinstance(value, np.generic) and not isinstance(value, np.floating):
        value = value.item()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        if abs(value) >= 10**_MOST_DIGITS:
            raise UnusableRowError(f"answer is a number of more than {_MOST_DIGITS} digits")
        return str(value)
    if isinstance(value, float | np.floating):
        number = Decimal(str(value))
        if number.is_finite() and not rounded:
            _check_exact(value, number)
    elif isinstance(value, Decimal):
        number = value
    else:
        raise UnusableRowError(f"answer is a {kind(value)}, not text or a number")
    if not number.is_finite():
        raise UnusableRowError("answer is not a finite number")
    if not number:
        return "0"
    if number.adjusted() >= _MOST_DIGITS or -int(number.as_tuple().exponent) >= _MOST_DIGITS:
        raise UnusableRowError(f"answer is a number of more than {_MOST_DIGITS} digits")
    return str(int(number)) if number == int(number) else format(number, "f")


def _check_exact(value: float | np.floating[Any], number: Decimal) -> None:
    info = np.finfo(type(value) if isinstance(value, np.floating) else np.float64)
    if number == int(number):
        bits = info.nmant + 1
        if abs(number) >= 2**bits:
            raise UnusableRowError(f"answer is a float past 2**{bits}, which may stand for another integer")
    elif len(number.normalize().as_tuple().digits) > info.precision:
        raise UnusableRowError(f"answer is a float with more than {info.precision} digits, so it was rounded")


def _one(value: Any) -> Any:
    """The one value of lists and of verl's struct {"target": ..., "solution": ..., "question": ...}."""
    while isinstance(value, list | Mapping):
        if isinstance(value, list):
            nested = any(isinstance(decoded(part), list | Mapping) for part in value)
            if len(value) > 1 and (nested or len({answer_text(part) for part in value}) > 1):
                raise UnusableRowError("answer is a list of several: whether one or all of them are right is not known")
            if not value:
                raise MissingAnswerError("answer is a list without elements")
            value = value[0]
        elif "target" not in value:
            raise UnusableRowError("answer is a struct without 'target'")
        elif others := [
            k for k, v in value.items() if k not in _VERL_FIELDS and isinstance(decoded(v), list | Mapping)
        ]:
            raise UnusableRowError(f"answer is a struct with {others[0]!r} beside 'target'")
        else:
            value = value["target"]
        value = decoded(value)
    return value


def _final(text: str) -> str:
    """What is behind the final "####" of a text; all of it without one."""
    marked = [*_FINAL.finditer(text)]
    if not marked:
        return text
    final, behind = marked[-1][1].strip(), text[marked[-1].end() :].strip()
    if not final:  # it may be on the next line
        final, behind = behind, ""
        if final and not _NUMBER.fullmatch(final):
            raise UnusableRowError("text behind the final '####'")
    numbers = {_ungrouped(m[1].strip()) for m in marked if _NUMBER.fullmatch(m[1].strip())}
    if not _NUMBER.fullmatch(final) and (behind or not is_readable(final)):
        raise UnusableRowError("text behind the final '####'")
    if len(numbers | {_ungrouped(final)}) > 1 and numbers:
        raise UnusableRowError("several final answers behind '####'")
    return _ungrouped(final)


def _ungrouped(text: str) -> str:
    return text.replace(",", "") if _GROUPED_NUMBER.fullmatch(text) else text
