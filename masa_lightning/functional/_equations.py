r"""Equations in an answer: `x = 5` names its value, `85 + 15 = 100` works it out, `y = 2x + 1` is the answer itself.

Only an `=` outside all brackets counts. A name (`_names`) may stand before the value where the other side has only the
value.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from masa_lightning.functional._chains import is_arithmetic
from masa_lightning.functional._evaluation import Budget
from masa_lightning.functional._levels import split_outside
from masa_lightning.functional._names import is_impossible, is_name, is_quantity
from masa_lightning.functional._quantity import read_number, read_value, split_percent, split_unit
from masa_lightning.functional._spelling import squeeze

SIGN: Final = re.compile(r"=|[<>]|\\(?:leq|geq|neq|approx|equiv|sim|in|notin|to)(?![A-Za-z])")

_ROW: Final = re.compile(r"\\\\(?: ?\[[^\]]*\])?|\\q?quad(?![A-Za-z])|\\newline(?![A-Za-z])")
_ENVIRONMENT: Final = re.compile(
    r"\s*(?:\\left\s*\\\{\s*)?\\begin ?\{(cases|aligned|align\*?|gathered|split|array)\}(?: ?\{[lrc| ]*\})?"
    r"(.*)\\end ?\{\1\}\s*(?:\\right\s*\.)?\s*",
    re.DOTALL,
)
_NUMERIC: Final = re.compile(r"\\(?:frac|sqrt|cdot|times|div|binom|pi|log|ln|ldots|[%$])(?![A-Za-z])")
_DOUBLED: Final = re.compile(
    r"\\\\(?=(?:left|right|d?frac|sqrt|text|infty|pi|cup|leq?|geq?|neq?|cdot|times|circ|mathbb|pm|in|quad)(?![A-Za-z]))"
)
_HAS_NUMBERS_ONLY: Final = re.compile(r"[^A-Za-z\\]*[\d?][^A-Za-z\\]*")
_ROUNDING_COST: Final = 0.02  # seconds at most


def part_equations(text: str) -> str:
    r"""Writes equations in rows or after `\quad` as a list, "a = 7, b = 2". The text need not be normalised."""
    if "\\\\" in text and "\\begin" not in text:
        text = _DOUBLED.sub(lambda _: "\\", text)  # escaped once too often
    if match := _ENVIRONMENT.fullmatch(text):
        text = match[2].replace("&", "")
    elif "\\quad" not in text and "\\qquad" not in text and "\\\\" not in text:
        return text
    rows = [row.rstrip(" ,;.") for row in split_outside(text, _ROW)[0] if row]
    if len(rows) > 1 and all(split_outside(row, SIGN)[1] for row in rows):
        return ", ".join(rows)
    return text


def without_name(predicted: str, expected: str) -> tuple[str, str]:
    """Leaves the values of two answers where one has no more, or both name the same; else both as they are."""
    predicted, expected = _exact_part(predicted), _exact_part(expected)
    mine, truth = (split_outside(text, SIGN) for text in (predicted, expected))
    if any(sign != "=" for sign in mine[1] + truth[1]):
        return predicted, expected
    if mine[1] and truth[1]:
        my_name, my_value = named_value(mine[0], wide=False)
        true_name, true_value = named_value(truth[0], wide=False)
        if my_name and my_name == true_name:
            return my_value, true_value
    elif mine[1]:
        return named_value(mine[0], wide=True)[1] or predicted, expected
    elif truth[1]:
        return predicted, named_value(truth[0], wide=False)[1] or expected
    return predicted, expected


def number_chain(text: str, *, rounded: bool) -> list[str]:
    r"""Returns the numbers that an equation says are equal, without names and units; [] if `read_number` sees it all.

    Args:
        text: Normalised.
        rounded: What follows `\approx` is judged too, to the digits that are written.
    """
    if "=" not in text and not rounded:
        return []
    parts, signs = split_outside(text if rounded else _exact_part(text), SIGN)
    if not set(signs) <= {"=", "\\approx"}:
        return []
    found = [split_unit(part)[0].replace("\\$", "") for part in parts]
    found = [part for part in found if is_arithmetic(part)]
    return found if len(found) > 1 and (rounded or not all(map(read_number, found))) else []


def rounded_value(text: str) -> str:
    r"""Returns the decimal at the end of `10\sqrt5 \approx 22.36`; "" where there is none, or it is another number."""
    parts, signs = split_outside(text, SIGN)
    if "\\approx" not in signs or not set(signs) <= {"=", "\\approx"} or not parts[0]:
        return ""
    return "" if any(_contradict(part, parts[-1]) for part in parts[:-1]) else parts[-1]


def named_value(parts: list[str], *, wide: bool) -> tuple[str, str]:
    """Returns the name and the value of an equation, given its parts; "" for what it does not have.

    Args:
        parts: What its equality signs part.
        wide: As in `is_name`.
    """
    if not all(parts):
        return "", ""
    first, *rest = parts
    if is_name(first, wide=wide) and not is_impossible(first, rest[-1]):
        if len(parts) > 2 and is_quantity(rest[-1]):
            return "", ""
        return squeeze(first), _value(rest)
    if len(parts) == 2 and (is_quantity(rest[0]) or (not wide and is_name(rest[0], wide=False))):
        return squeeze(rest[0]), first
    if all(is_arithmetic(split_unit(part)[0]) or _HAS_NUMBERS_ONLY.fullmatch(_NUMERIC.sub("", part)) for part in parts):
        return "", _value(parts)
    return "", ""


def _value(parts: list[str]) -> str:
    """Returns the value of a chain, "" if its numbers contradict each other. Of 1/3 = 0.33 that is the exact one."""
    numbers = [(part, number) for part in parts if (number := read_number(part))]
    exact = [number for _, number in numbers if not number.decimal]
    values = {number.value / 100 if number.percent else number.value for number in exact}
    if len(values) > 1:
        return ""
    for text, number in numbers:
        value = number.value / 100 if number.percent else number.value
        if number.decimal and values and not _rounds(next(iter(values)), value, text):
            return ""
    if values and numbers[-1][1].decimal:
        return next(text for text, number in numbers if not number.decimal)
    return parts[-1]


def _rounds(exact: Fraction, decimal: Fraction, written: str) -> bool:
    places = len(written.partition(".")[2].rstrip("%\\ "))
    return abs(exact - decimal) <= Fraction(1, 2 * 10**places)


def _exact_part(text: str) -> str:
    r"""Cuts `10\sqrt5 \approx 22.36` before the sign; `x \approx 3.14` says x = 3.14."""
    if "\\approx" not in text:
        return text
    parts, signs = split_outside(text, SIGN)
    if "\\approx" not in signs or any(sign not in ("=", "\\approx") for sign in signs):
        return text
    first = signs.index("\\approx")
    if not parts[0]:
        return " = ".join(parts[1:])
    if first == 0 and is_name(parts[0], wide=True):
        return f"{parts[0]} = {_exact_part(text.partition('approx')[2].strip())}"
    if any(_contradict(parts[first], part) for part in parts[first + 1 :]):
        return text
    return " = ".join(parts[: first + 1])


def _contradict(exact: str, rounded: str) -> bool:
    r"""Is the second no number, or no rounding of the first, `\frac{2}{3} \approx 1.67`?"""
    rounded, percent = split_percent(split_unit(rounded)[0])
    budget = Budget(_ROUNDING_COST)
    value, other = read_value(split_unit(exact)[0], budget), read_value(rounded, budget)
    if value is None or other is None or percent:
        return other is None
    places = len(rounded.partition(".")[2])
    decimal = places and re.fullmatch(r"-?[\d.]+", rounded)  # others are rounded to any digit
    limit = Fraction(1, 10**places) if decimal else abs(value) / 20
    return abs(value - other) > limit
