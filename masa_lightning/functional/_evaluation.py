r"""Values of formulas without names: exact where they are rational, else with a given number of bits.

All work is counted before it is done, in a `Budget`, and what would take too long is refused: `9^{9^{9^9}}`, a factorial
of a million, a sum of a billion terms. The count is the same on every machine, and so is the verdict.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Mapping
from fractions import Fraction
from importlib import import_module
from typing import Any, Final

from masa_lightning.functional._formula import Node, names

_MAX_BITS: Final = 150_000  # of a rational number
_MAX_NEEDED: Final = 15_000  # bits
_MAX_FACTORIAL: Final = 10_000
_MAX_ABOVE: Final = 10**6  # of a binomial
_MAX_TERMS: Final = 2_000  # of a sum or product
_SERIES_COST: Final = 2e-3  # seconds, of one without end
_MAX_EXPONENT: Final = 2**20  # bits of what a power may grow to
_MAX_ARGUMENT: Final = 400  # bits before the point in what a function takes
_GROWING: Final = frozenset({"exp", "sinh", "cosh", "tanh", "coth"})
_MAX_GROWING: Final = 20  # the same, where the value grows with it
_FUNCTIONS: Final = (
    "exp sin cos tan cot sec csc sinh cosh tanh coth asin acos atan acot asec acsc asinh acosh atanh"  # as in mpmath
)
_POLES: Final = {"tan": "cos", "sec": "cos", "cot": "sin", "csc": "sin", "coth": "sinh"}  # at the zeros of the other
_ROUGH: Final = 64  # bits
_MPMATH: Final = {"ln": "log", **{name: name for name in _FUNCTIONS.split()}}

Bound = Mapping[str, int]  # indices of sums

_OF_THREAD: Final = threading.local()


class Unbounded(ValueError):
    """To evaluate this would take too long, or it has no value."""


class Budget:
    """The work that one comparison may cost.

    Args:
        seconds: About as many on one core of today, by the count of operations and not by the clock.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self.left = seconds

    def charge(self, seconds: float) -> None:
        """Counts work.

        Raises:
            Unbounded: If it is more than what is left.
        """
        self.left -= seconds
        if self.left < 0:
            raise Unbounded("this takes too long")


class Exact:
    """Rational arithmetic.

    Args:
        budget: What it may cost.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def value(self, tree: Node) -> Fraction | None:
        """Returns the value; None where it is not rational, or too big to be had exactly."""
        try:
            return self._value(tree, {})
        except (_Irrational, ZeroDivisionError, Unbounded):
            return None

    def _value(self, tree: Node, bound: Bound) -> Fraction:
        self._budget.charge(3e-6)
        if tree.op == "number":
            return tree.value
        if tree.op == "name" and tree.name in bound:
            return Fraction(bound[tree.name])
        if tree.op == "sum" and tree.args[1].op == "infinity":
            return self._geometric(tree, bound)
        if tree.op in {"sum", "prod"}:
            total = Fraction(tree.op == "prod")
            for turn in _turns(*(self._value(limit, bound) for limit in tree.args[:2])):
                term = self._value(tree.args[2], {**bound, tree.name: turn})
                total = self._checked(total + term if tree.op == "sum" else total * term)
            return total
        operation = _RATIONAL.get(tree.op)
        if operation is None:
            raise _Irrational
        return self._checked(operation(*(self._value(part, bound) for part in tree.args)))

    def _geometric(self, tree: Node, bound: Bound) -> Fraction:
        """The sum of a series without end, if its terms are powers and fall."""
        first, body = _integer(self._value(tree.args[0], bound)), tree.args[2]
        self._budget.charge(_SERIES_COST)
        if shape(body, tree.name) != "power":
            raise _Irrational
        start, second = (self._value(body, {**bound, tree.name: first + turn}) for turn in (0, 1))
        ratio = second / start
        if abs(ratio) >= 1:
            raise _Irrational
        return self._checked(start / (1 - ratio))

    def _checked(self, result: Fraction) -> Fraction:
        bits = _bits(result)
        self._budget.charge(1.5e-11 * bits * bits)
        if bits > _MAX_BITS:
            raise Unbounded("the number is too big")
        return result


class Numeric:
    """Arithmetic with a fixed number of bits: the size of a number costs nothing, and is counted.

    Args:
        budget: What it may cost.
        bits: Precision; the first value is a rough one, which says how many are needed.

    Attributes:
        needed: Bits by which the values of formulas of this kind are told apart: those of every part's size, and 64 a part.
    """

    def __init__(self, budget: Budget, bits: int = _ROUGH) -> None:
        self.context = _context()
        self._bits = bits
        self.needed = 128
        self._budget = budget

    def value(self, tree: Node) -> Any:
        """Returns the value.

        Raises:
            Unbounded: If there is none, or it takes too long.
        """
        self.context.prec = self._bits
        try:
            return self._value(tree, {})
        except (ArithmeticError, TypeError) as error:
            raise Unbounded(str(error)) from error

    def _value(self, tree: Node, bound: Bound) -> Any:
        self._budget.charge(1e-5 + 1e-8 * self.context.prec)
        result = self._operation(tree, bound)
        if not self.context.isfinite(result):
            raise Unbounded("there is no value")
        if tree.op not in {"number", "neg"}:
            self.needed += 64
        if tree.op != "neg":
            self.needed += abs(int(self.context.mag(result))) if result else 0
        if self.needed > _MAX_NEEDED:
            raise Unbounded("too many bits would be needed")
        return result

    def _operation(self, tree: Node, bound: Bound) -> Any:
        context = self.context
        if tree.op == "number":
            return context.mpf(tree.value.numerator) / tree.value.denominator
        if tree.op == "name" and tree.name in bound:
            return context.mpf(bound[tree.name])
        if tree.op in {"pi", "e", "i"}:
            return +{"pi": context.pi, "e": context.e, "i": context.j}[tree.op]
        if tree.op in {"sum", "prod"}:
            turns = _turns(*(self._whole(self._value(limit, bound)) for limit in tree.args[:2]))
            terms = (self._value(tree.args[2], {**bound, tree.name: turn}) for turn in turns)
            return context.fsum(terms) if tree.op == "sum" else context.fprod(terms)
        parts = [self._value(part, bound) for part in tree.args]
        if tree.op == "div":
            self._not_zero(parts[1])
        if tree.op in _BASIC:
            return _BASIC[tree.op](*parts)
        if tree.op in {"pow", "root"}:
            return self._power(tree, *parts)
        if tree.op in {"floor", "ceil", "max", "min"}:
            return self._piece(tree.op, [self._real(part) for part in parts])
        if tree.op in _RATIONAL:  # whole numbers by now, or it has no value here
            exact = _RATIONAL[tree.op](*map(self._whole, parts))
            return context.mpf(exact.numerator) / exact.denominator
        return self._function(tree, parts)

    def _whole(self, value: Any) -> Fraction:
        nearest = self.context.nint(value.real)
        if abs(value - nearest) > self.context.ldexp(1, -self.context.prec // 2) or abs(nearest) > 10**9:
            raise Unbounded("no whole number, or a big one")
        return Fraction(int(nearest))

    def _not_zero(self, value: Any) -> None:
        r"""Refuses a division by a zero that is not exact, `\sin\pi`. A rough value cannot be told from zero."""
        if self._bits > _ROUGH and int(self.context.mag(value) if value else -self._bits) < -(self._bits // 2):
            raise Unbounded("a division by zero")

    def _real(self, value: Any) -> Any:
        if value.imag:
            raise Unbounded("a complex number has no order")
        return value.real

    def _function(self, tree: Node, parts: list[Any]) -> Any:
        context = self.context
        self._budget.charge(1e-4 + 3e-10 * context.prec**2)
        limit = _MAX_GROWING if tree.op in _GROWING else _MAX_ARGUMENT
        if any(part and int(context.mag(part)) > limit for part in parts):
            raise Unbounded(f"what {tree.op} takes is too big")
        if tree.op in _POLES:
            self._not_zero(getattr(context, _POLES[tree.op])(parts[0]))
        if tree.op in ("ln", "log"):
            self._not_zero(parts[0])
        if tree.op == "log":
            self._not_zero(context.log(parts[1]))
            return context.log(parts[0]) / context.log(parts[1])
        if tree.op == "unknown":  # any number, but the same one for the same arguments
            seen = f"{tree.name}{[context.nstr(part, 12) for part in parts]}"
            return context.mpf(random.Random(seen).randint(1, 10**20)) / 10**19
        if tree.op not in _MPMATH or len(parts) != 1:
            raise Unbounded(f"{tree.op} has no value")
        return getattr(context, _MPMATH[tree.op])(parts[0])

    def _piece(self, op: str, parts: list[Any]) -> Any:
        if op in {"max", "min"}:
            return max(parts) if op == "max" else min(parts)
        (value,) = parts
        nearest = self.context.nint(value)
        if abs(value - nearest) <= self.context.ldexp(1, -(self.context.prec // 2)) * max(1, abs(value)):
            return nearest  # the floor of the square of a root
        return self.context.floor(value) if op == "floor" else self.context.ceil(value)

    def _power(self, tree: Node, base: Any, exponent: Any) -> Any:
        context = self.context
        if not base and (not exponent or exponent.real < 0):
            raise Unbounded("0 to that power")
        written = Exact(self._budget).value(tree.args[1])
        if tree.op == "root":
            written = 1 / written if written else None
            exponent = 1 / exponent
        if exponent.real < 0:
            self._not_zero(base)
        size = abs(int(context.mag(base))) + 1 if base else 1
        if abs(exponent) * size > _MAX_EXPONENT:
            raise Unbounded("the power is too big")
        if written is not None and written.denominator == 1:
            return base ** int(written)
        if written is not None and written.denominator == 2:
            return context.sqrt(base) ** written.numerator
        self._budget.charge(1e-4 + 5e-10 * context.prec**2)
        if written is not None and written.denominator % 2 and not base.imag and base.real < 0:  # the real root
            return (-1) ** written.numerator * (-base) ** exponent
        return context.power(base, exponent)


def complex_value(tree: Node, budget: Budget, *, rough: bool = False) -> Any:
    """Returns the value of a formula without names as a complex number of mpmath; None if it has none."""
    try:
        first = Numeric(budget)
        value = first.value(tree)
        if rough:
            return first.context.mpc(value)
        precise = Numeric(budget, 2 * first.needed + 64)
        return precise.context.mpc(precise.value(tree))
    except Unbounded:
        return None


def real_value(tree: Node, budget: Budget, *, rough: bool = False) -> Fraction | None:
    """Returns the value of a formula without names, exact or to many digits; None if it has none or is not real.

    Args:
        tree: The formula.
        budget: What it may cost.
        rough: What is not exact needs few digits only.
    """
    exact = Exact(budget).value(tree)
    if exact is not None:
        return exact
    value = complex_value(tree, budget, rough=rough)
    if value is None or value.imag:
        return None
    mantissa, exponent = value.real.man_exp
    size = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return size if value.real > 0 else -size


def _context() -> Any:
    """Numbers of mpmath, of one thread: to make a context takes longer than most formulas."""
    if not hasattr(_OF_THREAD, "context"):
        _OF_THREAD.context = import_module("mpmath").MPContext()
    return _OF_THREAD.context


class _Irrational(ArithmeticError):
    pass


def shape(tree: Node, name: str) -> str:
    r"""Says how a name is in a formula: "free" of it, "line" (2k + 1), "power" (3 \cdot 2^{-k}), or "other"."""
    if tree.op == "name":
        return "line" if tree.name == name else "free"
    if tree.op in {"sum", "prod"}:
        return "other" if name in names(tree) else "free"
    parts = [shape(part, name) for part in tree.args]
    kinds = set(parts) - {"free"}
    if not kinds:
        return "free"
    if kinds == {"power"}:
        return "power" if tree.op in {"mul", "div", "neg"} else "other"
    if kinds != {"line"}:
        return "other"
    if tree.op in {"add", "neg"} or (tree.op == "mul" and len(parts) - parts.count("free") == 1):
        return "line"
    if parts == ["line", "free"]:
        return "line" if tree.op == "div" else "other"
    return "power" if tree.op == "pow" and parts == ["free", "line"] else "other"


def _bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def _turns(first: Fraction, last: Fraction) -> range:
    if first.denominator != 1 or last.denominator != 1 or last - first > _MAX_TERMS:
        raise Unbounded("the sum is too long")
    return range(int(first), int(last) + 1)


def _integer(value: Fraction) -> int:
    if value.denominator != 1:
        raise _Irrational
    return int(value)


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    times = _integer(exponent)
    if base == 0 and times <= 0:
        raise _Irrational
    if abs(base) in (0, 1):
        return base ** (abs(times) % 2 or 2)
    if _bits(base) * abs(times) > 2 * _MAX_BITS:
        raise Unbounded("the power is too big")
    return base**times


def _factorial(value: Fraction) -> Fraction:
    if not 0 <= _integer(value) <= _MAX_FACTORIAL:
        raise Unbounded("no factorial, or a big one")
    return Fraction(math.factorial(_integer(value)))


def _binomial(above: Fraction, below: Fraction) -> Fraction:
    n, k = _integer(above), _integer(below)
    if not 0 <= n <= _MAX_ABOVE or not 0 <= min(k, n - k) <= _MAX_FACTORIAL:
        raise Unbounded("no binomial, or a big one")
    return Fraction(math.comb(n, k))


_RATIONAL: Final[dict[str, Callable[..., Fraction]]] = {
    "add": lambda *parts: sum(parts, Fraction(0)),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
    "pow": _power,
    "factorial": _factorial,
    "binom": _binomial,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "max": max,
    "min": min,
    "gcd": lambda *parts: Fraction(math.gcd(*map(_integer, parts))),
    "lcm": lambda *parts: Fraction(math.lcm(*map(_integer, parts))),
}
_BASIC: Final[dict[str, Callable[..., Any]]] = {
    "add": lambda *parts: sum(parts),
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "abs": abs,
}
