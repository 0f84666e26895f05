r"""Words and symbols of units: which there are, which are the same, and how a product of them is read.

A word is a unit if it is in the table, or looks like an English noun: four letters or more with a vowel and no pair of
letters that English lacks (`abcd` and `wxyz` are products of letters), or one of the usual nouns of three letters. Words
that change what a number says are none.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import Final

from masa_lightning.functional._singular import singular
from masa_lightning.functional._vocabulary import (
    BARE_PAIRS,
    COMPOUNDS,
    NO_UNITS,
    POWER_WORDS,
    RAISED_WORDS,
    SAME_IN_PLURAL,
    SHORT_NOUNS,
    SYMBOLS,
    UNIT_LETTERS,
    UNIT_NAMES,
    UNITS,
    UPRIGHT_LETTERS,
)

_COUNTS: Final = re.compile(
    r"[a-z]+illion(?:th)?|(?:thir|four|fif|six|seven|eigh|nine)teen(?:th)?|[a-z]+tieth|eleventh|twelfth"
)
# Letters that follow a, b, c, ... in English words.
_FOLLOWERS_TEXT: Final = (
    "abcdefghijklmnopqrstuvwxyz abeijlorstuy acehiklorstuy adegijlmnorsuvwy abcdefghiklmnopqrstuvwxyz aefilorstuy "
    "aeghilmnorsuy aeilmnorstuwy abcdefghijklmnopqrstuvxz aeiou aefhiklmnostuwy abcdefgiklmnoprstuvwyz abefilmnopsuy "
    "acdefghijklmnoqstuvxyz abcdefghijklmnoprstuvwxyz aehilmnoprstuy u abcdefghijklmnopqrstuvwxy abcefghiklmnopqstuwy "
    "acefhilmnorstuwyz abcdefgiklmnopqrstuvxyz aeioy abdefhiklnorsty acehimopstuwy abcdefgilmnoprstuwz aeiloyz"
)
_FOLLOWERS: Final = dict(zip("abcdefghijklmnopqrstuvwxyz", _FOLLOWERS_TEXT.split(), strict=True))
_PIECE: Final = re.compile(
    r"(?P<upright>\x01?)(?P<word>[A-Za-zµμΩΩÅ]+(?:\.[A-Za-z]+)*\.?|[€£¥₹¢°$])|\^ ?(?:\{ ?(?P<power>[+-]?[1-9]) ?\}|"
    r"(?P<bare_power>[+-]?[1-9]))|(?P<digit>(?<=[A-Za-z])[+-]?[1-9](?!\d))|(?P<sign>[/*()])|(?P<space> +|-)"
)


def is_word(word: str) -> bool:
    """Does this look like an English noun, in lower case or with a capital?

    >>> [is_word(word) for word in ("apples", "ways", "cup", "daps", "xy", "abc", "abcd", "wxyz", "million")]
    [True, True, True, True, False, False, False, False, False]
    """
    low = word.lower()
    if word[1:] != low[1:] or not (low.isascii() and low.isalpha()):
        return False
    if low in NO_UNITS or singular(low) in NO_UNITS or _COUNTS.fullmatch(singular(low)):
        return False
    if len(low) < 4:
        return low in SHORT_NOUNS
    vowels = any(letter in "aeiou" for letter in low) or "y" in low[1:]
    return len(low) <= 20 and vowels and all(b in _FOLLOWERS[a] for a, b in pairwise(low))


def counts_things(word: str) -> bool:
    """Is this a unit of the table, or a word that stands behind numbers other than one?

    >>> [counts_things(word) for word in ("cm", "dollars", "marbles", "fish", "Monday", "apple")]
    [True, True, True, True, False, False]
    """
    low = word.lower()
    return singular(low) != low or low in SAME_IN_PLURAL or _symbol(word, upright=True, letters=True) is not None


def _symbol(word: str, *, upright: bool, letters: bool) -> dict[str, int] | None:
    """Reads a symbol or a name of the table: the units in it with their powers; None if it is not there.

    Args:
        word: Without its full stop.
        upright: In a text command.
        letters: Bare symbols of one letter count too.
    """
    if word in COMPOUNDS or word.lower() in COMPOUNDS:
        return COMPOUNDS[word.lower()]
    word = word.replace("μ", "µ").replace("Ω", "Ω")
    if len(word) == 1 and word not in (UNIT_LETTERS if letters else UPRIGHT_LETTERS if upright else "€£¥₹¢°$Ω"):
        return None
    if len(word) == 2 and not upright and not letters and word not in BARE_PAIRS:
        return None
    name = SYMBOLS.get(word)
    if name is None and len(word) > 2:
        low = singular(word.lower())
        name = UNIT_NAMES.get(low) or UNIT_NAMES.get(word.lower()) or (low if low in UNITS else None)
        name = name or (SYMBOLS.get(word.lower()) if word.isupper() else None)
    return {name: 1} if name else None


def read_unit(text: str, *, letters: bool = False) -> str:
    r"""Reads a whole text as a unit, and writes it so that equal ones are equal texts; "" if it is none.

    Args:
        text: Words in a text command have \x01 before them.
        letters: Bare symbols of one letter count.

    >>> read_unit("\x01km / \x01hr"), read_unit("miles per hour"), read_unit("square feet"), read_unit("xy")
    ('hour^-1 kilometer', 'hour^-1 mile', 'foot^2', '')
    """
    powers: Counter[str] = Counter()
    last: dict[str, int] = {}
    sign, in_group, raise_next, position, words, named = 1, False, 1, 0, 0, False
    letters = letters or ("/" in text and text.lstrip(" (")[:1] != "/")  # 5 m/s, not 5/s
    while position < len(text):
        match = _PIECE.match(text, position)
        if match is None:
            return ""
        position = match.end()
        if match["sign"]:
            if match["sign"] == "/":
                sign = -1
            elif match["sign"] == "(":
                in_group = True
            elif match["sign"] == ")":
                sign, in_group = 1, False
            continue
        if match["space"]:
            continue
        if power := match["power"] or match["bare_power"] or match["digit"]:
            if not last or (match["digit"] and not letters):
                return ""
            _raise(powers, last, int(power))
            last = {}
            continue
        word, upright = match["word"].replace(".", ""), bool(match["upright"])
        low = word.lower()
        words += 1
        if word == "US":
            continue
        if low == "per":
            sign = -1
        elif low == "of" and powers:
            named = True
        elif low in RAISED_WORDS and last:
            _raise(powers, last, RAISED_WORDS[low])
            last = {}
        elif low in POWER_WORDS:
            raise_next = POWER_WORDS[low]
        else:
            found = _symbol(word, upright=upright, letters=letters)
            if found is None and is_word(word):
                found = {singular(low): 1}
            if found is None or words > 8:
                return ""
            last = {} if named else {name: power * sign * raise_next for name, power in found.items()}
            powers.update(last)
            raise_next = 1
            sign = sign if in_group else 1
    names = (name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items()) if power)
    return " ".join(names)


def _raise(powers: Counter[str], last: dict[str, int], power: int) -> None:
    for name, once in last.items():
        powers[name] += once * (power - 1)
