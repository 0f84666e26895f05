r"""Values with names: `x = 1, y = 2` and `(x, y) = (1, 2)` are matched by name, whatever their order.

Where one side has no names, letters stand in the order of their alphabet, those of one letter in that of their numbers,
`x_2, x_{10}`. Of other names no order is known: a point has to be written in the order of its names, too. Only a right
answer may name its point in another order, `(y, x) = (2, 1)`: the question has said so.
"""

from __future__ import annotations

import re
from typing import Final

from masa_lightning.functional._levels import closes_at_end, split_outside
from masa_lightning.functional._names import LETTER, is_name
from masa_lightning.functional._spelling import squeeze

_LETTERS: Final = rf"\( ?{LETTER}(?: ?, ?{LETTER})+ ?\)"
_LIST_NAME: Final = re.compile(  # "(x, y) =" or "x \in" before a list or an interval
    r"([A-Za-z](?:_ ?(?:\{ ?\w+ ?\}|\w)|[A-Z]| ?\^ ?\{? ?(?:-1|T) ?\}?)?|"
    rf"\\(?:vec|hat|overrightarrow) ?(?:\{{[^{{}}=]*\}}|\w)|{_LETTERS}) ?"
    r"(?:=|\\in(?![a-zA-Z])) ?(?=\(|\[|\\\{|\\mathbb|\\begin)"
)
_EQUALS: Final = re.compile("=")
_COMMA: Final = re.compile(",")
_INDEX: Final = re.compile(r"(?<=[A-Za-z]) ?_ ?(?:\{[^{}]*\}|\w)$")
_ALPHABET: Final = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu "
    "nu xi pi rho sigma tau upsilon phi chi psi omega"
)
_GREEK: Final = _ALPHABET.split()
_NO_LETTER: Final = (-1, 0)
_NAMED_LETTER: Final = re.compile(r"([A-Za-z](?![A-Za-z])|\\[A-Za-z]+)(.*)", re.DOTALL)
_RUN: Final = re.compile(r"(\d+)|[^\d{}()_ ]+")
_MEMBERSHIP: Final = re.compile(r"\\in(?![A-Za-z]) ?$")
_CONDITION: Final = re.compile(r"[<>]|\\(?:leq|geq|neq|notin|in)(?![A-Za-z])|^[a-z] ?=")


def without_list_names(predicted: str, expected: str) -> tuple[str, str]:
    """Takes off the names of lists; where these are points of other names, they become values with names."""
    mine, truth = _LIST_NAME.match(predicted), _LIST_NAME.match(expected)
    if mine and truth:
        if squeeze(mine[1]) == squeeze(truth[1]):
            return predicted[mine.end() :], expected[truth.end() :]
        return _spread(predicted), _spread(expected)
    if any(
        match and _MEMBERSHIP.search(match[0]) and _CONDITION.search(other) and not _is_about(other, match[1])
        for match, other in ((mine, expected), (truth, predicted))
    ):
        return predicted, expected  # y \in (0, 1) and 0 < x < 1 are of different letters
    if truth:
        spread = _spread(expected) if split_outside(predicted, _EQUALS)[1] else expected
        return predicted, expected[truth.end() :] if spread == expected else spread
    if mine:
        names = _names_of_point(mine[1])
        if len(names) < 2 or (names in _orders(names)[0] and not split_outside(expected, _EQUALS)[1]):
            return predicted[mine.end() :], expected
        return _spread(predicted), expected
    return predicted, expected


def _is_about(condition: str, name: str) -> bool:
    return bool(re.search(rf"(?<![A-Za-z\\]){re.escape(squeeze(name))}(?![A-Za-z_'])", squeeze(condition)))


def without_list_name(text: str) -> str:
    """Takes off the name of a list."""
    match = _LIST_NAME.match(text)
    return text[match.end() :] if match else text


def name_of(element: str, *, index: bool = False) -> str:
    """Returns what stands before the equality sign of an element, if it is a name; "" if not.

    Args:
        element: Of a list.
        index: With its index.
    """
    parts, signs = split_outside(element, _EQUALS)
    name = parts[0]
    return squeeze(name if index else _INDEX.sub("", name)) if signs and is_name(name, wide=False) else ""


def pairs_by_name(mine: tuple[str, ...], truth: tuple[str, ...], *, point: bool) -> list[tuple[str, str]] | None:
    """Pairs the elements of two lists of one length.

    Args:
        mine: Of the model.
        truth: Of the right answer.
        point: Is one of them in parentheses? Then x_1 and x_2 are its coordinates, and else the values of one thing.

    Returns:
        The pairs; [] where it is not known which they are, None where names say nothing about it.
    """
    my_names, true_names = _names(mine, point), _names(truth, point)
    if my_names and true_names:
        if set(my_names) != set(true_names):
            return None
        named = dict(zip(my_names, mine, strict=True))
        return [(named[name], element) for name, element in zip(true_names, truth, strict=True)]
    if my_names and not any(map(name_of, truth)):
        orders, clear = _orders(my_names)
        if not clear and point and my_names not in orders:
            return []
        mine = _in_order(my_names, mine)
    elif true_names and not any(map(name_of, mine)):
        truth = _in_order(true_names, truth)
    else:
        return None
    return list(zip(mine, truth, strict=True))


def _names(elements: tuple[str, ...], index: bool) -> list[str]:
    """The names of elements that have one each, all different; [] if not."""
    names = [name_of(element, index=index) for element in elements]
    return names if all(names) and len(set(names)) == len(names) > 1 else []


def _in_order(names: list[str], elements: tuple[str, ...]) -> tuple[str, ...]:
    (order, *_), clear = _orders(names)
    named = dict(zip(names, elements, strict=True))
    return tuple(named[name] for name in order) if clear else elements


def _orders(names: list[str]) -> tuple[list[list[str]], bool]:
    """The orders that names may have, and whether it is known: of letters of one alphabet, all different or all the same."""
    places: dict[str, tuple[int, int]] = {}
    indices: dict[str, list[tuple[int, int, str]]] = {}
    for name in names:
        match = _NAMED_LETTER.fullmatch(name)
        places[name] = _place(match[1]) if match else _NO_LETTER
        runs = _RUN.finditer(match[2] if match else name)
        indices[name] = [(0, int(run[1]), "") if run[1] else (1, 0, run[0]) for run in runs]
    orders = [
        sorted(names, key=lambda n: (places[n], indices[n])),
        sorted(names, key=lambda n: (indices[n], places[n])),
    ]
    one_alphabet = _NO_LETTER not in places.values() and len({alphabet for alphabet, _ in places.values()}) == 1
    clear = one_alphabet and len(set(places.values())) in (1, len(names))
    return orders, clear


def _place(letter: str) -> tuple[int, int]:
    """The number of a letter's alphabet (-1 if it is none) and its place there. Latin stands before Greek."""
    name = letter.removeprefix("\\")
    low = name.lower().removeprefix("var")
    if name == letter:
        return int(name.isupper()), ord(low)
    return (2 + name[0].isupper(), _GREEK.index(low)) if low in _GREEK else _NO_LETTER


def _names_of_point(text: str) -> list[str]:
    """The names in `(x, y)`; [] for one name alone."""
    return list(map(squeeze, split_outside(text[1:-1], _COMMA)[0])) if text.startswith("(") else []


def _spread(text: str) -> str:
    """Writes `(x,y) = (1,2)` as `x = 1, y = 2`; any other text as it is."""
    parts, _ = split_outside(text, _EQUALS)
    if len(parts) != 2 or not re.fullmatch(_LETTERS, parts[0]) or not closes_at_end(parts[1]):
        return text
    names, values = _names_of_point(parts[0]), split_outside(parts[1][1:-1], _COMMA)[0]
    if len(names) != len(values) or not parts[1].startswith("("):
        return text
    return ", ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
