r"""Sets of real numbers: intervals, unions, differences, set builders and inequalities are compared as what they contain.

The ends of both sets part the line into points and gaps, and a set is those of them that it contains. So
`x<2 \text{ or } x>3`, `(-\infty,2)\cup(3,\infty)` and `\mathbb{R}\setminus[2,3]` are one set.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final, NamedTuple

from masa_lightning.functional._equality import affine_root, is_complex, same_formula
from masa_lightning.functional._evaluation import Budget, real_value
from masa_lightning.functional._formula import Node, Unreadable, names, read_formula
from masa_lightning.functional._levels import closes_at_end, split_outside
from masa_lightning.functional._vocabulary import AND, OR

MARK: Final = re.compile(
    r"[<>]|\\(?:leq|geq|neq|cup|cap|setminus|mid|emptyset|infty|notin|in|mathbb)(?![A-Za-z])"
)  # one of these is in every set but plain intervals and lists
_UNION: Final = re.compile(r"\\cup(?![A-Za-z])")
_MEET: Final = re.compile(r"\\cap(?![A-Za-z])")
_MINUS: Final = re.compile(r"\\setminus(?![A-Za-z])|-")
_OR: Final = re.compile(OR)
_AND: Final = re.compile(AND)
_AND_OR_COMMA: Final = re.compile(rf"{AND}|[,;]")
_COMMA: Final = re.compile(r"[,;]")
_MID: Final = re.compile(r"\\mid(?![A-Za-z])")
_RELATION: Final = re.compile(r"[<>=]|\\(?:leq|geq|neq|notin|in)(?![A-Za-z])")
_REALS: Final = re.compile(r"\\mathbb ?\{? ?R ?\}?|(?:\\text ?\{)? ?[Aa]ll (?:real numbers|reals) ?\}?")
_POSITIVE: Final = re.compile(r"\\mathbb ?\{? ?R ?\}? ?(?:\^ ?\{? ?\+ ?\}?|_ ?\{ ?> ?0 ?\})")
_VARIABLE: Final = re.compile(r"[A-Za-z]|\\[a-z]+")
FLIPPED: Final = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq", "=": "=", "\\neq": "\\neq"}
_MAX_ENDS: Final = 40
_MAX_DEPTH: Final = 12
_CLOSE: Final = Fraction(1, 2**64)

Part = Callable[["_Line"], frozenset[int]]  # the set, given the line of all ends


class _End(NamedTuple):
    tree: Node
    value: Fraction  # exact, or to many digits


@dataclass
class _Line:
    """The real line: end number i is at position 2i + 1, the gaps are at even positions."""

    ends: list[_End]
    budget: Budget

    @property
    def all(self) -> frozenset[int]:
        return frozenset(range(2 * len(self.ends) + 1))

    def place(self, end: _End) -> int:
        for index, other in enumerate(self.ends):
            if _same(end, other, self.budget):
                return 2 * index + 1
        raise Unreadable("no budget is left to find an end")


class _Reader:
    """Reads a set; collects its ends and the name of its variable."""

    def __init__(self, budget: Budget, depth: int = 0) -> None:
        self.budget, self.depth = budget, depth
        self.ends: list[_End] = []
        self.variables: set[str] = set()

    def region(self, text: str) -> Part:
        r"""A set written with \cup, \cap and \setminus, or a condition."""
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable("the set is nested too deeply")
        found = self._operation(text) or self._set(text) or self._condition(text)
        self.depth -= 1
        return found

    def _operation(self, text: str) -> Part | None:
        conditional = bool(split_outside(text, _RELATION)[1])
        for sign, operation in (
            (_UNION, frozenset.union),
            (_MEET, frozenset.intersection),
            (_MINUS, frozenset.difference),
        ):
            parts, _ = split_outside(text, sign)
            whole = not conditional or (sign is not _MINUS and all(split_outside(part, _RELATION)[1] for part in parts))
            if len(parts) > 1 and whole:  # the right side of x \notin A \cup B is one set
                return _joined([self.region(part) for part in parts], operation)
        return None

    def _set(self, text: str) -> Part | None:
        if _REALS.fullmatch(text):
            return lambda line: line.all
        if _POSITIVE.fullmatch(text):
            return self._interval("(", "0", "\\infty", ")")
        if text == "\\emptyset":
            return lambda line: frozenset()
        if text.startswith("\\{") and text.endswith("\\}") and closes_at_end(text):
            return self._braces(text[2:-2].strip())
        if text[:1] in ("(", "[") and text[-1:] in (")", "]") and closes_at_end(text):
            inside = text[1:-1].strip()
            parts, _ = split_outside(inside, _COMMA)
            if len(parts) == 2 and not _RELATION.search(inside):
                return self._interval(text[0], parts[0], parts[1], text[-1])
            if len(parts) == 1 and text[0] == "(" and text[-1] == ")":
                return self.region(inside)
            raise Unreadable("no interval")
        return None

    def _braces(self, inside: str) -> Part:
        parts, _ = split_outside(inside, _MID)
        if len(parts) == 2:
            name, _, kind = parts[0].partition("\\in")
            if not _VARIABLE.fullmatch(name.strip()) or (kind and not _REALS.fullmatch(kind.strip())):
                raise Unreadable("a set builder needs a variable of real numbers")
            self.variables.add("")
            reader = _Reader(self.budget, self.depth)
            condition = reader.region(parts[1])
            if reader.variables - {name.strip()}:
                raise Unreadable("a condition on another variable")
            self.ends += reader.ends
            return condition
        points = [self._end(part) for part in split_outside(inside, _COMMA)[0]]
        return lambda line: frozenset(line.place(point) for point in points)

    def _interval(self, opening: str, low: str, high: str, closing: str) -> Part:
        above = None if (opening, low) == ("(", "-\\infty") else self._end(low)
        below = None if closing == ")" and high in ("\\infty", "+\\infty") else self._end(high)
        if above is not None and below is not None and above.value >= below.value:
            raise Unreadable("an interval from high to low")

        def part(line: _Line) -> frozenset[int]:
            first = 0 if above is None else line.place(above) + (opening == "(")
            last = 2 * len(line.ends) if below is None else line.place(below) - (closing == ")")
            return frozenset(range(first, last + 1))

        return part

    def _condition(self, text: str) -> Part:
        parts, _ = split_outside(text, _OR)
        if len(parts) > 1:
            return _joined([self._condition(part) for part in parts], frozenset.union)
        parts, _ = split_outside(text, _AND)
        if len(parts) > 1 and all(split_outside(part, _RELATION)[1] for part in parts):
            return _joined([self._condition(part) for part in parts], frozenset.intersection)
        parts, _ = split_outside(text, _AND_OR_COMMA)
        if len(parts) == 1:
            return self._chain(text)
        read: list[Part] = []
        previous = ""
        for part in parts:
            if not _RELATION.search(part) and previous:  # x \neq 1, 2
                part = f"{previous} {part}"
            sides, signs = split_outside(part, _RELATION)
            previous = f"{sides[0]} \\neq" if signs == ["\\neq"] else ""
            read.append(self._chain(part))
        return lambda line: _together(line, [part(line) for part in read])

    def _chain(self, text: str) -> Part:
        sides, signs = split_outside(text, _RELATION)
        if not signs:
            raise Unreadable("no condition")
        if signs[0] in ("\\in", "\\notin"):
            if len(signs) > 1 or not _VARIABLE.fullmatch(sides[0]):
                raise Unreadable("no membership of a variable")
            self.variables.add(sides[0])
            part = self.region(sides[1])
            return part if signs[0] == "\\in" else lambda line: line.all - part(line)
        links = zip(pairwise(sides), signs, strict=True)
        return _joined([self._link(left, sign, right) for (left, right), sign in links], frozenset.intersection)

    def _link(self, left: str, sign: str, right: str) -> Part:
        if left == "-\\infty" and sign == "<":
            return lambda line: line.all
        if right in ("\\infty", "+\\infty") and sign == "<":
            return lambda line: line.all
        a, b = read_formula(left), read_formula(right)
        if b.op == "abs" and sign in FLIPPED:
            a, b, sign = b, a, FLIPPED[sign]
        if any(map(is_complex, names(a) | names(b))) and "abs" in (a.op, b.op):
            raise Unreadable("|z| < 1 is a disc")
        if a.op != "abs" or names(b):
            return self._line(a, sign, b)
        if sign in ("=", "\\neq") and self._real(b) < 0:
            raise Unreadable("an absolute value below zero")
        above, below = self._line(a.args[0], sign, b), self._line(a.args[0], FLIPPED[sign], Node("neg", (b,)))
        both = sign in ("<", "\\leq", "\\neq")
        return _joined([above, below], frozenset.intersection if both else frozenset.union)

    def _line(self, a: Node, sign: str, b: Node) -> Part:
        """Where the straight line a - b is above, below or at zero."""
        free = names(a) | names(b)
        if len(free) != 1:
            raise Unreadable("not one variable")
        (variable,) = free
        self.variables.add(variable)
        solved = affine_root(a, b, variable, self.budget)
        if solved is None:
            raise Unreadable("not a straight line")
        root, rising = solved
        end = self._add(root)
        sign = sign if rising else FLIPPED[sign]

        def part(line: _Line) -> frozenset[int]:
            place, size = line.place(end), 2 * len(line.ends) + 1
            below, above = frozenset(range(place)), frozenset(range(place + 1, size))
            found = {"<": below, ">": above, "\\neq": below | above}.get(sign)
            if found is not None:
                return found
            return {"\\leq": below, "\\geq": above, "=": frozenset[int]()}[sign] | {place}

        return part

    def _end(self, text: str) -> _End:
        tree = read_formula(text)
        if names(tree):
            raise Unreadable("an end without a value")
        return self._add(tree)

    def _add(self, tree: Node) -> _End:
        if len(self.ends) >= _MAX_ENDS:
            raise Unreadable("too many ends")
        self.ends.append(_End(tree, self._real(tree)))
        return self.ends[-1]

    def _real(self, tree: Node) -> Fraction:
        value = real_value(tree, self.budget)
        if value is None:
            raise Unreadable("an end that is not real")
        return value


def same_region(mine: str, truth: str, budget: Budget) -> bool | None:
    """Do two texts describe the same set of real numbers?

    Args:
        mine: Normalised text of the model.
        truth: The right one.
        budget: What it may cost.

    Returns:
        Equal or not; None if either is no set of real numbers that can be read, or they say so of different variables.
    """
    sides = _Reader(budget), _Reader(budget)
    try:
        parts = [side.region(text) for side, text in zip(sides, (mine, truth), strict=True)]
    except Unreadable:
        return None
    variables = [side.variables - {""} for side in sides]
    if any(len(names) > 1 for names in variables) or (all(variables) and variables[0] != variables[1]):
        return None
    ends: list[_End] = []
    for end in sides[0].ends + sides[1].ends:
        if not any(_same(end, other, budget) for other in ends):
            ends.append(end)
    try:
        line = _Line(sorted(ends, key=lambda end: end.value), budget)
        return parts[0](line) == parts[1](line)
    except Unreadable:
        return None


def _joined(parts: list[Part], operation: Callable[..., frozenset[int]]) -> Part:
    return lambda line: operation(*(part(line) for part in parts))


def _together(line: _Line, parts: list[frozenset[int]]) -> frozenset[int]:
    """What conditions in a row mean: that of "all of them" and "one of them" which says something."""
    meet, union = frozenset.intersection(*parts), frozenset.union(*parts)
    if bool(meet) == (union != line.all):
        raise Unreadable("the conditions may be meant together or one by one")
    return meet or union


def _same(a: _End, b: _End, budget: Budget) -> bool:
    if abs(a.value - b.value) > _CLOSE * max(abs(a.value), abs(b.value)):
        return False
    return same_formula(a.tree, b.tree, budget)
