r"""Where the pieces of a formula meet: |x - 2| has another formula on each side of 2, and \lfloor x \rfloor on many.

Points drawn at random find a piece that begins at 20000, or that is narrow, by luck only. So the corners are looked for, and
points are put at them and between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from masa_lightning.functional._evaluation import Budget, real_value
from masa_lightning.functional._formula import Node, names, with_values

PIECES: Final = frozenset({"abs", "max", "min", "floor", "ceil"})
"""Operations whose formula depends on where one is."""

MAX_BORDERS: Final = 40  # of two formulas; with more, only pieces that are the same are compared

_SIZES: Final = sorted(
    [Fraction(10) ** power for power in range(-6, 31)] + [Fraction(3 * 10**power) for power in range(6)]
)
_GRID: Final = [*(-size for size in reversed(_SIZES)), Fraction(0), *_SIZES]
_MAX_ZEROS: Final = 8  # of one argument, those near zero; a sine has more
_BISECTIONS: Final = 24
_LOOK_COST: Final = 5e-5  # seconds
_PLACES_COST: Final = 4e-4
_STEPS: Final = range(-2, 5)  # of a floor


class Border(NamedTuple):
    r"""Where a piece ends: at the zeros of an argument, or where a `step` passes a whole number.

    A `root` has its even powers, and they change their sign perhaps: `\sqrt{(x-2)^2}` is |x - 2|.
    """

    kind: str  # sign, step, root
    argument: Node


def borders(tree: Node) -> Iterator[Border]:
    """Yields all borders between the pieces of a formula with names; those of sums are not looked for."""
    if tree.op in {"sum", "prod"} or not names(tree):
        return
    if tree.op == "abs":
        yield from (Border("sign", factor) for factor in _factors(tree.args[0]))
    elif tree.op in {"max", "min"}:
        yield from (Border("sign", Node("add", (a, Node("neg", (b,))))) for a, b in combinations(tree.args, 2))
    elif tree.op in {"floor", "ceil"}:
        yield Border("step", tree.args[0])
    elif tree.op == "root" or (tree.op == "pow" and tree.args[1].op != "number"):
        yield from (Border("root", factor) for factor in _factors(tree.args[0]))
    for part in tree.args:
        yield from borders(part)


def places(found: Sequence[Border], budget: Budget) -> tuple[dict[str, list[Fraction]], list[Node]] | None:
    """Finds the corners of formulas.

    Args:
        found: Their borders.
        budget: What it may cost.

    Returns:
        Values of names at and between the corners, and arguments of which a comparison has to see both signs to say
        anything. None where corners are missed.
    """
    budget.charge(_PLACES_COST)
    if len(found) > MAX_BORDERS:
        return None
    corners: dict[str, set[Fraction]] = {}
    watched = []
    for kind, argument in found:
        free = names(argument)
        if not free:
            continue
        zeros = None
        if len(free) == 1:
            (name,) = free
            zeros = _steps(argument, name, budget) if kind == "step" else _zeros(argument, name, budget)
        if zeros:
            corners.setdefault(name, set()).update(zeros)
        elif kind == "step":
            return None
        if kind == "sign" and not _positive(argument):
            watched.append(argument)
    return {name: _between(sorted(zeros)) for name, zeros in corners.items()}, watched


def _factors(tree: Node) -> list[Node]:
    if tree.op in {"mul", "div"}:
        return [factor for part in tree.args for factor in _factors(part)]
    if tree.op == "neg" or (tree.op == "pow" and tree.args[1].op == "number"):
        return _factors(tree.args[0])
    return [tree] if names(tree) else []


def _positive(tree: Node) -> bool:
    """Is it surely above zero wherever it is real, x^2 + 1?"""
    if tree.op == "number":
        return tree.value > 0
    if tree.op == "add":
        return any(map(_positive, tree.args)) and all(_positive(part) or _square(part) for part in tree.args)
    if tree.op in {"mul", "div", "pow"}:
        return all(map(_positive, tree.args if tree.op != "pow" else tree.args[:1]))
    return tree.op in {"pi", "e", "exp"}


def _square(tree: Node) -> bool:
    if tree.op in {"mul", "div"}:
        return all(_positive(part) or _square(part) for part in tree.args)
    even = tree.op == "pow" and tree.args[1].op == "number" and tree.args[1].value % 2 == 0
    return tree.op == "abs" or (even and not _complex(tree.args[0]))


def _complex(tree: Node) -> bool:
    return tree.op == "i" or any(map(_complex, tree.args))


def _zeros(argument: Node, name: str, budget: Budget) -> list[Fraction]:
    def value(x: Fraction) -> Fraction | None:
        budget.charge(_LOOK_COST)
        return real_value(with_values(argument, {name: x}), budget, rough=True)

    values = [(x, y) for x in _GRID if (y := value(x)) is not None]
    found = [x for x, y in values if not y]
    changes = [(p, q) for p, q in pairwise(values) if p[1] * q[1] < 0]
    for (a, below), (b, above) in sorted(changes, key=lambda change: abs(change[0][0]))[:_MAX_ZEROS]:
        straight = a - below * (b - a) / (above - below)
        found.append(straight if value(straight) == 0 else _bisected(value, a, b, below))
    return found


def _bisected(value: Callable[[Fraction], Fraction | None], a: Fraction, b: Fraction, below: Fraction) -> Fraction:
    for _ in range(_BISECTIONS):
        middle = (a + b) / 2
        at_middle = value(middle)
        if not at_middle:
            return middle
        a, b = (middle, b) if at_middle * below > 0 else (a, middle)
    return a


def _steps(argument: Node, name: str, budget: Budget) -> list[Fraction]:
    """Where a straight line passes whole numbers; [] if it is none."""
    at = [real_value(with_values(argument, {name: Fraction(x)}), budget) for x in (0, 1, 2, -5)]
    start, one, two, other = at
    if start is None or one is None or one == start or (two, other) != (2 * one - start, 6 * start - 5 * one):
        return []
    return [(math.floor(start) + step - start) / (one - start) for step in _STEPS]


def _between(corners: list[Fraction]) -> list[Fraction]:
    """Puts points at the corners, and two into each gap."""
    first, last = corners[0], corners[-1]
    gaps = [((2 * a + b) / 3, (a + 3 * b) / 4) for a, b in pairwise(corners)]
    ends = (first - Fraction(1, 7), 2 * first - abs(first) - 5, last + Fraction(1, 7), 2 * last + abs(last) + 5)
    return [*corners, *(x for gap in gaps for x in gap), *ends]
