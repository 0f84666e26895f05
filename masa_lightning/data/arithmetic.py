"""Generated arithmetic whose difficulty can be read off the text, with worked solutions right and wrong.

Four kinds of problems: chains of sums and differences, products, remainders and greatest common divisors. Each has one
strategy that is right and shorter, and others that mislead and run long, so that a model can learn which problems it
will solve, how long that takes, and which notion helps. The texts are split by their own hash: no text is ever in two
splits, whatever the sizes and seeds.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from typing import Literal

from masa_lightning.data.base import ProblemDataModule
from masa_lightning.types import Problem

Split = Literal["cold_start", "train", "validation", "test"]
ArithmeticKind = Literal["chain", "product", "remainder", "gcd"]

KINDS: tuple[ArithmeticKind, ...] = ("chain", "product", "remainder", "gcd")
# Strategies by kind; the first is the right one. The names are the notions a meta rollout may predict.
STRATEGIES: dict[ArithmeticKind, tuple[str, ...]] = {
    "chain": ("running total", "rounding", "digit sum"),
    "product": ("partial products", "rounding"),
    "remainder": ("long division", "digit sum", "last digit"),
    "gcd": ("euclid", "small factors"),
}
_BUCKETS: dict[Split, range] = {
    "cold_start": range(0, 8),
    "train": range(8, 12),
    "validation": range(12, 14),
    "test": range(14, 16),
}


@dataclass(slots=True, frozen=True)
class Arithmetic:
    """A generated problem in numbers.

    Args:
        kind: Which of the four.
        numbers: Operands; of a chain with their signs, of a remainder (dividend, divisor).
    """

    kind: ArithmeticKind
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """The problem statement."""
        n = self.numbers
        match self.kind:
            case "chain":
                terms = "".join(f"{x:+d}" for x in n[1:])
                return f"Compute {n[0]}{terms}."
            case "product":
                return f"Compute {n[0]}*{n[1]}."
            case "remainder":
                return f"Compute {n[0]} mod {n[1]}."
            case "gcd":
                return f"Compute gcd({n[0]},{n[1]})."

    @property
    def answer(self) -> int:
        n = self.numbers
        match self.kind:
            case "chain":
                return sum(n)
            case "product":
                return n[0] * n[1]
            case "remainder":
                return n[0] % n[1]
            case "gcd":
                return math.gcd(*n)

    @property
    def digits(self) -> int:
        """Digits of the largest operand."""
        return max(len(str(abs(x))) for x in self.numbers)

    @property
    def difficulty(self) -> float:
        """From 0 (trivial) to 1, a function of kind and size alone."""
        match self.kind:
            case "chain":
                level = (len(self.numbers) - 2 + 1.5 * (self.digits - 1)) / 6
            case "product":
                level = 0.1 + 0.4 * (self.digits - 1)
            case "remainder":
                level = 0.15 + 0.3 * (self.digits - 1) - 0.2 * (self.numbers[1] in (2, 3, 5, 9))
            case "gcd":
                level = 0.1 + 0.6 * (self.digits - 1)
        return min(max(level, 0.0), 1.0)


def draw_arithmetic(rng: random.Random) -> Arithmetic:
    """Draws a problem: kinds equally often but chains twice, the largest sizes seldom."""
    kind = rng.choice(("chain", *KINDS))
    match kind:
        case "chain":
            count, digits = rng.randint(2, 6), rng.randint(1, 2)
            if count <= 3 and rng.random() < 0.2:
                digits = 3
            first = _draw(rng, digits)
            return Arithmetic(kind, (first, *(rng.choice((1, -1)) * _draw(rng, digits) for _ in range(count - 1))))
        case "product":
            return Arithmetic(kind, (rng.randint(2, 9), _draw(rng, rng.choice((1, 2, 2, 2, 3)), low=2)))
        case "remainder":
            return Arithmetic(kind, (_draw(rng, rng.choice((2, 2, 3, 3, 4))), rng.randint(2, 9)))
        case "gcd":
            digits = rng.randint(1, 2)
            factor = rng.randint(1, 4 if digits == 1 else 12)
            top = (9 if digits == 1 else 99) // factor
            return Arithmetic(kind, (factor * rng.randint(1, top), factor * rng.randint(1, top)))


def work(task: Arithmetic, strategy: str, rng: random.Random) -> str:
    r"""Writes a solution of `task` by `strategy`, step by step, with its final answer in ``\boxed{}``.

    Misleading strategies go over their steps again and run long; the right one sometimes checks its last step.

    Raises:
        ValueError: If the strategy is not one of the problem's kind.
    """
    if strategy not in STRATEGIES[task.kind]:
        raise ValueError(f"strategy {strategy!r} is not one of {STRATEGIES[task.kind]} for kind {task.kind!r}")
    steps, result = _STEPS[strategy](task)
    if strategy == STRATEGIES[task.kind][0]:
        if rng.random() < 0.5:
            steps = [*steps, "check.", steps[-1]]
    else:
        steps = [*steps, *(["again.", *steps] * rng.randint(1, 3))]
    return " ".join([f"use {strategy}.", *steps, f"so \\boxed{{{result}}}"])


def split_of(text: str) -> Split:
    """The split that a problem text belongs to, by its hash."""
    bucket = hashlib.blake2b(text.encode(), digest_size=2).digest()[0] % 16
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def arithmetic_problems(split: Split, size: int, seed: int) -> list[Problem]:
    """Generates `size` different problems of a split.

    Args:
        split: Which texts may occur; the splits share none.
        size: Number of problems, >= 0.
        seed: Equal seeds give equal problems.

    Raises:
        ValueError: If the generator does not know that many different texts.
    """
    rng = random.Random(f"{split}/{seed}")
    tasks: dict[str, Arithmetic] = {}
    tries = 0
    while len(tasks) < size:
        task = draw_arithmetic(rng)
        if split_of(task.text) == split:
            tasks.setdefault(task.text, task)
        tries += 1
        if tries > 1000 + 200 * size:
            raise ValueError(
                f"only {len(tasks)} different {split} problems were found; expected {size}: lower the size"
            )
    return [
        Problem(
            id=f"arithmetic/{split}/{i}",
            problem=text,
            answer=str(task.answer),
            source="arithmetic",
            metadata={"kind": task.kind, "numbers": list(task.numbers), "difficulty": task.difficulty},
        )
        for i, (text, task) in enumerate(tasks.items())
    ]


class ArithmeticDataModule(ProblemDataModule):
    """Generated arithmetic problems, the data of the embedded model.

    Args:
        train_size: Training problems.
        validation_size: Held-out problems for validation.
        test_size: Held-out problems for the test; none of them is a validation problem.
        batch_size: Problems a training step and process.
        val_batch_size: Problems a validation or test step and process.
        seed: Of the problems and of their order.
    """

    def __init__(
        self,
        train_size: int = 4096,
        validation_size: int = 256,
        test_size: int = 256,
        batch_size: int = 32,
        val_batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, val_batch_size=val_batch_size, seed=seed)
        self.sizes: dict[Split, int] = {"train": train_size, "validation": validation_size, "test": test_size}

    def load_split(self, split: Literal["train", "validation", "test", "predict"]) -> list[Problem]:
        """Generates the problems of a split."""
        return [] if split == "predict" else arithmetic_problems(split, self.sizes[split], self.seed)


def _draw(rng: random.Random, digits: int, low: int = 1) -> int:
    return rng.randint(max(low, 10 ** (digits - 1)), 10**digits - 1)


def _totals(numbers: list[int]) -> tuple[list[str], int]:
    steps, total = [], numbers[0]
    for x in numbers[1:]:
        steps.append(f"{total}{x:+d}={total + x}.")
        total += x
    return steps, total


def _running_total(task: Arithmetic) -> tuple[list[str], int]:
    return _totals(list(task.numbers))


def _rounding(task: Arithmetic) -> tuple[list[str], int]:
    rounded = [int(math.copysign((abs(x) + 5) // 10 * 10, x)) for x in task.numbers]
    if task.kind == "product":
        near = max(rounded[1], 10)
        return [f"{task.numbers[1]} is near {near}.", f"{task.numbers[0]}*{near}={task.numbers[0] * near}."], (
            task.numbers[0] * near
        )
    return _totals(rounded)


def _digit_sum(task: Arithmetic) -> tuple[list[str], int]:
    numbers = task.numbers if task.kind == "chain" else task.numbers[:1]
    digits = [int(d) for x in numbers for d in str(abs(x))][:6]
    steps, total = _totals([*digits, 0] if len(digits) == 1 else digits)
    if task.kind == "chain":
        return steps, total
    divisor = task.numbers[1]
    return [*steps, f"{total} mod {divisor}={total % divisor}."], total % divisor


def _partial_products(task: Arithmetic) -> tuple[list[str], int]:
    a, b = task.numbers
    parts = [int(d) * 10**i for i, d in enumerate(reversed(str(b)))][::-1]
    products = [a * part for part in parts if part]
    steps = [f"{a}*{part}={a * part}." for part in parts if part]
    sums, total = _totals(products)
    return steps + sums, total


def _long_division(task: Arithmetic) -> tuple[list[str], int]:
    dividend, divisor = task.numbers
    steps, rest = [], 0
    for digit in str(dividend):
        partial = 10 * rest + int(digit)
        rest = partial % divisor
        steps.append(f"{partial} mod {divisor}={rest}.")
    return steps, rest


def _last_digit(task: Arithmetic) -> tuple[list[str], int]:
    dividend, divisor = task.numbers
    last = dividend % 10
    return [f"{dividend} ends in {last}.", f"{last} mod {divisor}={last % divisor}."], last % divisor


def _euclid(task: Arithmetic) -> tuple[list[str], int]:
    a, b = max(task.numbers), min(task.numbers)
    steps = []
    while b:
        steps.append(f"{a} mod {b}={a % b}.")
        a, b = b, a % b
    return steps, a


def _small_factors(task: Arithmetic) -> tuple[list[str], int]:
    a, b = task.numbers
    steps, product = [], 1
    for prime in (2, 3):
        divides = a % prime == 0 and b % prime == 0
        steps.append(f"{prime} divides {a} and {b}: {'yes' if divides else 'no'}.")
        product *= prime if divides else 1
    return steps, product


_STEPS = {
    "running total": _running_total,
    "rounding": _rounding,
    "digit sum": _digit_sum,
    "partial products": _partial_products,
    "long division": _long_division,
    "last digit": _last_digit,
    "euclid": _euclid,
    "small factors": _small_factors,
}
