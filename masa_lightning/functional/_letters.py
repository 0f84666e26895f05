r"""The letter of an option, in all its usual spellings: `(B)`, `B. green`, `\textbf{(B)}`, `Option B`, `The answer is B`."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from masa_lightning.functional._spelling import normalise
from masa_lightning.functional._vocabulary import TEXT

LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_SAID: Final = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?"
    r"(?:(?:(?:the|my|final|correct|right|best|true) )*(?:answer|ans|option|choice|letter)(?: is| would be)? ?(?:=|:|-)? ?|"
    r"(?:i (?:choose|pick|select)|it is|it's) |答案 ?(?:是|为)? ?:? ?)",
    re.IGNORECASE | re.ASCII,
)
_SAID_BEHIND: Final = re.compile(
    r" is (?:(?:the )?(?:correct|right|best|true)(?: (?:answer|option|choice))?|the (?:answer|option|choice))$",
    re.IGNORECASE | re.ASCII,
)
_FIRM: Final = re.compile(
    r"(?:\(+ ?([A-Za-z])[.:]? ?\)+|\[ ?([A-Za-z]) ?\]|\\?\{ ?([A-Za-z]) ?\\?\}|<([A-Za-z])>|([A-Za-z]) ?[).:\]])"
    r"(?: ?[.:,;-])* ?"
)
_LOOSE: Final = re.compile(r"([A-Za-z])(?:(?: ?(?:[,;=|/-]|\\\\|\\to\b))* |(?: ?[,;=|/-])+|(?=[(\[]|$))", re.ASCII)
_BEHIND: Final = re.compile(r"(.*\S) ?(?:\(([A-Za-z])\)|\[([A-Za-z])\])", re.DOTALL)
_OTHER_LETTER: Final = re.compile(
    r"[(\[][A-Ja-j][)\]]|(?<![A-Za-z])(?:or|and|not|nor)(?![A-Za-z])|^[A-Ja-j](?![A-Za-z])"
)
_BEFORE: Final = re.compile(r"(?:\\text ?\{ ?\(?[A-J][).:]\)? ?\}|\( ?\\text ?\{ ?[A-J] ?\} ?\)) ?(?=[^ .,;])")
_ONE_LETTER: Final = re.compile(r"(?:\\text ?\{)?[ (]*[A-Ja-j][ ).:]*\}?[ ).:]*")


def plain(text: str) -> str:
    """Takes off text commands, wherever they are, and what never changes the meaning."""
    text = normalise(TEXT.sub(r" \1 ", normalise(text)))
    text = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(text.replace("**", "").replace("°", "").split())


def without_phrase(text: str) -> str:
    """Takes off what only says that an answer follows or was given, "The answer is option B"."""
    for _ in range(3):
        text = _SAID.sub("", text, count=1) if _SAID.match(text) else text
    return _SAID_BEHIND.sub("", text)


def readings(text: str) -> list[tuple[str, str]]:
    """Returns what a plain text can be read as: letters, each with the rest of the text, which has to fit it.

    >>> readings("Option (b) green"), readings("green (B)"), readings("B"), readings("blue")
    ([('B', 'green')], [('B', 'green')], [('B', '')], [])
    """
    found = []
    text = without_phrase(text)
    match = _FIRM.match(text) or _LOOSE.match(text)
    if match:
        found.append((_letter(match), text[match.end() :]))
    if match := _BEHIND.fullmatch(text):
        found.append(((match[2] or match[3]).upper(), match[1].rstrip(" ,:;-")))
    return found


def lone_letter(text: str) -> str | None:
    r"""Reads a normalised text as one option whose text is not known; None if it is anything else.

    >>> lone_letter(r"\text{(B) }5"), lone_letter("B. seven"), lone_letter("(A) or (B)"), lone_letter("B + 1")
    ('B', 'B', None, None)
    """
    text = plain(text)
    text = without_phrase(text)
    match = _FIRM.match(text)
    if match is None:
        return text.upper() if len(text) == 1 and text.isascii() and text.isalpha() else None
    rest = text[match.end() :]
    return None if _OTHER_LETTER.search(rest) else _letter(match)


def without_letter(predicted: str, expected: str) -> tuple[str, str]:
    r"""Takes off the letter of an option before its value, `\text{(A) } 5`, where one of two texts has it."""
    mine, truth = _BEFORE.match(predicted), _BEFORE.match(expected)
    if mine and not truth and not _ONE_LETTER.fullmatch(expected):
        return predicted[mine.end() :], expected
    if truth and not mine and not _ONE_LETTER.fullmatch(predicted):
        return predicted, expected[truth.end() :]
    return predicted, expected


def _letter(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group).upper()
