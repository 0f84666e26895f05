r"""Are two formulas equal? Rational numbers exactly, others with as many digits as it takes, names at several points.

Two numbers that agree to `Numeric.needed` bits are equal: that is far more than what parts numbers of such formulas that
differ, as every part adds the bits of its own size, so that `1 - 2^{-101}` is not `1 - 2^{-100}`. Names stand for real
numbers of any sign.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain, islice
from typing import Final

from masa_lightning.functional._evaluation import Budget, Exact, Numeric, Unbounded, complex_value, real_value
from masa_lightning.functional._formula import Node, names, with_values
from masa_lightning.functional._pieces import MAX_BORDERS, PIECES, borders, places
from masa_lightning.functional._residues import DIVISORS, periods, whole_points

_POINTS: Final = 8  # at which formulas are compared
_ENOUGH_POINTS: Final = 4  # of those at which both have a value
_DRAWN: Final = 24
_SCALES: Final = (1, 9, 5, 300, 3, 1000, 10_000, 2)
_FAR: Final = (10**9, 10**10)  # the one above zero, the other below
_COUNTS: Final = (30, 12, 80, 6, 250, 30, 1000, 30)
_SYMMETRIC: Final = frozenset({"max", "min"}) | DIVISORS
_COMPLEX: Final = ("z", "w")
_WHOLE: Final = frozenset({"sum", "prod", "factorial", "binom", "gcd", "lcm"})

Point = Mapping[str, Fraction]


def same_formula(mine: Node, truth: Node, budget: Budget) -> bool:
    """Are two formulas equal at all points at which both have a value?

    Args:
        mine: Of the model.
        truth: The right one.
        budget: What it may cost; nothing is equal beyond it.
    """
    if mine == truth:
        return True
    if "infinity" in (mine.op, truth.op):
        return False
    if names(mine) | names(truth):
        mine, truth = _with_complex((mine, truth))
        return _same_at_points(mine, truth, budget)
    try:
        return _same_number(mine, truth, budget)
    except Unbounded:
        return False


def same_zeros(mine: tuple[Node, Node], truth: tuple[Node, Node], budget: Budget) -> int:
    """Compares two relations by left minus right.

    Args:
        mine: Left and right side.
        truth: Left and right side.
        budget: What it may cost.

    Returns:
        1 if one is a positive multiple of the other, -1 if a negative one, 0 if neither.
    """
    a, b = _with_complex([Node("add", (left, Node("neg", (right,)))) for left, right in (mine, truth)])
    free = names(a)
    if not free or free != names(b):
        return 0
    for anchor in _points(free, whole=False, far=False):
        fixed = [with_values(side, anchor) for side in (a, b)]
        values = [complex_value(side, budget) for side in fixed]
        if None in values or not all(values):
            continue
        ratio = values[0] / values[1]
        if ratio.imag:
            return 0
        # a(p) / b(p) is the same at all points p
        same = _same_at_points(Node("mul", (a, fixed[1])), Node("mul", (b, fixed[0])), budget)
        return (1 if ratio.real > 0 else -1) if same else 0
    return 0


def is_complex(name: str) -> bool:
    """Is this the letter of a complex number, z or w? What |z| is the size of may be one."""
    return name[:1] in _COMPLEX


def _with_complex(trees: Sequence[Node]) -> list[Node]:
    """Gives letters of complex numbers an imaginary part, if one of them is in bars: |z|^2 is not z^2."""
    found = frozenset[str]().union(*map(_in_bars, trees))
    return [_complex_name(tree, found) if found else tree for tree in trees]


def _in_bars(tree: Node) -> frozenset[str]:
    if tree.op == "abs":
        return frozenset(filter(is_complex, names(tree)))
    return frozenset[str]().union(*map(_in_bars, tree.args)) if tree.args else frozenset()


def _complex_name(tree: Node, found: frozenset[str]) -> Node:
    if tree.op == "name" and tree.name in found:
        return Node("add", (tree, Node("mul", (Node("i"), Node("name", name=f"{tree.name} imaginary")))))
    return tree._replace(args=tuple(_complex_name(part, found) for part in tree.args))


def affine_root(left: Node, right: Node, name: str, budget: Budget) -> tuple[Node, bool] | None:
    """Solves left = right where left - right is a straight line in the only name there is.

    Returns:
        The root, and whether left - right rises; None if it is no straight line of real numbers.
    """
    line = Node("add", (left, Node("neg", (right,))))
    start, end = (with_values(line, {name: Fraction(value)}) for value in (0, 1))
    slope = Node("add", (end, Node("neg", (start,))))
    rise = complex_value(slope, budget)
    if rise is None or rise.imag or not rise:
        return None
    straight = Node("add", (start, Node("mul", (slope, Node("name", name=name)))))
    if not _same_at_points(line, straight, budget):
        return None
    return Node("div", (Node("neg", (start,)), slope)), bool(rise.real > 0)


def _same_at_points(a: Node, b: Node, budget: Budget) -> bool:
    found = list(dict.fromkeys(islice(chain(borders(a), borders(b)), MAX_BORDERS + 1)))
    whole = _counts(a) or _counts(b)
    if whole or any(border.kind != "root" for border in found):
        known: list[Node] = []
        named = _pieces_named(a, known, budget), _pieces_named(b, known, budget)
        if named != (a, b) and _same_at_points(*named, budget):
            return True
    try:
        placed = places(found, budget)
    except Unbounded:
        return False
    if placed is None:
        return False
    values, watched = placed
    if whole and not _same_at_whole_numbers(a, b, budget):
        return False
    drawn = list(_points(names(a) | names(b), whole, bool(found)))
    corners = list(_corners(values, drawn, whole))
    signs: list[set[int | None]] = [set() for _ in watched]
    seen, limit = 0, len(corners) + _POINTS
    for point in corners + drawn:
        try:
            if not _same_number(with_values(a, point), with_values(b, point), budget):
                return False
        except Unbounded:
            limit -= len(corners) > 0  # a corner may have no value
            continue
        for argument, known_signs in zip(watched, signs, strict=True):
            value = real_value(with_values(argument, point), budget, rough=True)
            known_signs.add(None if value is None else (value > 0) - (value < 0))
        seen += 1
        if seen == limit:
            break
    return seen >= _ENOUGH_POINTS + len(corners) // 2 and all({1, -1} <= s or s == {None} for s in signs)


def _same_at_whole_numbers(a: Node, b: Node, budget: Budget) -> bool:
    found = [periods(tree, budget) for tree in (a, b)]
    if found[0] is None or found[1] is None:
        return False
    both = {name: math.lcm(found[0].get(name, 1), found[1].get(name, 1)) for name in {*found[0], *found[1]}}
    points = whole_points(names(a) | names(b), both)
    if points is None:
        return False
    for point in points:
        try:
            if not _same_number(with_values(a, point), with_values(b, point), budget):
                return False
        except Unbounded:  # (n - 10)! has no value at some
            continue
    return True


def _pieces_named(tree: Node, known: list[Node], budget: Budget) -> Node:
    """Writes a name for each piece, the same one for pieces that are equal."""
    if tree.op in {"sum", "prod"} or not names(tree):
        return tree
    if tree.op not in PIECES | DIVISORS:
        return tree._replace(args=tuple(_pieces_named(part, known, budget) for part in tree.args))
    index = next((i for i, piece in enumerate(known) if _same_piece(tree, piece, budget)), len(known))
    known += [tree] * (index == len(known))
    return Node("name", name=f"|{index}|")


def _same_piece(a: Node, b: Node, budget: Budget) -> bool:
    def same(mine: Iterable[Node], truth: Iterable[Node]) -> bool:
        return all(same_formula(x, y, budget) for x, y in zip(mine, truth, strict=True))

    if a.op != b.op or len(a.args) != len(b.args):
        return False
    other = (Node("neg", b.args[:1]),) if a.op == "abs" else b.args[::-1] if a.op in _SYMMETRIC else None
    return same(a.args, b.args) or (other is not None and same(a.args, other))


def _corners(values: Mapping[str, list[Fraction]], drawn: list[Point], whole: bool) -> Iterator[Point]:
    """Yields points at the corners of formulas, each name's at least once, and in most combinations."""
    draw = random.Random(0)
    count = max(map(len, values.values()), default=0)
    for index in range(count * min(len(values), 3)):
        point = dict(drawn[index % len(drawn)])
        for name, there in values.items():
            value = there[index % len(there)] if index < count else draw.choice(there)
            point[name] = Fraction(max(1, round(value))) if whole else value
        yield point


def _points(free: frozenset[str], whole: bool, far: bool) -> Iterator[Point]:
    """Yields points of all sizes and signs, the same ones every time; whole numbers where there is counting."""
    draw = random.Random(" ".join(sorted(free)))
    scales = _FAR * far + _SCALES
    for index in range(_DRAWN):
        signs = "+-?"[index % 3]
        point = {}
        for name in sorted(free):
            size = scales[index % len(scales)] * Fraction(draw.randint(1009, 9973), 9973)
            negative = signs == "-" or (signs == "?" and draw.random() < 0.5)
            counted = _COUNTS[index % len(_COUNTS)]
            point[name] = Fraction(draw.randint(1, counted)) if whole else -size if negative else size
        yield point


def _counts(tree: Node) -> bool:
    """Does it count with names, as in n! or a sum of n terms?"""
    counted = tree.args[:2] if tree.op in {"sum", "prod"} else tree.args
    return (tree.op in _WHOLE and any(map(names, counted))) or any(map(_counts, tree.args))


def _same_number(a: Node, b: Node, budget: Budget) -> bool:
    exact = Exact(budget)
    mine, truth = exact.value(a), exact.value(b)
    if mine is not None and truth is not None:
        return mine == truth
    first = Numeric(budget)
    first.value(a), first.value(b)
    precise = Numeric(budget, 2 * first.needed + 64)
    x, y = precise.value(a), precise.value(b)
    error, size = abs(x - y), max(abs(x), abs(y))
    tiny = precise.context.ldexp(1, -first.needed)
    return bool(error <= tiny * size or size <= tiny)
