"""What a user's function or grader gave -> numbers, or an error that says whose they were and what was expected."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

from masa_lightning.types import Problem


def read_rewards(given: Any, count: int, who: str, whose: str) -> list[float]:
    """Checks what a reward function gave: a list with one finite number a completion.

    Args:
        given: What it gave; numbers of any type are understood, arrays and tensors of one dimension too.
        count: Number of completions, N.
        who: Gave it, for errors.
        whose: The completions are, for errors; as `of`.

    Returns:
        [N].

    Raises:
        ValueError: If that is no list of N finite numbers.
    """
    return [read_reward(value, who, whose) for value in listed(given, count, who, whose, "one finite number")]


def read_reward(value: Any, who: str, whose: str) -> float:
    """Checks the reward of one completion.

    Args:
        value: Of any type of numbers.
        who: As of `read_rewards`.
        whose: As of `read_rewards`.

    Raises:
        ValueError: If it is no finite number.
    """
    read = number(value)
    if read is None or not math.isfinite(read):
        raise ValueError(
            f"{who} gave {shown(value)} for a completion {whose}; expected one finite number a completion, 0.0 where it has "
            "nothing to say"
        )
    return read


def listed(given: Any, count: int, who: str, whose: str, each: str) -> Sequence[Any]:
    """Checks that something is a list, or an array or tensor of one dimension, of the right length.

    Args:
        given: What a user's function gave.
        count: As of `read_rewards`.
        who: As of `read_rewards`.
        whose: As of `read_rewards`.
        each: What is expected of each completion, for errors.

    Raises:
        ValueError: If it is none.
    """
    is_text = isinstance(given, (str, bytes, bytearray))
    expected = f"for the {count} completions {whose}; expected a list with {each} a completion"
    if is_text or not (isinstance(given, Sequence) or getattr(given, "ndim", None) == 1):
        shape = f" of shape {tuple(given.shape)}" if hasattr(given, "shape") else ""
        raise ValueError(f"{who} gave {shown(given)}{shape} {expected}")
    values: Sequence[Any] = given
    if len(values) != count:
        raise ValueError(f"{who} gave {len(values)} values {expected}")
    return values


def number(value: Any) -> float | None:
    """A number of any type, truth values, NumPy's and tensors of one element among them, as a float; else None."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()
        except (RuntimeError, TypeError, ValueError):  # of several elements
            return None
    if not isinstance(value, (Real, Decimal)):
        return None
    try:
        return float(value)
    except (OverflowError, ValueError):
        return math.nan


def of(problems: Sequence[Problem]) -> str:
    """Names problems, the first and the last.

    >>> of([Problem(id=name, problem="?", answer="1") for name in "aabc"])
    "of problem 'a' to 'c'"
    """
    ids = [repr(i) for i in dict.fromkeys(problem.id for problem in problems)]
    return f"of problem {' to '.join(ids[:1] + ids[1:][-1:])}"


def shown(value: Any) -> str:
    """A value as messages show it, in a line, with its type."""
    return f"{' '.join(reprlib.repr(value).split())} ({type(value).__name__})"
