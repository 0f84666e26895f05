r"""Equations between numbers, `3+4 = 7`. A false one is no answer, whatever stands behind its last sign.

Judged are parts of plain arithmetic, with sines of multiples of pi and powers `e^{...}`. Percents, `\log` without a base and
degrees outside of a sine have two readings, so that what has them is left alone; `e = 2` names a quantity.
"""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import pairwise
from typing import Final

from masa_lightning.functional._equality import same_formula
from masa_lightning.functional._evaluation import Budget, complex_value
from masa_lightning.functional._formula import OF_ANGLES, Node, Unreadable, names, read_formula

_OPERATIONS: Final = (
    "number name pi add mul div neg pow root sum prod factorial binom floor ceil abs max min gcd lcm ln log"
)
_ARITHMETIC: Final = frozenset(_OPERATIONS.split())
_BARE_LOG: Final = re.compile(r"\\log(?! ?_|[A-Za-z])")
_REMAINDER: Final = re.compile(r"(\d{1,9}) ?\\mod ?([1-9]\d{0,8})")
_DECIMAL: Final = re.compile(r"[+-]? ?\d*\.(\d+)")


def is_arithmetic(text: str) -> bool:
    r"""Is this a number by plain arithmetic, `\binom{5}{2}`? In linear time: nothing is evaluated."""
    if _BARE_LOG.search(text):
        return False
    try:
        tree = _tree(text)
    except Unreadable:
        return False
    return not names(tree) and _plain(tree)


def holds(parts: list[str], budget: Budget) -> bool:
    """Are numbers of plain arithmetic equal? A decimal may be rounded to the digits that it is written with.

    Args:
        parts: At least one.
        budget: What it may cost; beyond it nothing is equal.
    """
    return all(map(is_arithmetic, parts)) and all(_link(a, b, budget) for a, b in pairwise(parts))


def _link(left: str, right: str, budget: Budget) -> bool:
    a, b = _tree(left), _tree(right)
    if same_formula(a, b, budget):
        return True
    places = [len(match[1]) for text in (left, right) if (match := _DECIMAL.fullmatch(text))]
    if not places:
        return False
    error = complex_value(Node("add", (a, Node("neg", (b,)))), budget)
    return error is not None and bool(abs(error) <= 0.500001 * 10.0 ** -min(places))


def _tree(text: str) -> Node:
    if match := _REMAINDER.fullmatch(text):
        return Node("number", value=Fraction(int(match[1]) % int(match[2])))
    return read_formula(text)


def _plain(tree: Node) -> bool:
    if tree.op in OF_ANGLES:
        return _has(tree, "pi") and all(map(_plain, tree.args))
    if tree.op == "pow" and tree.args[0].op == "e":
        return _has(tree, "i") and _turns(tree.args[1])
    return tree.op in _ARITHMETIC and all(map(_plain, tree.args))


def _turns(tree: Node) -> bool:
    r"""Is this the exponent of a turn, `i\pi`?"""
    return tree.op == "i" or (_plain(tree) if not tree.args else all(map(_turns, tree.args)) and tree.op in _ARITHMETIC)


def _has(tree: Node, op: str) -> bool:
    return tree.op == op or any(_has(part, op) for part in tree.args)
