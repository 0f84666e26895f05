"""What a user's function or grader gave -> numbers, or an error that says whose they were and what was expected."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

from masa_lightning.types import Problem


def read_rewards(given: Any, problems: Sequence[Problem], who: str) -> list[float]:
    """Checks what a reward function gave: a list with one finite number a completion.

    Args:
        given: What it gave; numbers of any type are understood, arrays and tensors of one dimension too.
        problems: [N] of the completions.
        who: Gave it, for errors.

    Returns:
        [N].

    Raises:
        ValueError: If that is no list of N finite numbers.
    """
    return [read_reward(v, of(problems), who) for v in listed(given, problems, who, "one finite number")]


def read_reward(value: Any, whose: str, who: str) -> float:
    """Checks the reward of one completion.

    Args:
        value: Of any type of numbers.
        whose: As `of`, for errors.
        who: Gave it, for errors.

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


def listed(given: Any, problems: Sequence[Problem], who: str, each: str) -> Sequence[Any]:
    """Checks that something is a list, or an array or tensor of one dimension, of the right length.

    Args:
        given: What a user's function gave.
        problems: [N] of the completions.
        who: Gave it, for errors.
        each: What is expected of each completion, for errors.

    Raises:
        ValueError: If it is none.
    """
    count, is_text = len(problems), isinstance(given, (str, bytes, bytearray))
    expected = f"for the {count} completions {of(problems)}; expected a list with {each} a completion"
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
