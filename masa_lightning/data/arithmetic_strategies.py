r"""How generated arithmetic is worked out: by each strategy, step by step, whether that is right, misleads or never ends.

A strategy is a function of the problem's numbers. It gives its steps as texts and its result: a number, or None where it
goes on and on, beyond every budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Literal

ArithmeticKind = Literal["chain", "product", "remainder", "gcd", "power", "maximum"]
Numbers = tuple[int, ...]
Worked = tuple[list[str], int | None]

MOST_STEPS: Final = 100
"""Steps that are written of what never ends: more than 128 tokens of the embedded model."""


def _totals(numbers: Numbers) -> tuple[list[str], int]:
    steps, total = [], numbers[0]
    for x in numbers[1:]:
        steps.append(f"{total}{x:+d}={total + x}.")
        total += x
    return steps, total


def _digits(value: int) -> Numbers:
    return tuple(int(digit) for digit in str(abs(value)))


def _endless(steps: list[str]) -> Worked:
    """Begins again and again."""
    rounds = [*steps, "again."] * (MOST_STEPS // len(steps) + 1)
    return rounds[:MOST_STEPS], None


def _rounded(value: int) -> int:
    return int(math.copysign((abs(value) + 5) // 10 * 10, value))


# Chains: the summands with their signs.


def _rounding(numbers: Numbers) -> Worked:
    return _totals(tuple(_rounded(x) for x in numbers))


def _sum_of_digits(numbers: Numbers) -> Worked:
    return _totals(tuple(digit for x in numbers for digit in _digits(x)))


def _counting(numbers: Numbers) -> Worked:
    total, steps = numbers[0], []
    for x in numbers[1:]:
        for _ in range(min(abs(x), MOST_STEPS)):
            total += 1 if x > 0 else -1
            steps.append(f"{total}.")
    return _endless(steps)


# Products: two factors.


def _partial_products(numbers: Numbers) -> Worked:
    left, right = numbers
    parts = [digit * 10**place for place, digit in enumerate(reversed(_digits(left))) if digit][::-1]
    sums, total = _totals(tuple(part * right for part in parts))
    return [*(f"{part}*{right}={part * right}." for part in parts), *sums], total


def _rounded_product(numbers: Numbers) -> Worked:
    left, right = numbers
    near = _rounded(left)
    return [f"{left} is near {near}.", f"{near}*{right}={near * right}."], near * right


def _product_of_last_digits(numbers: Numbers) -> Worked:
    left, right = (x % 10 for x in numbers)
    return [f"{left}*{right}={left * right}."], left * right % 10


def _repeated_addition(numbers: Numbers) -> Worked:
    left, right = numbers
    return _endless(_totals((right,) * min(left, MOST_STEPS))[0])


# Remainders: dividend and divisor.


def _ending(digits: int, divisor: int | None = None) -> Callable[[Numbers], Worked]:
    def worked(numbers: Numbers) -> Worked:
        value, by = numbers
        last = value % 10**digits
        if by == divisor:  # the remainder itself
            return [], last
        return [f"{value} ends in {last:0{digits}}.", f"{last:0{digits}} mod {by}={last % by}."], last % by

    return worked


def _parity(numbers: Numbers) -> Worked:
    odd = numbers[0] % 2
    return [f"{numbers[0]} is {'odd' if odd else 'even'}."], odd


def _digit_sum(numbers: Numbers) -> Worked:
    value, divisor = numbers
    steps, total = _totals(_digits(value))
    return [*steps, f"{total} mod {divisor}={total % divisor}."], total % divisor


def _alternating_sum(numbers: Numbers) -> Worked:
    value, divisor = numbers
    steps, total = _totals(tuple(digit * (-1) ** place for place, digit in enumerate(reversed(_digits(value)))))
    return [*steps, f"{total} mod {divisor}={total % divisor}."], total % divisor


def _long_division(numbers: Numbers) -> Worked:
    value, divisor = numbers
    steps, rest = [], 0
    for digit in _digits(value):
        steps.append(f"{10 * rest + digit} mod {divisor}={(10 * rest + digit) % divisor}.")
        rest = (10 * rest + digit) % divisor
    return steps, rest


def _repeated_subtraction(numbers: Numbers) -> Worked:
    value, divisor = numbers
    return _endless(_totals((value, *[-divisor] * min(value // divisor, MOST_STEPS)))[0])


def _rounded_division(numbers: Numbers) -> Worked:
    return [f"{x} is near {_rounded(x)}." for x in numbers], 0


# Greatest common divisors: two numbers.


def _euclid(numbers: Numbers) -> Worked:
    large, small = max(numbers), min(numbers)
    steps = []
    while small:
        steps.append(f"{large} mod {small}={large % small}.")
        large, small = small, large % small
    return steps, large


def _small_factors(numbers: Numbers) -> Worked:
    steps, product = [], 1
    for prime in (2, 3):
        divides = all(x % prime == 0 for x in numbers)
        steps.append(f"{prime} divides {' and '.join(map(str, numbers))}: {'yes' if divides else 'no'}.")
        product *= prime if divides else 1
    return steps, product


def _difference(numbers: Numbers) -> Worked:
    large, small = max(numbers), min(numbers)
    return [f"{large}-{small}={large - small}."], large - small


def _trial_divisors(numbers: Numbers) -> Worked:
    top = max(numbers)
    return _endless([f"{x} no." for x in range(top, max(top - MOST_STEPS, 1), -1)])


# Last digits of powers: base and exponent.


def _cycle(numbers: Numbers) -> Worked:
    base, exponent = numbers
    last, rest = base % 10, exponent % 4
    powers = [last**i % 10 for i in range(1, (rest or 4) + 1)]
    steps = [f"{base} ends in {last}.", f"{exponent} mod 4={rest}.", f"{last}: {','.join(map(str, powers))}."]
    return steps, powers[-1]


def _parity_of_exponent(numbers: Numbers) -> Worked:
    return _parity((numbers[1],))


def _last_digit_of_base(numbers: Numbers) -> Worked:
    return [f"{numbers[0]} ends in {numbers[0] % 10}."], numbers[0] % 10


def _repeated_product(numbers: Numbers) -> Worked:
    base, exponent = numbers
    powers = [base**i for i in range(1, min(exponent, 12) + 1)]
    return _endless([f"{power}*{base}={power * base}." for power in powers])


STRATEGIES: Final[dict[ArithmeticKind, dict[str, Callable[[Numbers], Worked]]]] = {
    "chain": {
        "running total": _totals,
        "digit sum": _sum_of_digits,
        "rounding": _rounding,
        "counting": _counting,
    },
    "product": {
        "partial products": _partial_products,
        "rounding": _rounded_product,
        "last digit": _product_of_last_digits,
        "repeated addition": _repeated_addition,
    },
    "remainder": {
        "parity": _parity,
        "last digit": _ending(1, 10),
        "last two digits": _ending(2, 100),
        "digit sum": _digit_sum,
        "alternating sum": _alternating_sum,
        "long division": _long_division,
        "rounding": _rounded_division,
        "repeated subtraction": _repeated_subtraction,
    },
    "gcd": {
        "euclid": _euclid,
        "small factors": _small_factors,
        "difference": _difference,
        "trial divisors": _trial_divisors,
    },
    "power": {
        "cycle": _cycle,
        "parity": _parity_of_exponent,
        "last digit": _last_digit_of_base,
        "repeated product": _repeated_product,
    },
    "maximum": {"comparison": lambda numbers: ([], max(numbers))},
}
"""All that is known of a kind. Which of them a problem offers, and which is right, says `Arithmetic.strategies`."""
