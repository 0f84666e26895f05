r"""Completion -> right choice? right number? Linear time, and never raises.

As in `grading`, only the last `\boxed{...}` of a completion is its answer, and in doubt it is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Final

from masa_lightning.functional._answers import DATE, MAX_ANSWER_CHARS
from masa_lightning.functional._equations import SIGN
from masa_lightning.functional._evaluation import Budget
from masa_lightning.functional._letters import LETTERS, plain, readings, without_phrase
from masa_lightning.functional._levels import split_outside
from masa_lightning.functional._names import is_name
from masa_lightning.functional._quantity import Number, read_number, read_ratio, read_value, split_percent, split_unit
from masa_lightning.functional._spelling import decimal_comma, join_thousands, normalise, squeeze
from masa_lightning.functional.boxes import last_box

_AROUND: Final = (("(", ")"), ("[", "]"), ('"', '"'), ("'", "'"))
_RANGE: Final = re.compile(r"(?<=[\d.]) ?[-+] ?(?=[\d.])")  # 1200-1300, or unfinished work
_LIST_OF_ONE: Final = re.compile(r"\[.*\]")
_REMARK: Final = re.compile(r"\(? ?(?:the )?(?:correct|right|true)(?: (?:answer|option|choice))? ?\)?", re.IGNORECASE)
_NUMBER_COST: Final = 0.1  # seconds at most


def grade_choice(completion: str, answer: str, options: Sequence[str]) -> bool:
    r"""Decides whether the last box names the right option, by its letter or by its text.

    A box that can be read as two options is wrong, and so is a letter with anything but the text of its option.

    Args:
        completion: Text with the final answer in `\boxed{}` or `\fbox{}`.
        answer: The letter of the right option.
        options: Texts without letters; the letters are A, B, C, ... in their order, 26 at most.

    >>> [grade_choice(rf"\boxed{{{box}}}", "B", ["red", "green"]) for box in ("B", "(b) green", "Green", "B. red", "A or B")]
    [True, True, True, False, False]
    """
    letter = answer.strip().strip("().").upper()
    return letter in LETTERS and chosen_letter(completion, options) == letter


def chosen_letter(completion: str, options: Sequence[str]) -> str | None:
    r"""Returns the letter of the option that the last box names; None if it names none, or can be read as two.

    >>> [chosen_letter(rf"\boxed{{{box}}}", ["red", "green"]) for box in ("(b)", "Green", "C", "A or B")]
    ['B', 'B', None, None]
    """
    box = last_box(completion)
    if not box or len(box) > MAX_ANSWER_CHARS:
        return None
    text = plain(box)
    texts = [_key(plain(option) if len(option) <= MAX_ANSWER_CHARS else option) for option in options[: len(LETTERS)]]
    said = {_key(text), _key(without_phrase(text))}
    named = {index for index, option in enumerate(texts) if option in said}
    if len(named) > 1:  # x and X
        named = {index for index in named if squeeze(plain(options[index])) == squeeze(text)} or named
    for letter, rest in readings(text):
        index = LETTERS.index(letter)
        keys = _keys(rest)
        if index < len(texts) and (
            not rest or texts[index] in keys or (_REMARK.fullmatch(rest) and keys.isdisjoint(texts))
        ):
            named.add(index)
    if not named and (quantity := _quantity(text)):
        named = {index for index, option in enumerate(options[: len(LETTERS)]) if _quantity(plain(option)) == quantity}
    return LETTERS[named.pop()] if len(named) == 1 else None


def grade_number(completion: str, answer: str, tolerance: float) -> bool:
    r"""Decides whether the last box holds a number close to the right one.

    A unit may follow and is not compared. A percent sign is a hundredth where the right number is 1 at most, else a unit.

    Args:
        completion: Text with the final answer in `\boxed{}` or `\fbox{}`.
        answer: The right number, as text.
        tolerance: Largest difference relative to the right number, >= 0.

    >>> grade_number(r"\boxed{1.21 \times 10^{3} \text{ J}}", "1200", 0.05), grade_number(r"\boxed{-1200}", "1200", 0.05)
    (True, False)
    """
    box = last_box(completion)
    if not box or max(len(box), len(answer)) > MAX_ANSWER_CHARS or not 0 <= tolerance < math.inf:
        return False
    limit = Fraction(tolerance)
    truths = _numbers(answer, comma=False)
    mine = _numbers(box, comma="." in answer)
    if len(truths) != 1 or not mine:
        return False
    return all(any(abs(a - b) <= limit * abs(b) for a, b in _meanings(number, truths[0])) for number in mine)


def _key(text: str) -> str:
    return squeeze(" ".join(text.replace("\\%", "%").replace("\\$", "$").split()).rstrip(".")).casefold()


def _quantity(text: str) -> tuple[Number, str] | None:
    """A number as it can be spelled in many ways, with its unit."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    value, unit = split_unit(join_thousands(text), letters=True)
    number = read_number(value)
    return None if number is None else (Number(number.value, number.percent), unit)


def _keys(text: str) -> set[str]:
    """Returns the text as it is, and without quotes or brackets around it."""
    inner = [text[1:-1] for opening, closing in _AROUND if text.startswith(opening) and text.endswith(closing)]
    return {_key(text), *map(_key, inner)}


def _meanings(number: Number, truth: Number) -> Iterator[tuple[Fraction, Fraction]]:
    """Yields pairs of values to compare; without a percent sign a number may be a percentage, or the hundredth of one."""
    hundredths = number.percent and not truth.percent and abs(truth.value) <= 1
    yield number.value / 100 if hundredths else number.value, truth.value
    if truth.percent and not number.percent:
        yield number.value, truth.value / 100


def _numbers(text: str, *, comma: bool) -> list[Number]:
    """Returns the value of each part of "x = 1/3 = 0.333"; [] if one is no number."""
    parts, signs = split_outside(normalise(text), SIGN)
    if not {"=", "\\approx", "\\sim"}.issuperset(signs):
        return []
    if signs and (not parts[0] or is_name(parts[0], wide=True)):
        del parts[0]
    found = [_one_number(part, comma, worked_out=number < len(parts)) for number, part in enumerate(parts, 1)]
    return [] if None in found else [number for number in found if number]


def _one_number(text: str, comma: bool, worked_out: bool) -> Number | None:
    """Reads one value; before an equality sign it may be worked out, `1.5+1`."""
    text = join_thousands((decimal_comma(text) if comma else None) or text)
    text, percent = split_percent(split_unit(text, letters=True)[0])
    unfinished = not worked_out and "\\" not in text and _RANGE.search(re.sub(r"\{[^{}]*\}|\([^()]*\)", "()", text))
    if unfinished or DATE.fullmatch(text) or _LIST_OF_ONE.fullmatch(text):
        return None
    if ratio := read_ratio(text):
        text = ratio
    value = read_value(text, Budget(_NUMBER_COST))
    return None if value is None else Number(value, percent)
