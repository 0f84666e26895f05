r"""LaTeX of one expression -> its tree, all of it or nothing, in linear time and without evaluating anything.

What is ambiguous (`1/2x`, `x2`, `5!!`, `2 3`) or not known is no formula: a reader that guesses takes wrong answers for
right ones. `\log` without a base and `\lg` are to base 10, `2\frac{1}{2}` is a mixed number, and
`f`, `g`, `h` before a parenthesis are functions of which nothing is known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Final, NamedTuple

from masa_lightning.functional._vocabulary import FUNCTIONS, FUNCTIONS_OF_MANY, GREEK

_MAX_DEPTH: Final = 40
_MAX_NODES: Final = 2000
_MAX_DOUBLE: Final = 300  # of a double factorial

_TOKEN: Final = re.compile(
    r"\\(?:text|mathcal|mathbb|vec|hat|bar|tilde|dot|ddot|"
    r"overrightarrow|widehat)\*?\s*(?:\{[^{}]*\}|[A-Za-z](?![A-Za-z]))"
    r"|\\overline\s*(?:\{[^{}]*\}|\d)|\\[A-Za-z]+|\\[{}]|\d+(?:\.\d+)?|\.\d+|[^\s]"
)
_E_NOTATION: Final = re.compile(r"[\d.][eE][+-]?\d")
_DERIVATIVE: Final = re.compile(r"\\[dt]?frac\s*\{\s*(?:d|\\partial)[ a-z^0-9]*\}\s*\{\s*(?:d|\\partial)\s*[a-z]")
_NAMED: Final = re.compile(r"\\([a-z]+)\*?\s*\{?\s*([^{}]*?)\s*\}?")

_JOINED: Final = re.compile(r"\\(arc(?:sin|cos|tan)|sin|cos|tan|sec|csc|cot|log|ln|pi)([a-z])(?![A-Za-z])")
_UNKNOWN_FUNCTIONS: Final = frozenset("fghFGH")
OF_ANGLES: Final = frozenset({"sin", "cos", "tan", "cot", "sec", "csc"})
"""Functions that take an angle."""

_TIMES: Final = frozenset({"\\cdot", "\\times", "*"})
_OVER: Final = frozenset({"/", "\\div"})
_CLOSING: Final = {
    "(": ")",
    "[": "]",
    "{": "}",
    "|": "|",
    "\\lfloor": "\\rfloor",
    "\\lceil": "\\rceil",
}
_BETWEEN: Final = {"\\choose": "binom", "\\over": "div"}
_AROUND: Final = {"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}


class Unreadable(ValueError):
    """The text is no formula that can be read without a guess."""


class Node(NamedTuple):
    """A part of a formula: an operation and its arguments, a number, or a name."""

    op: str  # number, name, pi, e, i, infinity, add, mul, div, neg, pow, sum, prod, unknown, or a function
    args: tuple[Node, ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


def read_formula(text: str) -> Node:
    r"""Reads a formula.

    Args:
        text: LaTeX without `\left`, `\right`, spacing commands and units.

    Returns:
        Its tree; decimals in it are exact.

    Raises:
        Unreadable: If any part of the text is unknown or has two meanings.
    """
    if _E_NOTATION.search(text) or _DERIVATIVE.search(text):
        raise Unreadable("e may be Euler's number or a power of ten, dy/dx is no fraction")
    reader = _Reader(_TOKEN.findall(text))
    tree = reader.inside()
    if reader.peek():
        raise Unreadable(f"{reader.peek()!r} is left over")
    return tree


def names(tree: Node) -> frozenset[str]:
    """Returns the free names of a formula."""
    if tree.op == "name":
        return frozenset({tree.name})
    parts = [names(part) for part in tree.args]
    if tree.op in {"sum", "prod"}:
        parts[-1] -= {tree.name}
    return frozenset[str]().union(*parts)


def with_values(tree: Node, values: Mapping[str, Fraction]) -> Node:
    """Writes numbers for free names."""
    if tree.op == "name" and tree.name in values:
        return Node("number", value=values[tree.name])
    if not tree.args:
        return tree
    inner = {name: n for name, n in values.items() if name != tree.name} if tree.op in {"sum", "prod"} else values
    return tree._replace(
        args=(*(with_values(part, values) for part in tree.args[:-1]), with_values(tree.args[-1], inner))
    )


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth, self.nodes = tokens, 0, 0, 0
        self.turned = 0  # functions of an angle that are open
        self.bars: list[str] = []  # what is open, to tell a closing bar from an opening one

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise Unreadable(f"found {token or 'the end'!r}; expected {expected or 'more'!r}")
        self.at += 1
        return token

    def node(self, op: str, *args: Node, value: Fraction = Fraction(0), name: str = "") -> Node:
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise Unreadable("the formula is too long")
        return Node(op, args, value, name)

    def inside(self) -> Node:
        r"""All of a group, or of the formula: `\choose` and `\over` take both sides whole."""
        above = self.sum()
        if self.peek() not in _BETWEEN:
            return above
        return self.node(_BETWEEN[self.take()], above, self.sum())

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unreadable("the formula is nested too deeply")
        terms = [self._signed_term()]
        while self.peek() in ("+", "-"):
            terms.append(self._signed_term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else self.node("add", *terms)

    def _sign(self) -> bool:
        negative = False
        if self.peek() in ("+", "-"):
            negative = self.take() == "-"
        return negative

    def _signed_term(self) -> Node:
        plus = self.peek() == "+"
        negative = self._sign()
        if plus:  # 30+-3x
            negative = self._sign()
        term = self._term()
        return self.node("neg", term) if negative else term

    def _term(self) -> Node:
        product = self._factor()
        divided = False
        while True:
            token = self.peek()
            if token in _TIMES or token in _OVER:
                self.take()
                negative = self._sign()
                factor = self._factor()
                if token == "\\times" and all(map(_ends_in_capital, (product, factor))):
                    raise Unreadable("sets and vectors have products with an order")
                factor = self.node("neg", factor) if negative else factor
                product = self.node("div" if token in _OVER else "mul", product, factor)
                divided = token == "/"
            elif self._starts_factor():
                if divided:
                    raise Unreadable("1/2x may be 1/(2x) or x/2")
                product = self._beside(product)
            else:
                return product

    def _beside(self, left: Node) -> Node:
        """Two factors without a sign between them; a number before a fraction is a mixed number."""
        if (self.peek()[0].isdigit() and self.tokens[self.at - 1] != "!") or self.peek()[0] == ".":
            raise Unreadable("a number stands right behind another factor")
        bare = self.tokens[self.at - 1][-1].isdigit()
        right = self._factor()
        if bare and left.op == "number" and right.op == "div" and all(part.op == "number" for part in right.args):
            above, below = (part.value for part in right.args)
            if {left.value.denominator, above.denominator, below.denominator} != {1} or not 0 < above < below:
                raise Unreadable("a mixed number needs a proper fraction")
            return self.node("add", left, right)
        return self.node("mul", left, right)

    def _starts_factor(self) -> bool:
        token = self.peek()
        if (
            not token
            or token in "+-=<>,;:)]}^_!'&/*~%#\"`?@°"
            or token in _TIMES
            or token in _OVER
            or token in _BETWEEN
        ):
            return False
        if self.bars and token == self.bars[-1]:
            return False
        return token not in _CLOSING.values() or token == "|"

    def _factor(self) -> Node:
        closed = self.peek() == "("
        base = self._base()
        while self.peek() in ("^", "!", "°"):
            sign = self.take()
            open_power, closed = base.op == "pow" and not closed, False
            if sign == "°":
                base = self._in_degrees(base)
            elif sign == "!":
                if open_power:
                    raise Unreadable("a factorial of a power")
                base = self._double_factorial(base) if self.peek() == "!" else self.node("factorial", base)
            else:
                if open_power:
                    raise Unreadable("two exponents")
                base = self.node("pow", base, self._script())
                if self.peek() == "!":
                    raise Unreadable("a factorial behind an exponent")
        return base

    def _double_factorial(self, base: Node) -> Node:
        """5!! is 5 times 3, and not the factorial of 5!."""
        self.take("!")
        if base.op != "number" or base.value.denominator != 1 or base.value > _MAX_DOUBLE or self.peek() == "!":
            raise Unreadable("a double factorial of more than a small number")
        return self.node("number", value=Fraction(math.prod(range(int(base.value), 0, -2))))

    def _in_degrees(self, angle: Node) -> Node:
        """Degrees are a unit, which may be missing, but for what a function takes."""
        if not self.turned:
            return angle
        return self.node("div", self.node("mul", angle, self.node("pi")), self.node("number", value=Fraction(180)))

    def _script(self) -> Node:
        """An exponent or an index: a group, or one number or letter, perhaps with a sign."""
        if self.peek() in ("{", "("):
            return self._group()
        negative = self._sign()
        token = self.peek()
        if not (
            token[:1].isdigit()
            or token.isalpha()
            or token == "\\frac"
            or token[1:] in GREEK
            or token in ("\\pi", "\\infty")
        ):
            raise Unreadable(f"{token!r} as an exponent")
        script = self._base()
        return self.node("neg", script) if negative else script

    def _group(self) -> Node:
        opening = self.take()
        closing = _CLOSING[opening]
        self.bars.append(closing)
        inside = self.inside()
        self.bars.pop()
        self.take(closing)
        return inside

    def _argument(self) -> Node:
        r"""What a command such as \frac or \sqrt takes: a group or a single digit, letter or command."""
        token = self.peek()
        if token == "{":
            return self._group()
        if re.fullmatch(r"\d+", token):
            self.tokens[self.at : self.at + 1] = list(token)  # \frac12 takes one digit
            digit = self.take()
            return self.node("number", value=Fraction(int(digit)))
        if re.fullmatch(r"[A-Za-z]", token) or token[1:] in GREEK or token == "\\pi":
            return self._base()
        raise Unreadable(f"{token!r} as an argument")

    def _no_digit(self) -> None:
        if self.peek()[:1].isdigit():
            raise Unreadable("more digits than arguments")

    def _base(self) -> Node:
        token = self.peek()
        if token[:1].isdigit() or (token[:1] == "." and len(token) > 1):
            return self._number()
        if token in _CLOSING:
            inside = self._group()
            return self.node(_AROUND[token], inside) if token in _AROUND else inside
        self.take()
        if re.fullmatch("[A-Za-z]", token):
            return self._letter(token)
        if token in ("\\frac", "\\binom"):
            above, below = self._argument(), self._argument()
            self._no_digit()
            return self.node("div" if token == "\\frac" else "binom", above, below)
        if token == "\\sqrt":
            return self._root()
        if token in ("\\sum", "\\prod"):
            return self._series(token[1:])
        if token == "\\infty":
            return self.node("infinity")
        if token == "\\pi":
            return self._letter(token)
        return self._command(token)

    def _command(self, token: str) -> Node:
        if token[:1] != "\\":
            raise Unreadable(f"{token!r} is unknown")
        name = token[1:]
        if name in GREEK:
            return self._letter(token)
        joined = _JOINED.match(token)
        if joined and name not in FUNCTIONS:  # \secx, as golds without blanks have it
            self.at -= 1
            self.tokens[self.at : self.at + 1] = [f"\\{joined[1]}", joined[2]]
            return self._base()
        if name in ("angle", "triangle"):
            while re.fullmatch("[A-Z]", self.peek()):
                token += self.take()
            return self._letter(token)
        named = _NAMED.fullmatch(token) if not name.isalpha() or "{" in token else None
        if named:
            kind, name = named[1], named[2]
            if not name:
                raise Unreadable("an empty name")
            if kind != "text" or (name not in FUNCTIONS and name not in FUNCTIONS_OF_MANY):
                plain = kind == "text" and len(name) == 1
                return self._letter(name if plain else f"\\{kind}{{{name}}}")
        if name in FUNCTIONS:
            return self._function(FUNCTIONS[name])
        if name in FUNCTIONS_OF_MANY:
            return self.node(name, *self._arguments())
        raise Unreadable(f"{token!r} is unknown")

    def _number(self) -> Node:
        token = self.take()
        value = Fraction(token if token[0] != "." else f"0{token}")
        if self.peek().startswith("\\overline"):
            raise Unreadable("a repeating decimal in a formula")
        return self.node("number", value=value)

    def _letter(self, name: str) -> Node:
        name = plain = name.replace("\\var", "\\")
        if self.peek() == "_":
            self.take()
            start = self.at
            self._script()
            name += "_" + "".join(self.tokens[start : self.at]).strip("{}")
        while self.peek() == "'":
            name += self.take()
        if name == plain:
            if name in ("e", "i"):
                return self.node(name)
            if name == "\\pi":
                return self.node("pi")
            if name in _UNKNOWN_FUNCTIONS and self.peek() == "(":
                return self.node("unknown", *self._arguments(), name=name)
        return self.node("name", name=name)

    def _root(self) -> Node:
        degree = None
        if self.peek() == "[":
            degree = self._group()
        radicand = self._argument()
        self._no_digit()
        return self.node("root", radicand, degree or self.node("number", value=Fraction(2)))

    def _arguments(self) -> tuple[Node, ...]:
        self.take("(")
        self.bars.append(")")
        found = [self.sum()]
        while self.peek() == ",":
            self.take()
            found.append(self.sum())
        self.bars.pop()
        self.take(")")
        return tuple(found)

    def _function(self, name: str) -> Node:
        base = power = None
        while self.peek() in ("^", "_"):
            if self.take() == "_":
                if name != "log" or base is not None:
                    raise Unreadable("an index of a function")
                base = self._script()
            elif power is None:
                power = self._script()
            else:
                raise Unreadable("two exponents")
        if power == Node("neg", (Node("number", value=Fraction(1)),)) and name in ("sin", "cos", "tan"):
            name, power = f"a{name}", None
        self.turned += name in OF_ANGLES
        argument = self._bare_argument()
        self.turned -= name in OF_ANGLES
        if name == "log":
            found = self.node("log", argument, base or self.node("number", value=Fraction(10)))
        else:
            found = self.node(name, argument)
        return found if power is None else self.node("pow", found, power)

    def _bare_argument(self) -> Node:
        r"""The argument of \sin and the like: a group in parentheses, or the product that follows."""
        if self.peek() in ("(", "{", "[", "|"):
            return self._group() if self.peek() != "|" else self._base()
        product = self._factor()
        while self._starts_factor() and self.peek() not in ("(", "["):
            if self.peek()[1:] in FUNCTIONS or self.peek() in ("\\sum", "\\prod"):
                return product
            product = self._beside(product)
        if self.peek() in ("(", "[", "/"):
            raise Unreadable("the end of a function's argument is not clear")
        return product

    def _series(self, op: str) -> Node:
        self.take("_")
        self.take("{")
        variable = self.take()
        self.take("=")
        if not re.fullmatch(r"[A-Za-z]", variable):
            raise Unreadable("a sum needs one variable")
        first = self.sum()
        self.take("}")
        self.take("^")
        last = self._script()
        body = self._term()
        if variable == "i":
            body = _renamed(body)
        return self.node(op, first, last, body, name=variable)


def _ends_in_capital(tree: Node) -> bool:
    r"""Is the last factor a name that may be a set or a vector, `A`, `\vec{a}`?"""
    while tree.op == "mul":
        tree = tree.args[-1]
    return tree.op == "name" and (
        tree.name[:1].isupper() or tree.name.startswith(("\\vec", "\\over", "\\hat", "\\math"))
    )


def _renamed(tree: Node) -> Node:
    """The i of a sum's index is no imaginary unit."""
    if tree.op == "i":
        return Node("name", name="i")
    return tree._replace(args=tuple(_renamed(part) for part in tree.args))
