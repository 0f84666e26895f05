r"""The value of a number that is written as a formula, `\frac{\sqrt3}{2}` or `2\pi`, in bounded time.

Rational values are exact, others floats. What is no number, or too large to be one, is None.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

Value = Fraction | float

_MAX_DEPTH: Final = 40
_MAX_BITS: Final = 20_000
_MAX_EXPONENT: Final = 999
_TOKEN: Final = re.compile(
    r" *(?:(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<command>\\(?:frac|sqrt|pi|cdot|times|div)(?![A-Za-z]))|"
    r"(?P<sign>[-+*/^(){}\[\]]|e(?![A-Za-z])))"
)
_TIMES: Final = re.compile(r"(?<=\d) ?x ?(?=10 ?\^)")
_RANGE: Final = re.compile(r"(?<=[\d.]) ?[-+] ?(?=[\d.])")


def evaluate(text: str) -> Value | None:
    r"""Returns the value of a normalised text; None if it is no number.

    A sum of plain decimals may be a range or unfinished work, and `1/2/3` and `2\frac{7}{3}` have two meanings: None.

    >>> evaluate("1/8"), evaluate(r"12\frac{1}{2}"), evaluate(r"\sqrt{2}"), evaluate(r"2\pi"), evaluate("9^{9^{9}}")
    (Fraction(1, 8), Fraction(25, 2), 1.4142135623730951, 6.283185307179586, None)
    """
    if _RANGE.search(re.sub(r"\{[^{}]*\}|\([^()]*\)", "()", text)) and "\\" not in text:
        return None
    tokens, position = [], 0
    text = _TIMES.sub("*", text.rstrip())
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        tokens.append(match[0].strip())
        position = match.end()
    try:
        reader = _Reader(tokens)
        value = reader.sum(0)
        return value if reader.at_end() and (isinstance(value, Fraction) or math.isfinite(value)) else None
    except (ValueError, ArithmeticError, IndexError, TypeError):
        return None


class _Reader:
    """Recursive descent over tokens. Anything unexpected raises ValueError or IndexError."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.index = 0

    def at_end(self) -> bool:
        return self.index == len(self.tokens)

    def peek(self) -> str:
        return "" if self.at_end() else self.tokens[self.index]

    def take(self, expected: str = "") -> str:
        token = self.tokens[self.index]
        if expected and token != expected:
            raise ValueError(token)
        self.index += 1
        return token

    def sum(self, depth: int) -> Value:
        if depth > _MAX_DEPTH:
            raise ValueError("too deep")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            sign = self.take()
            other = self.product(depth)
            value = _bounded(value + other if sign == "+" else value - other)
        return value

    def product(self, depth: int) -> Value:
        if self.peek() in ("+", "-"):
            sign = self.take()
            value = self.factor(depth)
            value = -value if sign == "-" else value
        else:
            value = self.factor(depth)
        divided = False
        while True:
            token = self.peek()
            if token in ("*", "\\cdot", "\\times"):
                self.take()
                if divided:
                    raise ValueError("a / b * c")
                value = _bounded(value * self.signed(depth))
            elif token in ("/", "\\div"):
                self.take()
                if divided:
                    raise ValueError("a / b / c")
                value, divided = _bounded(value / self.signed(depth)), True
            elif token in ("\\frac", "\\sqrt", "\\pi", "e", "(", "{") and not divided:
                value = _bounded(value * self.factor(depth))
            else:
                return value

    def signed(self, depth: int) -> Value:
        if self.peek() in ("+", "-"):
            return -self.factor(depth) if self.take() == "-" else self.factor(depth)
        return self.factor(depth)

    def factor(self, depth: int) -> Value:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.take()
        if self.peek() == "{":
            exponent = self.group(depth)
        else:
            exponent = self.signed(_MAX_DEPTH) if self.peek() in ("+", "-") else self.atom(depth)
        if self.peek() == "^":
            raise ValueError("a^b^c")
        return _power(base, exponent)

    def atom(self, depth: int) -> Value:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            whole = Fraction(token.rstrip("."))
            return self.mixed(whole, depth) if token.isdigit() else whole
        if token == "\\frac":
            value = self.group(depth)
            return _bounded(value / self.group(depth))
        if token == "\\sqrt":
            degree = Fraction(2)
            if self.peek() == "[":
                self.take()
                degree = Fraction(self.take())
                self.take("]")
            return _root(self.group(depth), degree)
        if token == "\\pi":
            return math.pi
        if token == "e":
            return math.e
        if token in ("(", "{"):
            self.index -= 1
            return self.group(depth)
        raise ValueError(token)

    def group(self, depth: int) -> Value:
        closing = {"{": "}", "(": ")"}[self.tokens[self.index]] if self.peek() in ("{", "(") else ""
        if not closing:
            raise ValueError(self.peek())
        self.take()
        value = self.sum(depth + 1)
        self.take(closing)
        return value

    def mixed(self, whole: Fraction, depth: int) -> Value:
        r"""Reads 12\frac{1}{2} and 12 1/2 as mixed numbers."""
        rest = self.tokens[self.index : self.index + 7]
        if rest[:2] == ["\\frac", "{"] and len(rest) == 7 and rest[2].isdigit() and rest[5].isdigit():
            if rest[3:5] != ["}", "{"] or rest[6] != "}" or int(rest[2]) >= int(rest[5]):
                raise ValueError("2\\frac{7}{3}")
            self.index += 7
            return _bounded(whole + Fraction(int(rest[2]), int(rest[5])))
        if len(rest) >= 3 and rest[0].isdigit() and rest[1] == "/" and rest[2].isdigit():
            if int(rest[0]) >= int(rest[2]):
                raise ValueError("2 7/3")
            self.index += 3
            return _bounded(whole + Fraction(int(rest[0]), int(rest[2])))
        return whole


def _bounded(value: Value) -> Value:
    if isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise ValueError("too large")
    return value


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) > _MAX_EXPONENT or size * abs(exponent) > _MAX_BITS:
            raise ValueError("too large")
        return base**exponent
    return math.pow(base, exponent)  # raises for what is not real


def _root(value: Value, degree: Fraction) -> Value:
    if value < 0 or degree < 1:
        raise ValueError("not real")
    root = math.sqrt(value) if degree == 2 else float(value) ** (1 / float(degree))
    whole = Fraction(round(root)) if root < 2**50 else None
    exact = whole is not None and degree.denominator == 1 and degree < 64 and whole**degree == value
    return whole if exact and whole is not None else root
