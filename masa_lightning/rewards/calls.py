"""Groups -> calls of one reward function -> one number a solution."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from masa_lightning.protocols import RewardFunction
from masa_lightning.rewards.asked import NAMES, OF_PROBLEM, READERS, Asked
from masa_lightning.rewards.logged import LoggedMetrics
from masa_lightning.rewards.values import of, read_reward, read_rewards
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Problem, Rollout, RolloutGroup

if TYPE_CHECKING:
    from masa_lightning.rewards.early import EarlyCalls

Pairs = list[tuple[Problem, Rollout]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFunction:
    """A reward function.

    Args:
        name: In metrics.
        function: The user's.
        asked: What it asks for.
    """

    name: str
    function: RewardFunction
    asked: Asked

    @property
    def phase(self) -> str:
        """Its name in timings."""
        return f"rewards/{self.name}"


class Calls:
    """The calls of a reward function on the solutions of some groups.

    Args:
        named: The function.
        groups: Those without solutions are passed over.
        logged: Takes what it logs.
        watch: Measures it.
        device: Of the policy.
        early: Calls that have begun already; None if none have.
        known: What calls gave that another process began, by id of the rollout and name of the function.
    """

    def __init__(
        self,
        named: NamedFunction,
        groups: Sequence[RolloutGroup],
        *,
        logged: LoggedMetrics,
        watch: Stopwatch,
        device: torch.device,
        early: EarlyCalls | None = None,
        known: Mapping[int, Mapping[str, float]] | None = None,
    ) -> None:
        self.named, self.logged, self.watch, self.device = named, logged, watch, device
        self.early, self.known = early, known or {}
        pairs = [[(g.problem, r) for r in g.solutions] for g in groups if g.solutions]
        if named.asked.form == "completion":
            pairs = [[pair] for group in pairs for pair in group]
        elif named.asked.form == "batch":
            pairs = [[pair for group in pairs for pair in group]] if pairs else []
        self.calls: list[Pairs] = pairs
        """What each is for."""
        self.done = 0
        """How many have ended."""

    def now(self) -> list[float]:
        """Calls it, one after another.

        Returns:
            One number a solution, in their order.

        Raises:
            ValueError: If it does not give finite numbers, as many as it should, or fails; the cause is kept.
        """
        values: list[float] = []
        with self.watch.phase(self.named.phase):
            for pairs in self.calls:
                try:
                    given = self.named.function(**self._arguments(pairs))
                except Exception as error:
                    raise self._failed(pairs, error) from error
                values += self._read(pairs, given)
        return values

    async def together(self) -> list[float]:
        """As `now`, of an ``async def``: all calls at once; the first that fails ends the others."""
        begun = None if self.early is None else self.early.begun
        with self.watch.phase(self.named.phase, since=begun):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._awaited(pairs)) for pairs in self.calls]
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from errors.exceptions[0].__cause__
        return [value for task in tasks for value in task.result()]

    async def _awaited(self, pairs: Pairs) -> list[float]:
        rollout, name = pairs[0][1], self.named.name
        if (values := self.known.get(id(rollout), {})) and name in values:
            self.done += 1
            return [values[name]]
        if self.early is not None and (call := self.early.of(rollout, name)) is not None:
            try:
                found = await asyncio.wrap_future(call)
            except asyncio.CancelledError:
                if not call.cancelled():  # the step is ending
                    raise
                found = self.early.result(call)  # which says why
            self.done += 1
            return found
        try:
            given = await self.named.function(**self._arguments(pairs))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the step is ending
                raise
            raise self._failed(pairs, error) from error
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # the latter would end the loop, and be waited for
            raise self._failed(pairs, error) from error
        return self._read(pairs, given)

    def _arguments(self, pairs: Pairs) -> dict[str, Any]:
        """What the function asks for; lists and metadata are made for this call alone, problems are not."""
        asked, found = self.named.asked, NAMES[self.named.asked.form]
        arguments: dict[str, Any] = {}
        for name in asked.names:
            if name == "log_metric":
                arguments[name] = self.logged.log_metric(self.named.name)
            elif name == "device":
                arguments[name] = self.device
            else:
                single = asked.form == "completion" or (asked.form == "problem" and found[name] in OF_PROBLEM)
                read = [READERS[found[name]](*pair) for pair in (pairs[:1] if single else pairs)]
                arguments[name] = read[0] if single else read
        return arguments

    @property
    def _who(self) -> str:
        return f"the reward function {self.named.name!r}"

    def _read(self, pairs: Pairs, given: Any) -> list[float]:
        self.done += 1
        whose = of([problem for problem, _ in pairs])
        if self.named.asked.form == "completion":
            return [read_reward(given, self._who, whose)]
        return read_rewards(given, len(pairs), self._who, whose)

    def _failed(self, pairs: Pairs, error: BaseException) -> ValueError:
        one = self.named.asked.form == "completion"
        whose = "a completion" if one else f"the {len(pairs)} completions"
        expected = "one finite number" if one else "a list with one finite number a completion"
        notes = "".join(f" ({note})" for note in dict.fromkeys(getattr(error, "__notes__", ())))
        return ValueError(
            f"{self._who} failed on {whose} {of([p for p, _ in pairs])} with {type(error).__name__}: {error}{notes}; "
            f"expected {expected}"
        )
