r"""Divisibility: `\gcd(n, 7)` has another value for one n in seven, so that every remainder of n by 7 has to be looked at.

The common divisors of two straight lines an + b and cn + d divide ad - bc, and come again after that number.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import combinations, product
from typing import Final

from masa_lightning.functional._evaluation import Budget, Exact, shape
from masa_lightning.functional._formula import Node, names, with_values

DIVISORS: Final = frozenset({"gcd", "lcm"})
"""Operations whose value depends on remainders."""

_MAX_POINTS: Final = 500
_SMALL: Final = 8
_TURNS: Final = 30


def periods(tree: Node, budget: Budget) -> dict[str, int] | None:
    """Finds after which numbers the divisors in a formula come again.

    Args:
        tree: The formula.
        budget: What it may cost.

    Returns:
        That of each name divisors depend on, {} if there is none; None where they do not come again, or cannot be seen to.
    """
    free = names(tree)
    if not free:
        return {}
    if tree.op in {"sum", "prod"}:
        return None if _divides(tree) else {}
    found: dict[str, int] = {}
    if tree.op in DIVISORS:
        (name, *others) = free
        lines = [] if others else [_line(part, name, budget) for part in tree.args]
        steps = [abs(a * d - b * c) for (a, b), (c, d) in combinations([line for line in lines if line], 2)]
        if not lines or None in lines:
            return None
        found[name] = math.lcm(*filter(None, steps))
        return found
    for part in tree.args:
        inner = periods(part, budget)
        if inner is None:
            return None
        found = {name: math.lcm(found.get(name, 1), inner.get(name, 1)) for name in {*found, *inner}}
    return found


def whole_points(free: frozenset[str], found: Mapping[str, int]) -> Iterator[dict[str, Fraction]] | None:
    """Yields small whole numbers for names, and every combination of remainders; None where these are too many."""
    if math.prod(found.values()) > _MAX_POINTS:
        return None
    return _whole_points(sorted(free), found)


def _whole_points(free: list[str], found: Mapping[str, int]) -> Iterator[dict[str, Fraction]]:
    draw = random.Random(0)
    for size in range(1, _SMALL + 1):
        yield {name: Fraction(size if len(free) == 1 else draw.randint(1, _SMALL // 2)) for name in free}
    for remainders in product(*(range(1, found.get(name, 1) + 1) for name in free)) if found else ():
        yield {
            name: Fraction(remainder + found.get(name, 1) * draw.randrange(_TURNS))
            for name, remainder in zip(free, remainders, strict=True)
        }


def _divides(tree: Node) -> bool:
    return (tree.op in DIVISORS and bool(names(tree))) or any(map(_divides, tree.args))


def _line(tree: Node, name: str, budget: Budget) -> tuple[int, int] | None:
    """Returns slope and start of a straight line through whole numbers; None if it is none."""
    if shape(tree, name) not in ("line", "free"):
        return None
    start, one = (Exact(budget).value(with_values(tree, {name: Fraction(value)})) for value in (0, 1))
    if start is None or one is None or start.denominator > 1 or one.denominator > 1:
        return None
    return int(one - start), int(start)
