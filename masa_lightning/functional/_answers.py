"""One value of a final answer: what of it can be compared without reading it as a formula."""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._letters import lone_letter
from masa_lightning.functional._levels import closes_at_end
from masa_lightning.functional._quantity import read_number, same_number, without_units
from masa_lightning.functional._spelling import squeeze
from masa_lightning.functional._vocabulary import PAIRS_THAT_ARE_WORDS
from masa_lightning.functional.boxes import all_boxes

MAX_ANSWER_CHARS: Final = 2000
BASED: Final = re.compile(
    r"(?P<digits>[0-9A-Z]+)_ ?(?:\{ ?\(? ?(?:(?P<base>\d+)|\\text ?\{ ?(?P<word>[a-z]+) ?\}) ?\)? ?\}|(?P<bare>\d+))"
)
"""A number with its base, `101_2`."""

DATE: Final = re.compile(
    r"\d{4} ?([-/.]) ?\d{1,2} ?\1 ?\d{1,2}|\d{1,2} ?([-/.]) ?\d{1,2} ?\2 ?\d{4}|"
    r"(?=.*(?<!\d)0\d)\d{1,2} ?([-/.]) ?\d{1,2} ?\3 ?\d{2}"
)
"""A day, which is no difference or quotient."""

_BASES: Final = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "twelve": 12,
    "sixteen": 16,
}
_CONGRUENCE: Final = re.compile(
    r"(?:(?P<name>[A-Za-z](?:_ ?(?:\{[^{}]*\}|\w))?) ?\\equiv)? ?(?P<residue>[+-]? ?\d{1,9}) ?"
    r"[({]? ?(?:\\p?mod|\\text ?\{ ?\(? ?mod(?:ulo)?|mod(?:ulo)?)(?![A-Za-z])[ {}]*(?P<modulus>[1-9]\d{0,8})[ )}]*"
)
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z' -]*")
_TEXT: Final = re.compile(r"\\text ?\{ ?([^{}]*?) ?\}")
_SHOUTED: Final = ("yes", "no", "true", "false", "none", "even", "odd")  # words that do not change with their case


def right_parts(answer: str) -> list[str]:
    """Returns what the boxes of a right answer hold, or all of one without boxes; [] if it is longer than any answer."""
    parts = (list(dict.fromkeys(all_boxes(answer))) if "\\" in answer else []) or [answer.strip()]
    return parts if sum(map(len, parts)) <= MAX_ANSWER_CHARS else []


def quick_leaf(predicted: str, expected: str) -> bool | None:
    """Compares numbers, words and choices; None for anything else."""
    if not predicted or not expected:
        return False
    if squeeze(predicted) == squeeze(expected):
        return True
    if "mod" in predicted or "mod" in expected:
        congruent = _same_congruence(predicted, expected)
        if congruent is not None:
            return congruent
    if DATE.fullmatch(predicted) or DATE.fullmatch(expected):
        return False
    values = without_units(predicted, expected)
    if values is None:
        return False
    predicted, expected = values
    if squeeze(predicted) == squeeze(expected):
        return True
    mine, truth = read_number(predicted), read_number(expected)
    if mine and truth:
        return same_number(mine, truth)
    based = BASED.fullmatch(predicted), BASED.fullmatch(expected)
    if any(based):
        return _same_based(predicted, expected, *based)
    if re.fullmatch(r"\(?[A-J]\)?", expected) and (letter := lone_letter(predicted)):
        return letter == expected.strip("()")
    if _is_list_of_one(predicted) != _is_list_of_one(expected):
        return False
    return _same_words(predicted, expected)


def _is_list_of_one(text: str) -> bool:
    return text.startswith("[") and "," not in text and closes_at_end(text)


def _same_congruence(predicted: str, expected: str) -> bool | None:
    r"""Compares `x \equiv 5 \pmod 7` with another; it is no number. None where neither is one with a name."""
    mine, truth = _CONGRUENCE.fullmatch(predicted), _CONGRUENCE.fullmatch(expected)
    known = [squeeze(match["name"]) for match in (mine, truth) if match and match["name"]]
    if mine is None or truth is None:
        return False if known else None
    residues = [int(match["residue"].replace(" ", "")) for match in (mine, truth)]
    same = mine["modulus"] == truth["modulus"] and (residues[0] - residues[1]) % int(mine["modulus"]) == 0
    return same and len(set(known)) < 2


def _same_based(predicted: str, expected: str, mine: re.Match[str] | None, truth: re.Match[str] | None) -> bool | None:
    """A number without a base is to base 10, even where the question says another. None for letters, A_5."""

    def read(text: str, match: re.Match[str] | None) -> tuple[int | None, int | None]:
        try:
            if match is None:
                return int(text), 10
            word = match["word"]
            base = _BASES.get(word) if word else int(match["base"] or match["bare"])
            return int(match["digits"], base or 0), base
        except ValueError:
            return None, None

    a, b = read(predicted, mine), read(expected, truth)
    return None if None in a + b else a == b


def _same_words(predicted: str, expected: str) -> bool | None:
    r"""Compares words; None where an answer is none, or is a product of two letters like `xy`."""
    in_text = [_TEXT.fullmatch(text) for text in (predicted, expected)]
    predicted, expected = (
        match[1] if match else text for match, text in zip(in_text, (predicted, expected), strict=True)
    )
    if not _WORDS.fullmatch(predicted) or not _WORDS.fullmatch(expected):
        return None
    folded = predicted.casefold()
    if max(len(predicted), len(expected)) <= 2 and not any(in_text):
        known = {folded, expected.casefold()} & PAIRS_THAT_ARE_WORDS or (predicted + expected).isupper()
        if not known or len(predicted + expected) < 4:
            return None
    if folded != expected.casefold():
        return False
    shouting = {predicted, expected} == {folded, folded.upper()}  # abc is not ABC
    return not shouting or folded in _SHOUTED
