"""One value of a final answer as text: its spelling, and what can be compared without a maths checker."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final, NamedTuple

MAX_ANSWER_CHARS: Final = 2000
_WHOLE_TEXT: Final = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|rm)\s*\{([^{}]*)\}")
_SIZE: Final = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle)(?![a-zA-Z])\s*")
_SPACE: Final = re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|\s")
_DEGREE: Final = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})(?![a-zA-Z])|\\degree(?![a-zA-Z])|°")
_THIN_THOUSANDS: Final = re.compile(r"(?<![\w.,])\d{1,3}(?:\\[,!]\d{3})+(?![\w,\\])")
_LOOSE_SPACE: Final = re.compile(r"(?<!\d) | (?!\d)")

_DECIMAL: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?")
_SLASH: Final = re.compile(r"([+-]?\d+) ?/ ?(\d+)")
_FRAC: Final = re.compile(r"([+-]?)\\frac ?(?:\{ ?([+-]?\d+) ?\}|(\d)) ?(?:\{ ?(\d+) ?\}|(\d))")
_MIXED: Final = re.compile(r"([+-]?)(\d+) (\d+) ?/ ?(\d+)|([+-]?)(\d+) ?\\frac ?(?:\{(\d+)\}|(\d)) ?(?:\{(\d+)\}|(\d))")
_REPEATING: Final = re.compile(r"([+-]?)(\d*)\.(\d*)\\overline ?(?:\{ ?(\d+) ?\}|(\d))")
_BASED: Final = re.compile(r"([0-9A-Z]+)_ ?(?:\{ ?(\d+) ?\}|(\d+))")
_PERCENT: Final = re.compile(r" ?\\?%$")
_TEXT_UNIT: Final = re.compile(
    r" ?\\(?:text|textrm|mbox|mathrm|rm)\s*\{([^{}]*)\} ?(\^ ?(?:\{ ?[23] ?\}|[23]))?$"  # \text{ cm}^2
    r"|(?<=\d) ([A-Za-z]{2,}(?: [A-Za-z]{2,}){0,2})(\^ ?(?:\{ ?[23] ?\}|[23]))?$"  # 5 cm
)
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z' -]*")
_CHOICE: Final = re.compile(
    r"\\text(?:bf|rm)?\{ ?\(([A-J])\) ?\} ?[^(]*|\(([A-Ja-j])\)(?: ?[^ (].*)?|([A-Ja-j])[.:)](?: .*)?|([A-Ja-j])",
    re.DOTALL,
)
# Words after a number that change what it says, unlike a unit.
_NO_UNIT_WORDS: Final = (
    "or and more less fewer not no than least most at base mod modulo if when for except about approximately over under "
    "million billion trillion thousand hundred dozen pairs half halves third thirds quarter percent to the of is per "
    "squared cubed by times minus plus remainder none"
)
_NO_UNIT: Final = frozenset(_NO_UNIT_WORDS.split())
_SHOUTED: Final = ("yes", "no", "true", "false", "none", "even", "odd")  # words that do not change with their case


def normalise(text: str) -> str:
    """Removes what never changes the meaning of an answer: dollars, spacing and size commands, text around all of it."""
    text = text.strip().replace("\\$", "").replace("$", "").replace("\\!", "").replace("\u2212", "-")
    for opening, closing in (("\\(", "\\)"), ("\\[", "\\]")):
        if text.startswith(opening) and text.endswith(closing):
            text = text[2:-2]
    text = _THIN_THOUSANDS.sub(lambda match: re.sub(r"\\[,!]", "", match[0]), text)
    text = _DEGREE.sub("", _SIZE.sub("", text))
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("\\cfrac", "\\frac")
    text = " ".join(_SPACE.sub(" ", text).split())
    while whole := _WHOLE_TEXT.fullmatch(text):
        text = whole[1].strip()
    return re.sub(r"(?<![.\\])\.$", "", text).strip()


def quick_leaf(predicted: str, expected: str) -> bool | None:
    """Compares numbers, words and choices; None for anything else."""
    if not predicted or not expected:
        return False
    if squeeze(predicted) == squeeze(expected):
        return True
    units = split_unit(predicted), split_unit(expected)
    (predicted, my_unit), (expected, true_unit) = units
    if my_unit and true_unit and my_unit != true_unit:
        return False
    mine, truth = read_number(predicted), read_number(expected)
    if mine and truth:
        return _sameread_number(mine, truth)
    based = _BASED.fullmatch(predicted), _BASED.fullmatch(expected)
    if any(based):
        return _same_based(predicted, expected, *based)
    if re.fullmatch(r"\(?[A-J]\)?", expected) and (choice := _CHOICE.fullmatch(predicted)):
        return next(group for group in choice.groups() if group).upper() == expected.strip("()")
    if _WORDS.fullmatch(predicted) and _WORDS.fullmatch(expected) and max(len(predicted), len(expected)) > 2:
        return _same_words(predicted, expected)
    return None


def split_unit(text: str) -> tuple[str, str]:
    """Splits "5 cm" into value and unit; the unit is "" if there is none or it might change the value."""
    match = _TEXT_UNIT.search(text)
    if match is None or match.start() == 0:
        return text, ""
    words = (match[1] or match[3] or "").lower().replace(".", " ").split()
    named = all(re.fullmatch(r"[a-z/]+", word) and word not in _NO_UNIT for word in words)
    if not words or len(words) > 3 or not named:
        return text, ""
    power = (match[2] or match[4] or "").strip("^ {}")
    return text[: match.start()].strip(), " ".join(word.rstrip("s") or word for word in words) + power


def squeeze(text: str) -> str:
    """Removes spaces, but for those between digits."""
    return _LOOSE_SPACE.sub("", text)


class Number(NamedTuple):
    """A rational number, and what its spelling says: is it a percentage, is it a (perhaps rounded) decimal?"""

    value: Fraction
    percent: bool
    decimal: bool


def read_number(text: str) -> Number | None:
    """Reads a whole number, a fraction or a decimal of any spelling; None if the text is none."""
    bare = _PERCENT.sub("", text)
    percent = bare != text
    bare = re.sub(r"^([+-]) ", r"\1", bare)
    try:
        if _DECIMAL.fullmatch(bare):
            return Number(Fraction(bare.removesuffix(".")), percent, "." in bare)
        if match := _SLASH.fullmatch(bare):
            return Number(Fraction(int(match[1]), int(match[2])), percent, False)
        if match := _FRAC.fullmatch(bare):
            value = Fraction(int(match[2] or match[3]), int(match[4] or match[5]))
            return Number(-value if match[1] == "-" else value, percent, False)
        if match := _MIXED.fullmatch(bare):
            sign, whole, *parts = [group for group in match.groups() if group is not None]
            value = int(whole) + Fraction(int(parts[0]), int(parts[1]))
            return Number(-value if sign == "-" else value, percent, False)
        if match := _REPEATING.fullmatch(bare):
            period = match[4] or match[5]
            once, whole = int(f"{match[2]}{match[3]}{period}"), int(f"0{match[2]}{match[3]}")
            value = Fraction(once - whole, 10 ** len(match[3]) * (10 ** len(period) - 1))
            return Number(-value if match[1] == "-" else value, percent, False)
    except (ValueError, ZeroDivisionError):
        return None
    return None


def _sameread_number(mine: Number, truth: Number) -> bool | None:
    if mine.value == truth.value:  # "10%" and "10" too: the question says whether the answer is in percent
        return True
    my_value, true_value = (n.value / 100 if n.percent else n.value for n in (mine, truth))
    if my_value == true_value:
        return True
    rounded = any(a.decimal and not b.decimal and b.value.denominator > 1 for a, b in ((mine, truth), (truth, mine)))
    return None if rounded else False  # 0.33333333 and 1/3: the maths checker knows how close is close


def _same_based(predicted: str, expected: str, mine: re.Match[str] | None, truth: re.Match[str] | None) -> bool:
    def value(text: str, match: re.Match[str] | None) -> int | None:
        try:
            return int(match[1], int(match[2] or match[3])) if match else int(text)
        except ValueError:
            return None

    if mine is None and truth is not None and predicted == truth[1]:
        return True  # the question said which base
    a, b = value(predicted, mine), value(expected, truth)
    same_base = mine is not None and truth is not None and (mine[2] or mine[3]) == (truth[2] or truth[3])
    ten = mine is not None and truth is None and (mine[2] or mine[3]) == "10"
    return a is not None and a == b and (same_base or ten)


def _same_words(predicted: str, expected: str) -> bool:
    folded = predicted.casefold()
    if folded != expected.casefold():
        return False
    shouting = {predicted, expected} == {folded, folded.upper()}  # abc is not ABC
    return not shouting or folded in _SHOUTED
