"""One value of a final answer: what of it can be compared without reading it as a formula."""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._letters import lone_letter
from masa_lightning.functional._quantity import read_number, same_number, without_units
from masa_lightning.functional._spelling import squeeze
from masa_lightning.functional.boxes import all_boxes

MAX_ANSWER_CHARS: Final = 2000
_BASED: Final = re.compile(r"([0-9A-Z]+)_ ?(?:\{ ?(\d+) ?\}|(\d+))")
_WORDS: Final = re.compile(r"[A-Za-z][A-Za-z' -]*")
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
    values = without_units(predicted, expected)
    if values is None:
        return False
    predicted, expected = values
    if squeeze(predicted) == squeeze(expected):
        return True
    mine, truth = read_number(predicted), read_number(expected)
    if mine and truth:
        return same_number(mine, truth)
    based = _BASED.fullmatch(predicted), _BASED.fullmatch(expected)
    if any(based):
        return _same_based(predicted, expected, *based)
    if re.fullmatch(r"\(?[A-J]\)?", expected) and (letter := lone_letter(predicted)):
        return letter == expected.strip("()")
    if _WORDS.fullmatch(predicted) and _WORDS.fullmatch(expected) and max(len(predicted), len(expected)) > 2:
        return _same_words(predicted, expected)
    return None


def _same_based(predicted: str, expected: str, mine: re.Match[str] | None, truth: re.Match[str] | None) -> bool:
    def value(text: str, match: re.Match[str] | None) -> int | None:
        try:
            return int(match[1], int(match[2] or match[3])) if match else int(text)
        except ValueError:
            return None

    a, b = value(predicted, mine), value(expected, truth)
    if mine is None and truth is not None and predicted == truth[1]:
        return b is not None  # the question said which base; A_5 has none
    same_base = mine is not None and truth is not None and (mine[2] or mine[3]) == (truth[2] or truth[3])
    ten = mine is not None and truth is None and (mine[2] or mine[3]) == "10"
    return a is not None and a == b and (same_base or ten)


def _same_words(predicted: str, expected: str) -> bool:
    folded = predicted.casefold()
    if folded != expected.casefold():
        return False
    shouting = {predicted, expected} == {folded, folded.upper()}  # abc is not ABC
    return not shouting or folded in _SHOUTED
