"""The structure of a final answer: lists, intervals and names, down to the values that a leaf check compares."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from masa_lightning.functional._quantity import read_number, split_unit
from masa_lightning.functional._spelling import decimal_comma, squeeze

LeafCheck = Callable[[str, str], bool | None]  # (predicted, expected) -> equal?, None for "cannot tell"

_MAX_ELEMENTS: Final = 64
_OR: Final = re.compile(r"\s*(?:\\(?:text|textrm|mathrm)\s*\{\s*(?:or|and)\s*\}|(?<![\w\\])(?:or|and)(?!\w)|;)\s*")
_THOUSANDS: Final = re.compile(r"(?<![\w.,])\d{1,3}(?:(?:,|\{,\})\d{3})+(?![\w,])")
_NAME: Final = re.compile(
    r"\\text\{[^{}]*\}|(?:\\angle ?)?(?:[A-Za-z]|[A-Z]+|\\[a-z]+|[A-Za-z]{3,})(?:_ ?(?:\{ ?\w+ ?\}|\w))?'?"
    r"(?:\( ?[a-z](?: ?, ?[a-z])* ?\))?"
)
# "(x, y) =" or "x \in" before a list or an interval.
_LIST_NAME: Final = re.compile(
    r"([A-Za-z]|\( ?[A-Za-z](?: ?, ?[A-Za-z])+ ?\)) ?(?:=|\\in(?![a-zA-Z])) ?(?=\(|\[|\\\{|\\mathbb)"
)
_INTERVAL: Final = re.compile(r"[(\[][)\]]")
_PAIRS: Final = {"(": ")]", "[": ")]", "{": "}"}


class Answer(NamedTuple):
    """An answer taken apart: the list signs around it ("" for none) and its elements."""

    opening: str
    closing: str
    elements: tuple[str, ...]


def compare(predicted: str, expected: str, leaf: LeafCheck) -> bool | None:
    """Compares two normalised answers, element by element where they are lists, each without its name.

    Braces and bare lists have no order, parentheses and brackets have one and differ from each other (intervals). A bare
    list equals a list in parentheses of the same order.

    Args:
        predicted: Of the model.
        expected: The ground truth.
        leaf: Compares two elements.

    Returns:
        Equal or not; None if `leaf` could not tell where it mattered.
    """
    if not predicted or not expected:
        return False
    if squeeze(predicted) == squeeze(expected):
        return True
    if (number := read_number(split_unit(expected)[0])) and number.decimal:
        predicted = decimal_comma(predicted) or predicted
    mine_named, truth_named = _LIST_NAME.match(predicted), _LIST_NAME.match(expected)
    if not (mine_named and truth_named and squeeze(mine_named[1]) != squeeze(truth_named[1])):
        predicted, expected = _LIST_NAME.sub("", predicted, 1), _LIST_NAME.sub("", expected, 1)
    verdict: bool | None = False

    def nameless(mine: str, truth: str) -> bool | None:
        return leaf(*without_name(mine, truth))

    for mine in _readings(predicted):
        for truth in _readings(expected):
            one = _compare_lists(mine, truth, nameless)
            if one:
                return True
            verdict = None if one is None else verdict
    return verdict


def _readings(text: str) -> list[Answer]:
    """Commas before three digits may group thousands or part elements, so there can be two readings."""
    grouped = _take_apart(_THOUSANDS.sub(lambda match: re.sub(r"[{},]", "", match[0]), text))
    plain = _take_apart(text)
    if grouped.opening and len(grouped.elements) == 1 and len(plain.elements) > 1:
        return [plain]  # (1,234) is a pair
    return [grouped] if grouped == plain else [grouped, plain]


def _take_apart(text: str) -> Answer:
    text = text.replace("\\{", "\x01").replace("\\}", "\x02").replace("\\lbrace", "\x01").replace("\\rbrace", "\x02")
    opening, closing = text[:1].replace("\x01", "{"), text[-1:].replace("\x02", "}")
    if len(text) > 1 and text[0] != "{" and closing in _PAIRS.get(opening, "") and _closes_at_end(text):
        elements = _split(text[1:-1])
        if len(elements) > 1 or opening == "{" or (opening, closing) == ("(", ")"):
            return Answer(opening if len(elements) > 1 else "", closing if len(elements) > 1 else "", elements)
    return Answer("", "", _split(text))


def _closes_at_end(text: str) -> bool:
    depth = 0
    for index, char in enumerate(text):
        depth += (char in "([{\x01") - (char in ")]}\x02")
        if depth <= 0:
            return index == len(text) - 1
    return False


def _split(text: str) -> tuple[str, ...]:
    text = _OR.sub(",", text)
    elements, depth, start = [], 0, 0
    for index, char in enumerate(text):
        if char == "," and depth == 0:
            elements.append(text[start:index])
            start = index + 1
        depth += (char in "([{\x01") - (char in ")]}\x02")
    elements.append(text[start:])
    if len(elements) > 1 and not elements[-1].strip():
        elements.pop()
    parts = (part.strip().replace("\x01", "\\{").replace("\x02", "\\}") for part in elements)
    return tuple(sign for part in parts for sign in _both_signs(part))


def _both_signs(element: str) -> tuple[str, ...]:
    if len(re.findall(r"\\pm(?![a-zA-Z])", element)) != 1 or "\\mp" in element:
        return (element,)
    head, tail = re.split(r"\\pm(?![a-zA-Z])", element)
    return (f"{head.strip()}+{tail.strip()}".removeprefix("+"), f"{head.strip()}-{tail.strip()}")


def _compare_lists(mine: Answer, truth: Answer, leaf: LeafCheck) -> bool | None:
    if len(mine.elements) != len(truth.elements) or len(mine.elements) > _MAX_ELEMENTS:
        signs = mine.opening + mine.closing, truth.opening + truth.closing
        if any(_INTERVAL.fullmatch(one) and not other for one, other in (signs, signs[::-1])):
            return leaf(_put_together(mine), _put_together(truth))  # (0, 1) and 0 < x < 1
        return False
    if len(mine.elements) == 1:
        return leaf(mine.elements[0], truth.elements[0])
    kinds = {mine.opening + mine.closing, truth.opening + truth.closing}
    if len(kinds) > 1 and kinds not in ({"", "()"}, {"", "{}"}):
        return False
    if kinds & {"()", "[]", "(]", "[)"}:
        verdicts = [leaf(p, e) for p, e in zip(mine.elements, truth.elements, strict=True)]
        return False if False in verdicts else None if None in verdicts else True
    return _match(list(mine.elements), truth.elements, leaf)


def _put_together(answer: Answer) -> str:
    return f"{answer.opening}{', '.join(answer.elements)}{answer.closing}"


def _match(mine: list[str], truth: tuple[str, ...], leaf: LeafCheck) -> bool | None:
    """Pairs elements regardless of order. Where `leaf` cannot tell about an element, neither can this."""
    unsure = False
    for expected in truth:
        verdicts = []
        for index, predicted in enumerate(mine):
            verdicts.append(leaf(predicted, expected))
            if verdicts[-1]:
                del mine[index]
                break
        else:
            if None not in verdicts:
                return False
            unsure = True
    return None if unsure else True


def without_name(predicted: str, expected: str) -> tuple[str, str]:
    """Takes "x =" off where the other side has no equation or names the same; turns "1/2 = 0.5" into its last part."""
    mine, my_name = _value(predicted)
    truth, true_name = _value(expected)
    if my_name is not None and true_name is not None:
        return (mine, truth) if squeeze(my_name) == squeeze(true_name) else (predicted, expected)
    if (my_name is not None and "=" not in expected) or (true_name is not None and "=" not in predicted):
        return mine, truth
    return predicted, expected


def _value(text: str) -> tuple[str, str | None]:
    belongs = re.fullmatch(r"([A-Za-z]) ?\\in(?![a-zA-Z])(.*)", text, re.DOTALL)
    if belongs:
        return belongs[2].strip(), belongs[1]
    parts = [part.strip() for part in re.split(r"(?<![<>!\\])=", text)]
    if len(parts) < 2 or not all(parts):
        return text, None
    if _NAME.fullmatch(parts[0]):
        return (text, None) if _NAME.fullmatch(parts[-1]) and len(parts) > 2 else (parts[-1], parts[0])
    if all(read_number(part) for part in parts):
        return parts[-1], ""
    if len(parts) == 2 and _NAME.fullmatch(parts[1]):
        return parts[0], parts[1]
    return text, None
