"""Solutions -> verdicts and rewards. What a grader or a reward function gives is checked before it counts."""

from __future__ import annotations

import inspect
import math
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any

from masa_lightning.functional.rewards import soft_overlong_penalty
from masa_lightning.protocols import Grader, PhaseProgress, ProgressFn, RewardFunction
from masa_lightning.types import Objective, Problem, Rollout, RolloutGroup

RESERVED = ("correct", "overlong", "length", "difficulty", "notion")
"""Names of the parts of a reward that are no reward functions."""

_FORBIDDEN = re.compile(r"[^\w.-]+")  # in a metric's name, as TensorBoard has it; "/" makes groups


class SolutionScorer:
    r"""Grades solution rollouts and adds up their rewards.

    .. math:: r = [\text{correct}] + \sum_i w_i f_i(\text{problem}, \text{completion}) + \text{overlong}

    Args:
        grader: Decides which solutions are right.
        functions: Extra rewards f, added in their order.
        weights: One factor w a function, finite; 1 each by default.
        max_length: Most tokens of a solution.
        overlong_buffer: Tokens before `max_length` over which the soft overlong penalty grows; 0 is no penalty.

    Raises:
        TypeError: If the functions are no list of callables that give their values at once, or `grader` is no grader.
        ValueError: If a function's name is taken, or there is not one finite weight a function.
    """

    def __init__(
        self,
        grader: Grader,
        functions: Sequence[RewardFunction] | None = None,
        weights: Sequence[float] | None = None,
        *,
        max_length: int,
        overlong_buffer: int = 0,
    ) -> None:
        grade = getattr(grader, "grade", None)
        closes = callable(getattr(grader, "close", None))
        if not callable(grade) or not closes or isinstance(grader, type) or _not_at_once(grade):
            raise TypeError(
                f"grader is {_shown(grader)}; expected an object with a plain method `grade(problems, completions, "
                "on_progress)` that gives a list with True, False or None a completion, and a method `close()`"
            )
        self.grader = grader
        self.functions = dict(zip(reward_names(functions or []), functions or [], strict=True))
        """By their names in metrics."""
        self.weights = _read_weights(weights, list(self.functions))
        self.max_length = max_length
        self.overlong_buffer = overlong_buffer

    @property
    def parts(self) -> list[str]:
        """Names of what a reward is made of."""
        return ["correct", *self.functions, *["overlong"] * bool(self.overlong_buffer)]

    @property
    def objectives(self) -> list[Objective]:
        """What the reward is the weighted sum of; the overlong penalty is one on correctness."""
        functions = zip(self.weights, self.functions, strict=True)
        return [
            (1.0, ("correct", *["overlong"] * bool(self.overlong_buffer))),
            *((weight, (name,)) for weight, name in functions if weight),
        ]

    phase = "grade"

    def score(self, groups: Sequence[RolloutGroup], progress: PhaseProgress) -> None:
        """Grades solutions and sets their rewards, in place; where nobody knows the answer they are ungraded."""
        total = sum(len(g.solutions) for g in groups if g.problem.answer)
        self.grade(groups, progress(self.phase, total))
        self.reward(groups)

    def grade(self, groups: Sequence[RolloutGroup], on_progress: ProgressFn | None = None) -> None:
        """Sets the verdicts of solutions, in place; where nobody knows the answer they are ungraded.

        Args:
            groups: With solutions.
            on_progress: Told (done, total) as verdicts come in.

        Raises:
            ValueError: If the grader does not give a list with one verdict a solution, or fails; the cause is kept.
        """
        for rollout in (r for g in groups for r in g.solutions):
            rollout.correct, rollout.ungraded = False, True
        pairs = [(g.problem, r) for g in groups for r in g.solutions if g.problem.answer]
        if not pairs:
            return
        problems = [problem for problem, _ in pairs]
        try:
            given = self.grader.grade(problems, [rollout.text for _, rollout in pairs], on_progress)
        except Exception as error:
            raise ValueError(
                f"the grader {type(self.grader).__name__} failed on the {len(pairs)} completions {_of(problems)} with "
                f"{type(error).__name__}: {error}; expected a list with True, False or None a completion, None where no "
                "verdict could be had"
            ) from error
        for (_, rollout), verdict in zip(pairs, read_verdicts(self.grader, problems, given), strict=True):
            rollout.correct, rollout.ungraded = verdict is True, verdict is None

    def reward(self, groups: Sequence[RolloutGroup]) -> None:
        """Sets the rewards of graded solutions and their parts, in place.

        Raises:
            ValueError: If a reward function does not give a list with one finite number a completion, or fails; the cause is
                kept.
        """
        for group in (g for g in groups if g.solutions):
            for rollout in group.solutions:
                rollout.rewards = {"correct": float(rollout.correct)}
                rollout.reward = rollout.rewards["correct"]
            for (name, function), weight in zip(self.functions.items(), self.weights, strict=True):
                values = _values_of(name, function, group)
                for rollout, value in zip(group.solutions, values, strict=True):
                    self._add(rollout, name, value, weight, group.problem)
            if self.overlong_buffer:
                for rollout in group.solutions:
                    penalty = soft_overlong_penalty(rollout.length, self.max_length, self.overlong_buffer)
                    self._add(rollout, "overlong", penalty, 1.0, group.problem)

    @staticmethod
    def _add(rollout: Rollout, name: str, value: float, weight: float, problem: Problem) -> None:
        assert rollout.reward is not None
        rollout.rewards[name] = value
        rollout.reward += weight * value
        if not math.isfinite(rollout.reward):
            raise ValueError(
                f"with {weight} * {value} of the reward function {name!r} the reward of a solution of problem "
                f"{problem.id!r} is {rollout.reward}; expected finite rewards"
            )


def reward_names(functions: Sequence[RewardFunction]) -> list[str]:
    """Names of reward functions in metrics, records and model cards: no two are equal, and they depend on nothing else.

    The attribute `name` of a function wins. Else it is the function's own name, or the class's of a callable object; what is
    wrapped in `functools.partial` has the name of what it wraps. Those that are taken already get a number.

    Raises:
        TypeError: If this is no list of callables, or one gives no values when it is called (``async def``, ``yield``).
        ValueError: If a name is reserved, not fit for a metric, or given twice.

    >>> def brief(problem, completions): ...
    >>> reward_names([brief, partial(brief), lambda problem, completions: []])
    ['brief', 'brief_2', 'lambda']
    """
    if not isinstance(functions, (list, tuple)):
        raise TypeError(f"reward_functions is {_shown(functions)}; expected a list of functions")
    given: dict[int, str] = {}
    for i, function in enumerate(functions):
        if not callable(function) or isinstance(function, type):
            what = "a class; expected an object of it" if isinstance(function, type) else "not callable"
            raise TypeError(f"reward_functions[{i}] is {_shown(function)}, which is {what}")
        if kind := _not_at_once(function):
            raise TypeError(
                f"reward_functions[{i}] is {kind} ({_own_name(function)!r}), which gives no rewards when it is called; "
                "expected a plain function. Run what is asynchronous inside of it, with asyncio.run"
            )
        name: Any = getattr(function, "name", None)
        if name is not None:
            if not isinstance(name, str) or not name or _FORBIDDEN.search(name):
                raise ValueError(
                    f"reward_functions[{i}] has the name {_shown(name)}; expected letters, digits, '_', '-' and '.'"
                )
            given[i] = name
    twice = [name for name, count in Counter(given.values()).items() if count > 1]
    if twice:
        raise ValueError(
            f"{twice[0]!r} is the name of {list(given.values()).count(twice[0])} reward_functions; expected different ones: "
            "change their attribute `name`, or leave it out to have them numbered"
        )
    own = {i: _own_name(function) for i, function in enumerate(functions) if i not in given}
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


def read_verdicts(grader: Grader, problems: Sequence[Problem], verdicts: Any) -> list[bool | None]:
    """Checks what a grader gave: a list with True, False or None a problem; 1 and 0 of any type of numbers count as these.

    Args:
        grader: Named in errors.
        problems: [N] of the completions.
        verdicts: What it gave.

    Raises:
        ValueError: If that is no list with one verdict a problem.
    """
    who = f"the grader {type(grader).__name__}"
    of = _of(problems)
    read: list[bool | None] = []
    for problem, value in zip(problems, _listed(verdicts, len(problems), who, of, "True, False or None"), strict=True):
        number = _number(value)
        if value is not None and number not in (0.0, 1.0):
            raise ValueError(
                f"{who} gave {_shown(value)} for a completion of problem {problem.id!r}; expected True, False, or None "
                "where no verdict could be had"
            )
        read.append(None if number is None else number == 1)
    return read


def _of(problems: Sequence[Problem]) -> str:
    ids = [repr(i) for i in dict.fromkeys(problem.id for problem in problems)]
    return f"of problem {' to '.join(ids[:1] + ids[1:][-1:])}"


def _not_at_once(function: Any) -> str:
    """What kind of function gives no values when it is called; empty where it does."""
    while isinstance(function, partial):
        function = function.func
    called = [function, getattr(type(function), "__call__")]  # noqa: B004, B009 - its function, not whether there is one
    if any(map(inspect.iscoroutinefunction, called)):
        return "async def"
    lazy = (inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    return "a generator" if any(kind(each) for kind in lazy for each in called) else ""


def _own_name(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "name", None) or getattr(function, "__name__", type(function).__name__)
    if name == "__call__":
        name = type(getattr(function, "__self__", function)).__name__
    return _FORBIDDEN.sub("_", str(name).strip("<>")) or "reward"


def _values_of(name: str, function: RewardFunction, group: RolloutGroup) -> list[float]:
    who, of = f"the reward function {name!r}", f"of problem {group.problem.id!r}"
    texts = [r.text for r in group.solutions]  # made for this function alone, which may change it
    try:
        given = function(group.problem, texts)
    except Exception as error:
        raise ValueError(
            f"{who} failed on the {len(group.solutions)} completions {of} with {type(error).__name__}: {error}; expected a "
            "list with one finite number a completion"
        ) from error
    numbers = []
    for value in _listed(given, len(group.solutions), who, of, "one finite number"):
        number = _number(value)
        if number is None or not math.isfinite(number):
            raise ValueError(
                f"{who} gave {_shown(value)} for a completion {of}; expected one finite number a completion, 0.0 where it "
                "has nothing to say"
            )
        numbers.append(number)
    return numbers


def _listed(given: Any, count: int, who: str, of: str, each: str) -> Sequence[Any]:
    """What a user's function gave, if it is a list, or an array or tensor of one dimension, of the right length."""
    is_text = isinstance(given, (str, bytes, bytearray))
    if is_text or not (isinstance(given, Sequence) or getattr(given, "ndim", None) == 1):
        shape = f" of shape {tuple(given.shape)}" if hasattr(given, "shape") else ""
        raise ValueError(
            f"{who} gave {_shown(given)}{shape} for the {count} completions {of}; expected a list with {each} a completion"
        )
    values: Sequence[Any] = given
    if len(values) != count:
        raise ValueError(
            f"{who} gave {len(values)} values for the {count} completions {of}; expected a list with {each} a completion"
        )
    return values


def _number(value: Any) -> float | None:
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


def _shown(value: Any) -> str:
    return f"{' '.join(reprlib.repr(value).split())} ({type(value).__name__})"


def _read_weights(weights: Sequence[Any] | None, names: Sequence[str]) -> list[float]:
    if weights is None:
        return [1.0] * len(names)
    if len(weights) != len(names):
        raise ValueError(
            f"{len(weights)} reward_weights were given for {len(names)} reward_functions; expected one each"
        )
    read = []
    for name, weight in zip(names, weights, strict=True):
        number = _number(weight)
        if number is None or not math.isfinite(number):
            raise ValueError(
                f"the weight of the reward function {name!r} is {_shown(weight)}; expected a finite number"
            )
        read.append(number)
    return read
