"""Generated arithmetic whose difficulty can be read off the text, with worked solutions right and wrong.

Three tiers. *Trivial* problems want one look. *Open* ones have one right strategy among several, and which it is follows
from the kind and the numbers: a remainder by 9 wants a digit sum, one by 7 long division. The others mislead, or run on
until the tokens end. *Hopeless* problems are too large for each strategy that a model of this size has. So a model can
learn which problems it will solve, how long that takes, and which notion helps; and time is wasted on the first and the
last tier. The texts are split by their own hash: no text is ever in two splits, whatever the sizes and seeds.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Literal, get_args

from masa_lightning.checks import check_number
from masa_lightning.data.arithmetic_strategies import STRATEGIES, ArithmeticKind
from masa_lightning.data.base import ProblemDataModule
from masa_lightning.types import Problem

Split = Literal["cold_start", "train", "validation", "test"]
Tier = Literal["trivial", "open", "hopeless"]

TIERS: Final[dict[Tier, float]] = {"trivial": 0.28, "open": 0.46, "hopeless": 0.26}
"""Shares of the tiers as they are drawn."""

_OPEN: Final[dict[ArithmeticKind, tuple[str, ...]]] = {
    "chain": ("running total", "digit sum", "rounding", "counting"),
    "product": ("partial products", "rounding", "last digit", "repeated addition"),
    "gcd": ("euclid", "small factors", "difference", "trial divisors"),
    "power": ("cycle", "parity", "last digit", "repeated product"),
}
_HOPELESS: Final[dict[ArithmeticKind, tuple[str, ...]]] = {
    "chain": ("counting", "rounding"),
    "product": ("repeated addition", "rounding"),
    "remainder": ("repeated subtraction", "rounding"),
    "gcd": ("trial divisors", "small factors"),
}
_TRIVIAL_DIVISORS: Final = {2: "parity", 10: "last digit", 100: "last two digits"}
_OPEN_DIVISORS: Final = {
    3: "digit sum",
    9: "digit sum",
    5: "last digit",
    4: "last two digits",
    25: "last two digits",
    11: "alternating sum",
    6: "long division",
    7: "long division",
    8: "long division",
}
_SHORTCUTS: Final = ("digit sum", "last digit", "last two digits", "alternating sum")
_BUCKETS: Final[dict[Split, range]] = {
    "cold_start": range(0, 8),
    "train": range(8, 12),
    "validation": range(12, 14),
    "test": range(14, 16),
}


@dataclass(slots=True, frozen=True)
class Arithmetic:
    """A generated problem in numbers.

    Args:
        kind: Which of the six.
        numbers: Operands; of a chain with their signs, of a remainder (dividend, divisor), of a power (base, exponent).
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
            case "power":
                return f"Compute {n[0]}^{n[1]} mod 10."
            case "maximum":
                return f"Compute max({','.join(map(str, n))})."

    @property
    def answer(self) -> int:
        """What is right."""
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
            case "power":
                return pow(n[0], n[1], 10)
            case "maximum":
                return max(n)

    @property
    def digits(self) -> int:
        """Digits of the largest operand."""
        return max(len(str(abs(x))) for x in self.numbers)

    @property
    def tier(self) -> Tier:
        """What to expect of it: a function of kind and size alone."""
        match self.kind:
            case "maximum":
                return "trivial"
            case "power":
                return "open"
            case "chain":
                return "open" if self.digits == 1 else "hopeless"
            case "product":
                return "open" if min(self.numbers) < 10 else "hopeless"
            case "gcd":
                return "open" if self.digits <= 3 else "hopeless"
            case "remainder":
                if self.numbers[1] in _TRIVIAL_DIVISORS:
                    return "trivial"
                return "open" if self.digits <= 4 else "hopeless"

    @property
    def strategies(self) -> tuple[str, ...]:
        """What may be tried; the names are the notions that a meta rollout may predict.

        The first is the right one, but of a hopeless problem, which has none.
        """
        if self.tier == "hopeless":
            return _HOPELESS[self.kind]
        if self.kind == "maximum":
            return ("comparison",)
        if self.kind != "remainder":
            return _OPEN[self.kind]
        if self.tier == "trivial":
            return (_TRIVIAL_DIVISORS[self.numbers[1]],)
        right = _OPEN_DIVISORS[self.numbers[1]]
        also_right = ("last two digits",) if right == "last digit" else ()
        wrong = (name for name in _SHORTCUTS if name not in (right, *also_right))
        return (right, *wrong, "repeated subtraction")

    @property
    def right_strategy(self) -> str | None:
        """The one that leads to the answer; None if the problem is hopeless."""
        return None if self.tier == "hopeless" else self.strategies[0]


def draw_arithmetic(rng: random.Random) -> Arithmetic:
    """Draws a problem, by the shares of `TIERS`, on which each strategy but the right one is wrong or never ends."""
    draw = rng.choice(_DRAWS[rng.choices(list(TIERS), list(TIERS.values()))[0]])
    while True:
        task = draw(rng)
        wrong = (name for name in task.strategies if name != task.right_strategy)
        if all(STRATEGIES[task.kind][name](task.numbers)[1] != task.answer for name in wrong):
            return task


def work(task: Arithmetic, strategy: str, rng: random.Random) -> str:
    r"""Writes a solution of `task` by `strategy`, step by step, with its final answer in ``\boxed{}``.

    The right strategy of an open problem sometimes checks its last step. Misleading ones go over their steps again, and
    those that never end are written down for more tokens than a solution may have.

    Raises:
        ValueError: If the strategy is not one of the problem's.
    """
    if strategy not in task.strategies:
        raise ValueError(f"strategy {strategy!r} is not one of {task.strategies} for {task.text!r}")
    steps, result = STRATEGIES[task.kind][strategy](task.numbers)
    if result is None:
        return " ".join([f"use {strategy}.", *steps])
    if strategy != task.right_strategy:
        steps = [*steps, *(["again.", *steps] * rng.randint(1, 3))]
    elif task.tier == "open" and rng.random() < 0.5:
        steps = [*steps, "check.", steps[-1]]
    return " ".join([f"use {strategy}.", *steps, f"so \\boxed{{{result}}}"])


def split_of(text: str) -> Split:
    """The split that a problem text belongs to, by its hash."""
    bucket = hashlib.blake2b(text.encode(), digest_size=2).digest()[0] % 16
    return next(split for split, buckets in _BUCKETS.items() if bucket in buckets)


def arithmetic_problems(
    split: Split, size: int, seed: int, kinds: Collection[ArithmeticKind] = get_args(ArithmeticKind)
) -> list[Problem]:
    """Generates `size` different problems of a split.

    Args:
        split: Which texts may occur; the splits share none.
        size: Number of problems, >= 0.
        seed: Equal seeds give equal problems.
        kinds: Of the problems.

    Raises:
        ValueError: If the generator does not know that many different texts.
    """
    rng = random.Random(f"{split}/{seed}")
    tasks: dict[str, Arithmetic] = {}
    tries = 0
    while len(tasks) < size:
        task = draw_arithmetic(rng)
        if task.kind in kinds and split_of(task.text) == split:
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
            metadata={
                "kind": task.kind,
                "numbers": list(task.numbers),
                "tier": task.tier,
                "strategy": task.right_strategy,
            },
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
        kinds: Of the problems of all splits; all six by default. Train on some and test on others to see what carries over.

    Raises:
        ValueError: If there is no such kind.
    """

    def __init__(
        self,
        train_size: int = 4096,
        validation_size: int = 256,
        test_size: int = 256,
        batch_size: int = 32,
        val_batch_size: int = 256,
        seed: int = 0,
        kinds: list[ArithmeticKind] | None = None,
    ) -> None:
        super().__init__(batch_size=batch_size, val_batch_size=val_batch_size, seed=seed)
        self.sizes: dict[Split, int] = {"train": train_size, "validation": validation_size, "test": test_size}
        for split, size in self.sizes.items():
            check_number(f"{split}_size", size, ">= 0", whole=True, note="problems")
        self.kinds = get_args(ArithmeticKind) if kinds is None else tuple(kinds)
        if not self.kinds or not {*self.kinds} <= {*get_args(ArithmeticKind)}:
            raise ValueError(f"kinds is {kinds}; expected some of {', '.join(get_args(ArithmeticKind))}")

    def load_split(self, split: Literal["train", "validation", "test", "predict"]) -> list[Problem]:
        """Generates the problems of a split."""
        return [] if split == "predict" else arithmetic_problems(split, self.sizes[split], self.seed, self.kinds)


def _integer(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1), 10**digits - 1)


def _maximum(rng: random.Random) -> Arithmetic:
    return Arithmetic("maximum", tuple(10 * ten + rng.randint(0, 9) for ten in rng.sample(range(1, 10), 2)))


def _trivial_remainder(rng: random.Random) -> Arithmetic:
    return Arithmetic("remainder", (rng.randint(100, 9999), rng.choice(list(_TRIVIAL_DIVISORS))))


def _open_chain(rng: random.Random) -> Arithmetic:
    signs = [1, -1, -1, *rng.choices((1, -1), k=rng.randint(0, 2))]
    return Arithmetic("chain", tuple(sign * rng.randint(1, 9) for sign in signs))


def _open_product(rng: random.Random) -> Arithmetic:
    return Arithmetic("product", (rng.randint(12, 99), rng.randint(3, 9)))


def _open_gcd(rng: random.Random) -> Arithmetic:
    small = rng.randint(4, 49)
    return Arithmetic("gcd", (small * rng.randint(2, 299 // small), small))  # the smaller divides the larger


def _power(rng: random.Random) -> Arithmetic:
    return Arithmetic("power", (10 * rng.randint(0, 9) + rng.choice((2, 3, 7, 8)), rng.randint(10, 96)))


def _open_remainder(strategy: str) -> Callable[[random.Random], Arithmetic]:
    divisors = [divisor for divisor, right in _OPEN_DIVISORS.items() if right == strategy]
    return lambda rng: Arithmetic("remainder", (rng.randint(100, 9999), rng.choice(divisors)))


def _hopeless_chain(rng: random.Random) -> Arithmetic:
    more = (rng.choice((1, -1)) * _integer(rng, 4) for _ in range(rng.randint(3, 5)))
    return Arithmetic("chain", (_integer(rng, 4), *more))


def _hopeless_product(rng: random.Random) -> Arithmetic:
    return Arithmetic("product", (_integer(rng, 3), _integer(rng, 3)))


def _hopeless_remainder(rng: random.Random) -> Arithmetic:
    return Arithmetic("remainder", (_integer(rng, 5), rng.randint(13, 97)))


def _hopeless_gcd(rng: random.Random) -> Arithmetic:
    factor = rng.choice((11, 13, 17, 19, 23, 29))
    low, top = 1000 // factor + 1, 9999 // factor
    return Arithmetic("gcd", (factor * rng.randint(low, top), factor * rng.randint(low, top)))


_DRAWS: Final[dict[Tier, list[Callable[[random.Random], Arithmetic]]]] = {
    "trivial": [_maximum, _maximum, _trivial_remainder, _trivial_remainder, _trivial_remainder],
    "open": [
        _open_chain,
        _open_product,
        _open_gcd,
        _power,
        *(_open_remainder(strategy) for strategy in dict.fromkeys(_OPEN_DIVISORS.values())),
    ],
    "hopeless": [_hopeless_chain, _hopeless_product, _hopeless_remainder, _hopeless_gcd],
}
