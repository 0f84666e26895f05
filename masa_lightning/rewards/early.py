"""Calls of reward functions on solutions that are drawn, while others still are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future

import torch

from masa_lightning.rewards.background import Background
from masa_lightning.rewards.calls import Calls, NamedFunction
from masa_lightning.rewards.logged import LoggedMetrics
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Problem, Rollout, RolloutGroup


class EarlyCalls:
    """Begins the calls of functions that are ``async def``, for one completion, and ask for no verdict.

    Args:
        functions: Any; others than those are left for later.
        logged: Takes what they log.
        device: Of the policy.
    """

    def __init__(self, functions: Sequence[NamedFunction], *, logged: LoggedMetrics, device: torch.device) -> None:
        self.functions = [f for f in functions if f.asked.can_begin_early]
        self.logged, self.device = logged, device
        self.begun: float | None = None
        """When the first call began, by `time.perf_counter`."""
        self._background = Background()
        self._failed: Future[list[float]] | None = None
        self._calls: dict[int, tuple[Rollout, dict[str, Future[list[float]]]]] = {}

    def begin(self, problem: Problem, rollout: Rollout) -> None:
        """Begins the calls on a solution.

        Args:
            problem: That it is of.
            rollout: With its completion and text; it is known again by its completion.

        Raises:
            ValueError: If an earlier call has failed.
        """
        if self.begun is None:
            self.begun = time.perf_counter()
        if self._failed is not None:  # the step ends, before all that is still to be drawn
            self.result(self._failed)
        group, unmeasured = RolloutGroup(problem=problem, solutions=[rollout]), Stopwatch()
        calls = {
            f.name: Calls(f, [group], logged=self.logged, watch=unmeasured, device=self.device) for f in self.functions
        }
        futures = {name: self._background.start(each.together()) for name, each in calls.items()}
        for future in futures.values():
            future.add_done_callback(self._look)
        self._calls[id(rollout.completion)] = rollout, futures  # kept, so that no other one gets its id

    def of(self, rollout: Rollout, name: str) -> Future[list[float]] | None:
        """The call of a function on a rollout; None if none was begun, or of another text."""
        told, futures = self._calls.get(id(rollout.completion), (rollout, {}))
        return futures.get(name) if told.text == rollout.text else None

    def result(self, call: Future[list[float]]) -> list[float]:
        """Waits for a call, and returns what it gave.

        Raises:
            ValueError: If it failed.
            RuntimeError: If it was cancelled, or the loop of all calls was ended.
        """
        return self._background.result(call)

    def values(self, rollout: Rollout) -> dict[str, float]:
        """What functions gave for a rollout, by their names; waits for them.

        Raises:
            ValueError: If one failed.
        """
        found = ((f.name, self.of(rollout, f.name)) for f in self.functions)
        return {name: self.result(future)[0] for name, future in found if future is not None}

    def _look(self, call: Future[list[float]]) -> None:
        """Notes one that failed; in the thread of the calls."""
        if not call.cancelled() and call.exception() is not None:
            self._failed = call

    def close(self) -> None:
        """Cancels what is not done."""
        self._background.close()
