r"""Equations between numbers, `3+4 = 7`. A false one is no answer, whatever stands behind its last sign.

Judged are parts of plain arithmetic. Degrees, percents and `\log` without a base have two readings, so that what has them
is left alone.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from masa_lightning.functional._equality import Formula, same_formula
from masa_lightning.functional._evaluation import Budget, complex_value
from masa_lightning.functional._formula import Node, Unreadable, names, read_formula

_OPERATIONS: Final = (
    "number name pi add mul div neg pow root sum prod factorial binom floor ceil abs max min gcd lcm ln log"
)
_ARITHMETIC: Final = frozenset(_OPERATIONS.split())
_BARE_LOG: Final = re.compile(r"\\log(?! ?_|[A-Za-z])")
_DECIMAL: Final = re.compile(r"[+-]? ?\d*\.(\d+)")


def is_arithmetic(text: str) -> bool:
    r"""Is this a number by plain arithmetic, `\binom{5}{2}`? In linear time: nothing is evaluated."""
    if _BARE_LOG.search(text):
        return False
    try:
        tree, _ = read_formula(text)
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
    (a, _), (b, _) = read_formula(left), read_formula(right)
    if same_formula(Formula(a, False), Formula(b, False), budget):
        return True
    places = [len(match[1]) for text in (left, right) if (match := _DECIMAL.fullmatch(text))]
    if not places:
        return False
    error = complex_value(Node("add", (a, Node("neg", (b,)))), budget)
    return error is not None and bool(abs(error) <= 0.500001 * 10.0 ** -min(places))


def _plain(tree: Node) -> bool:
    return tree.op in _ARITHMETIC and all(map(_plain, tree.args))
