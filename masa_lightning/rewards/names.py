"""What reward functions are called in metrics, records and model cards."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from masa_lightning.protocols import RewardFunction
from masa_lightning.rewards.values import shown

RESERVED = ("correct", "confidence", "overlong", "length", "difficulty", "notion")
"""Names of the parts of a reward that are no reward functions."""

_FORBIDDEN = re.compile(r"[^\w.-]+")  # in a metric's name, as TensorBoard has it; "/" makes groups


def reward_names(functions: Sequence[RewardFunction]) -> list[str]:
    """Names of reward functions in metrics, records and model cards: no two are equal, and they depend on nothing else.

    The attribute `name` of a function wins. Else it is the function's own name, or the class's of a callable object; what is
    wrapped in `functools.partial` has the name of what it wraps. Those that are taken already get a number.

    Raises:
        TypeError: If this is no list of callables.
        ValueError: If a name is reserved, not fit for a metric, or given twice.

    >>> def brief(problem, completions): ...
    >>> reward_names([brief, partial(brief), lambda problem, completions: []])
    ['brief', 'brief_2', 'lambda']
    """
    if not isinstance(functions, (list, tuple)):
        raise TypeError(f"reward_functions is {shown(functions)}; expected a list of functions")
    given: dict[int, str] = {}
    for i, function in enumerate(functions):
        if not callable(function) or isinstance(function, type):
            what = "a class; expected an object of it" if isinstance(function, type) else "not callable"
            raise TypeError(f"reward_functions[{i}] is {shown(function)}, which is {what}")
        name: Any = getattr(function, "name", None)
        if name is not None:
            if not isinstance(name, str) or not is_fit(name):
                raise ValueError(
                    f"reward_functions[{i}] has the name {shown(name)}; expected letters, digits, '_', '-' and '.'"
                )
            given[i] = name
    twice = [name for name, count in Counter(given.values()).items() if count > 1]
    if twice:
        raise ValueError(
            f"{twice[0]!r} is the name of {list(given.values()).count(twice[0])} reward_functions; expected different ones: "
            "change their attribute `name`, or leave it out to have them numbered"
        )
    own = {i: own_name(function) for i, function in enumerate(functions) if i not in given}
    for i, name in (given | own).items():
        if name in RESERVED:
            raise ValueError(
                f"reward_functions[{i}] has the name {name!r}, which is the name of another part of rewards; expected none "
                f"of {', '.join(RESERVED)}: rename it, or give it an attribute `name`"
            )
    names: list[str] = []
    for i in range(len(functions)):
        name = given.get(i, own.get(i, ""))
        if i in own and name in (*names, *given.values()):
            number = 2
            while f"{name}_{number}" in (*names, *given.values(), *own.values()):
                number += 1
            name = f"{name}_{number}"
        names.append(name)
    return names


def own_name(function: Any) -> str:
    """The name of a function that was given none.

    >>> own_name(lambda problem, completions: [])
    'lambda'
    """
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__)
    if name == "__call__":
        name = type(getattr(function, "__self__", function)).__name__
    return _FORBIDDEN.sub("_", str(name).strip("<>")) or "reward"


def is_fit(name: str) -> bool:
    """Whether a metric may have this name."""
    return bool(name) and not _FORBIDDEN.search(name)
