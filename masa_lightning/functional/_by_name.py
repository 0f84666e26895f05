r"""Values with names: `x = 1, y = 2` and `(x, y) = (1, 2)` are matched by name, whatever their order.

Where one side has no names, single letters stand in the order of the alphabet, other names as they are written. Only a right
answer may name its point in another order, `(y, x) = (2, 1)`: the question has said so.
"""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._equations import is_name
from masa_lightning.functional._levels import closes_at_end, split_outside
from masa_lightning.functional._spelling import squeeze

_LETTERS: Final = r"\( ?[A-Za-z](?: ?, ?[A-Za-z])+ ?\)"
_LIST_NAME: Final = re.compile(  # "(x, y) =" or "x \in" before a list or an interval
    r"([A-Za-z](?:_ ?(?:\{ ?\w+ ?\}|\w)|[A-Z]| ?\^ ?\{? ?(?:-1|T|\d) ?\}?)?|"
    rf"\\(?:vec|hat|overrightarrow) ?(?:\{{[^{{}}=]*\}}|\w)|{_LETTERS}) ?"
    r"(?:=|\\in(?![a-zA-Z])) ?(?=\(|\[|\\\{|\\mathbb|\\begin)"
)
_EQUALS: Final = re.compile("=")
_COMMA: Final = re.compile(",")
_INDEX: Final = re.compile(r"(?<=[A-Za-z]) ?_ ?(?:\{[^{}]*\}|\w)$")


def without_list_names(predicted: str, expected: str) -> tuple[str, str]:
    """Takes off the names of lists; where these are points of other names, they become values with names."""
    mine, truth = _LIST_NAME.match(predicted), _LIST_NAME.match(expected)
    if mine and truth:
        if squeeze(mine[1]) == squeeze(truth[1]):
            return predicted[mine.end() :], expected[truth.end() :]
        return _spread(predicted), _spread(expected)
    if truth:
        spread = _spread(expected) if split_outside(predicted, _EQUALS)[1] else expected
        return predicted, expected[truth.end() :] if spread == expected else spread
    if mine:
        names = [name.strip() for name in mine[1].strip("() ").split(",")]
        if len(names) < 2 or (names == _alphabetical(names) and not split_outside(expected, _EQUALS)[1]):
            return predicted[mine.end() :], expected
        return _spread(predicted), expected
    return predicted, expected


def without_list_name(text: str) -> str:
    """Takes off the name of a list."""
    match = _LIST_NAME.match(text)
    return text[match.end() :] if match else text


def name_of(element: str) -> str:
    """Returns what stands before the equality sign of an element, without an index, if it is a name; "" if not."""
    parts, signs = split_outside(element, _EQUALS)
    name = parts[0]
    return squeeze(_INDEX.sub("", name)) if signs and is_name(name, wide=False) else ""


def pairs_by_name(mine: tuple[str, ...], truth: tuple[str, ...]) -> list[tuple[str, str]] | None:
    """Pairs the elements of two lists of one length; None where names say nothing about it."""
    my_names, true_names = _names(mine), _names(truth)
    if my_names and true_names:
        if set(my_names) != set(true_names):
            return None
        named = dict(zip(my_names, mine, strict=True))
        return [(named[name], element) for name, element in zip(true_names, truth, strict=True)]
    if my_names and not any(map(name_of, truth)):
        mine = _in_order(my_names, mine)
    elif true_names and not any(map(name_of, mine)):
        truth = _in_order(true_names, truth)
    else:
        return None
    return list(zip(mine, truth, strict=True))


def _names(elements: tuple[str, ...]) -> list[str]:
    """The names of elements that have one each, all different; [] if not."""
    names = [name_of(element) for element in elements]
    return names if all(names) and len(set(names)) == len(names) > 1 else []


def _in_order(names: list[str], elements: tuple[str, ...]) -> tuple[str, ...]:
    named = dict(zip(names, elements, strict=True))
    return tuple(named[name] for name in _alphabetical(names))


def _alphabetical(names: list[str]) -> list[str]:
    single = all(re.fullmatch("[a-z]", name) for name in names) or all(re.fullmatch("[A-Z]", name) for name in names)
    return sorted(names) if single else names


def _spread(text: str) -> str:
    """Writes `(x,y) = (1,2)` as `x = 1, y = 2`; any other text as it is."""
    parts, _ = split_outside(text, _EQUALS)
    if len(parts) != 2 or not re.fullmatch(_LETTERS, parts[0]) or not closes_at_end(parts[1]):
        return text
    names, values = parts[0][1:-1].split(","), split_outside(parts[1][1:-1], _COMMA)[0]
    if len(names) != len(values) or not parts[1].startswith("("):
        return text
    return ", ".join(f"{name.strip()} = {value}" for name, value in zip(names, values, strict=True))
