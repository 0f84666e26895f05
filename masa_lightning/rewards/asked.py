"""What a reward function asks for by the names of its parameters, and whether a call is for one completion or for many."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal

import torch

from masa_lightning.functional.confidence import stated_confidence
from masa_lightning.protocols import RewardFunction
from masa_lightning.types import Problem, Rollout

Form = Literal["completion", "problem", "batch"]
"""What one call is for."""

READERS: Final[dict[str, Callable[[Problem, Rollout], Any]]] = {
    "problem": lambda problem, _: problem,
    "metadata": lambda problem, _: dict(problem.metadata),
    "completion": lambda _, rollout: rollout.text,
    "completion_ids": lambda _, rollout: [*rollout.completion.token_ids],
    "length": lambda _, rollout: rollout.length,
    "finish_reason": lambda _, rollout: rollout.completion.finish_reason,
    "correct": lambda _, rollout: None if rollout.ungraded else rollout.correct,
    "confidence": lambda _, rollout: stated_confidence(rollout),
}
"""What there is of a completion, by name."""
OF_PROBLEM: Final = ("problem", "metadata")
"""Of these all completions of a problem have the same."""
SERVICES: Final = ("log_metric", "device")
"""What a call of any form may ask for besides."""

_MANY: Final = {
    "completions": "completion",
    "completion_ids": "completion_ids",
    "lengths": "length",
    "finish_reasons": "finish_reason",
    "correct": "correct",
    "confidences": "confidence",
    "metadata": "metadata",
}
NAMES: Final[dict[Form, dict[str, str]]] = {
    "completion": {name: name for name in READERS},
    "problem": {"problem": "problem", **_MANY},
    "batch": {"problems": "problem", **_MANY},
}
"""For each form the names that a function may ask for, and what they are of `READERS`."""
_PHRASES: Final[dict[Form, str]] = {
    "completion": "for one completion",
    "problem": "for all completions of one problem",
    "batch": "for all completions of the batch",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reward function asks for.

    Args:
        form: What one call is for.
        names: Of `NAMES` of this form, and of `SERVICES`.
        is_async: Whether a call has to be awaited.
        required: Those of the names that have no default.
    """

    form: Form
    names: tuple[str, ...]
    is_async: bool
    required: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def waits_for_verdicts(self) -> bool:
        """Whether it can be called only when its completions are graded."""
        return "correct" in self.names

    @property
    def can_begin_early(self) -> bool:
        """Whether a completion can be asked about while others are drawn."""
        return self.is_async and self.form == "completion" and not self.waits_for_verdicts


def read_signature(function: RewardFunction, who: str, *, absent: Collection[str] = ()) -> Asked:
    """Reads what a reward function asks for.

    It is called for one completion if it requires `completion`, `length`, `finish_reason` or `confidence`; for all
    completions of a problem if it requires `problem` beside other names; and for those of the whole batch else. Parameters
    with a default are given what they ask for where their name is one of those of the form, and ``**kwargs`` all of these.

    Args:
        function: Any callable.
        who: It is, for errors.
        absent: Of `READERS`, what no completion of the run has.

    Raises:
        TypeError: If its signature cannot be read, requires what there is not or is absent, asks for nothing of a
            completion, or it gives no values when it is called (``yield``).

    >>> read_signature(lambda problem, completions, limit=3: [], "it")
    Asked(form='problem', names=('problem', 'completions'), is_async=False)
    """
    if _is_any(function, inspect.isgeneratorfunction, inspect.isasyncgenfunction):
        raise TypeError(
            f"{who} is a generator, which gives no rewards when it is called; expected `return`, not `yield`"
        )
    try:
        parameters = [*inspect.signature(_called(function)).parameters.values()]
    except (TypeError, ValueError) as error:
        raise TypeError(f"{who} has a signature that cannot be read ({error}); expected a function of Python") from None
    bound = _bound(function)  # by the user, who means it
    by_name = {
        p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in bound
    }
    required = [name for name, p in by_name.items() if p.default is p.empty]
    form = _form(required or [*by_name])
    known = [*NAMES[form], *SERVICES]
    by_position = [p.name for p in parameters if p.kind == p.POSITIONAL_ONLY and p.default is p.empty]
    if unknown := [*by_position, *(name for name in required if name not in known)]:
        told = ", ".join(map(_with_near, unknown))
        raise TypeError(
            f"{who} requires {told}, and is called {_PHRASES[form]} with what it asks for by name; expected names of "
            f"{_all_names()}: rename {'it' if len(unknown) == 1 else 'them'}, or give a default"
        )
    if lacking := [name for name in required if NAMES[form].get(name) in absent]:
        raise TypeError(
            f"{who} requires {lacking[0]!r}, and solutions are not asked for one, so that it would be None of them all; "
            "expected a module with confidence=StatedConfidence(), or a default of that parameter"
        )
    takes_all = any(p.kind == p.VAR_KEYWORD for p in parameters)
    names = tuple(name for name in known if name in by_name or (takes_all and name not in bound))
    if not any(name in NAMES[form] and NAMES[form][name] not in OF_PROBLEM for name in names):
        raise TypeError(
            f"{who} asks for nothing of a completion, which it is to reward; expected names of {_all_names()}"
        )
    return Asked(form, names, is_async(function), tuple(required))


def _called(function: Any) -> Any:
    """What has the signature of a callable: a torch module takes anything, and its `forward` does not."""
    return function.forward if isinstance(function, torch.nn.Module) else function


def _bound(function: Any) -> set[str]:
    """Names that `functools.partial` has filled in."""
    names: set[str] = set()
    while isinstance(function, partial):
        names |= {*function.keywords}
        function = function.func
    return names


def is_async(function: Any) -> bool:
    """Whether calls of a function, or of an object, have to be awaited."""
    return _is_any(function, inspect.iscoroutinefunction)


def gives_at_once(function: Any) -> bool:
    """Whether a function gives its result when it is called: it is neither ``async def`` nor a generator."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    return not _is_any(function, *kinds)


def _is_any(function: Any, *kinds: Callable[[Any], bool]) -> bool:
    while isinstance(function, partial):
        function = function.func
    called = [function, getattr(type(function), "__call__")]  # noqa: B004, B009 - its function, not whether there is one
    return any(kind(each) for kind in kinds for each in called)


def _form(names: list[str]) -> Form:
    if {*names} & {"completion", "length", "finish_reason", "confidence"}:
        return "completion"
    return "problem" if "problem" in names else "batch"


def _with_near(name: str) -> str:
    known = dict.fromkeys([*(known for names in NAMES.values() for known in names), *SERVICES])
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} (did you mean {close[0]!r}?)" if close and name not in known else repr(name)


def _all_names() -> str:
    *most, last = [f"({', '.join(NAMES[form])}) {phrase}" for form, phrase in _PHRASES.items()]
    return f"{', '.join(most)} or {last}; and {' and '.join(SERVICES)} with any"
