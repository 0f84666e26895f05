r"""Completion -> right choice? right number? Linear time, and never raises.

As in `grading`, only the last `\boxed{...}` of a completion is its answer, and in doubt it is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

from masa_lightning.functional._answers import MAX_ANSWER_CHARS
from masa_lightning.functional._spelling import normalise, squeeze
from masa_lightning.functional.grading import box_content

_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TEXT: Final = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt)?|math(?:rm|bf|sf|it)|operatorname|mbox)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
)
# "C", "(C)", "C)", "C.", "C:", "Option C", each with the text of the option behind it where something parts the two.
_LETTER: Final = re.compile(
    r"(?:(?:the )?(?:option|choice|answer)(?: is)? ?:? ?)?(?:\( ?([a-z]) ?\)|\[([a-z])\]|([a-z])[).:]|([a-z])$)(.*)",
    re.IGNORECASE | re.DOTALL,
)

_FRACTION: Final = re.compile(
    r"(?<![0-9.}\s])\\frac ?\{ ?([0-9]+) ?\} ?\{ ?([0-9]+) ?\}|^\\frac([0-9])([0-9])(?![0-9])"
)
_THOUSANDS: Final = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+(?![0-9,])")
_NAME: Final = re.compile(r"\\?[A-Za-z]+ ?(?:_ ?(?:\{[^{}]*\}|[A-Za-z0-9]))? ?(?:=|\\approx(?![a-zA-Z])|≈) ?")
_ABOUT: Final = re.compile(r"(?:\\approx|\\sim)(?![a-zA-Z]) ?|≈ ?")
_POWER: Final = r"10 ?\^ ?(?:\{ ?([+-]?[0-9]{1,3}) ?\}|([+-]?[0-9]{1,3}))(?![0-9.])"
_NUMBER: Final = re.compile(
    rf"([+-]?) ?(?:{_POWER}|"
    rf"((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}}(?![0-9.])|(?<=[0-9]) ?/ ?[0-9]+(?![0-9.]))?)"
    rf"(?: ?(?:\\times|\\cdot|[x\u00d7\u00b7*]) ?{_POWER})?)(?![0-9])"
)
_PERCENT: Final = re.compile(r" ?\\?%")
_UNIT_SIGN: Final = re.compile(r"\\(mu|Omega|AA|ell)(?![a-zA-Z])")
_DOT: Final = re.compile(r"\\cdot(?![a-zA-Z])")
_UNIT_WORD: Final = re.compile(r"([A-Za-zµμΩΩÅ]+)(?: ?\^ ?(?:\{ ?[+-]?[0-9] ?\}|[+-]?[0-9])|[+-]?[1-9](?![0-9]))?")
_UNIT_REST: Final = re.compile(r"(?: |/|\*|\u00b7|[().])*")
_ONE_LETTER_UNITS: Final = frozenset("msghldutACDFGHJKLMNPSTVWµμΩΩÅ")
# Words behind a number that change what it says, unlike a unit.
_NO_UNIT_WORDS: Final = (
    "or and to than least most at about more less over under times plus minus squared cubed hundred thousand million "
    "billion trillion dozen percent half third quarter pi sin cos tan log ln exp sqrt mod not no if"
)
_NO_UNIT: Final = frozenset(_NO_UNIT_WORDS.split())


def grade_choice(completion: str, answer: str, options: Sequence[str]) -> bool:
    r"""Decides whether the last box names the right option, by its letter or by its text.

    A box that can be read as two options is wrong, and so is a letter with anything but the text of its option.

    Args:
        completion: Text with the final answer in `\boxed{}` or `\fbox{}`.
        answer: The letter of the right option.
        options: Texts without letters; the letters are A, B, C, ... by place, 26 at most.

    >>> [grade_choice(rf"\boxed{{{box}}}", "B", ["red", "green"]) for box in ("B", "(b) green", "Green", "B. red", "A or B")]
    [True, True, True, False, False]
    """
    letter = answer.strip().strip("().").upper()
    return bool(letter) and chosen_letter(completion, options) == letter


def chosen_letter(completion: str, options: Sequence[str]) -> str | None:
    r"""Returns the letter of the option that the last box names; None if it names none, or can be read as two.

    >>> [chosen_letter(rf"\boxed{{{box}}}", ["red", "green"]) for box in ("(b)", "Green", "C", "A or B")]
    ['B', 'B', None, None]
    """
    box = box_content(completion)
    if not box or len(box) > MAX_ANSWER_CHARS:
        return None
    text = _plain(box)
    texts = [_key(_plain(option)) for option in options[: len(_LETTERS)]]
    named = {index for index, option in enumerate(texts) if option == _key(text)}
    if match := _LETTER.fullmatch(text):
        index = _LETTERS.find(next(group for group in match.groups() if group).upper())
        rest = _key(match[5])
        if index < len(texts) and (not rest or rest == texts[index]):
            named.add(index)
    return _LETTERS[named.pop()] if len(named) == 1 else None


def grade_number(completion: str, answer: str, tolerance: float) -> bool:
    r"""Decides whether the last box holds a number close to the right one.

    A unit may follow and is not compared; a percent sign is either a unit or a hundredth, as in `grading`.

    Args:
        completion: Text with the final answer in `\boxed{}` or `\fbox{}`.
        answer: The right number, as text.
        tolerance: Largest difference relative to the right number, >= 0.

    >>> grade_number(r"\boxed{1.21 \times 10^{3} \text{ J}}", "1200", 0.05), grade_number(r"\boxed{-1200}", "1200", 0.05)
    (True, False)
    """
    box = box_content(completion)
    if not box or max(len(box), len(answer)) > MAX_ANSWER_CHARS or not 0 <= tolerance < math.inf:
        return False
    limit = Fraction(tolerance)
    return any(abs(mine - truth) <= limit * abs(truth) for truth in _numbers(answer) for mine in _numbers(box))


def _plain(text: str) -> str:
    """Takes off text commands, wherever they are, and what never changes the meaning."""
    return normalise(_TEXT.sub(r" \1 ", normalise(text)))


def _key(text: str) -> str:
    return squeeze(" ".join(text.split()).rstrip(".")).casefold()


def _numbers(text: str) -> list[Fraction]:
    """Returns what a number with a unit can mean: nothing, a value, or with a percent sign two of them."""
    text = _THOUSANDS.sub(lambda match: re.sub(r"[{},]", "", match[0]), _plain(text))
    text = _ABOUT.sub("", _NAME.sub("", text, 1) if _NAME.match(text) else text, 1)
    text = _FRACTION.sub(lambda match: f"{match[1] or match[3]}/{match[2] or match[4]}", text)
    match = _NUMBER.match(text)
    if match is None:
        return []
    sign, power_alone, bare_power_alone, digits, power, bare_power = match.groups()
    try:
        value = Fraction((digits or "1").replace(" ", "").rstrip("."))
    except (ValueError, ZeroDivisionError):
        return []
    exponent = power_alone or bare_power_alone or power or bare_power
    value *= Fraction(10) ** int(exponent or 0) * (-1 if sign == "-" else 1)
    rest = text[match.end() :].strip()
    if _PERCENT.fullmatch(rest):
        return [value, value / 100]
    return [value] if _is_unit(rest) else []


def _is_unit(text: str) -> bool:
    text = _DOT.sub("*", _UNIT_SIGN.sub("µ", text))
    words = [match[1] for match in _UNIT_WORD.finditer(text)]
    known = all(word in _ONE_LETTER_UNITS if len(word) == 1 else word.lower() not in _NO_UNIT for word in words)
    rest = _UNIT_WORD.sub("", text)
    return known and len(words) <= 8 and bool(_UNIT_REST.fullmatch(rest)) and (bool(words) or not rest.strip(" ."))
