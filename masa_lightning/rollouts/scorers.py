"""Groups -> rewards, each process its part. A scorer takes groups and fills rewards in; nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

from masa_lightning.distributed import Processes, cut, move, share
from masa_lightning.functional.voting import count_votes
from masa_lightning.protocols import PhaseProgress
from masa_lightning.timing import Stopwatch
from masa_lightning.types import Comparisons, MetaPrediction, Rollout, RolloutGroup


class Scorer(Protocol):
    """Rewards one kind of rollouts."""

    phase: str
    """Its name in timings and on a progress bar."""

    def score(self, groups: Sequence[RolloutGroup], progress: PhaseProgress) -> None:
        """Sets the rewards of a kind of rollouts, in place."""


@runtime_checkable
class Comparer(Protocol):
    """A scorer of predictions."""

    def compare(self, group: RolloutGroup) -> Comparisons:
        """Puts what rollouts of a scored group predicted beside what happened."""


@runtime_checkable
class Hearing(Protocol):
    """A scorer that begins its work on rollouts while others are drawn."""

    @property
    def hears(self) -> bool:
        """Whether it does so."""

    def heard(self, rollout: Rollout) -> dict[str, float]:
        """What it found of a rollout that this process drew; waits for it."""

    def know(self, rollouts: Sequence[Rollout], values: Sequence[dict[str, float]]) -> None:
        """Takes what all processes found, before it scores some of these rollouts."""


class Scorers:
    """Scores the groups of a step, each process its part of them, and gives the outcomes to all.

    Args:
        scorers: In their order: those of solutions come first, by which predictions are rewarded.
        processes: Those of the run.
        progress: Told how far each is.
        watch: Measures each, and "exchange".
    """

    def __init__(
        self, scorers: Sequence[Scorer], *, processes: Processes, progress: PhaseProgress, watch: Stopwatch
    ) -> None:
        self.scorers, self.processes, self.progress, self.watch = list(scorers), processes, progress, watch

    def score(self, groups: Sequence[RolloutGroup]) -> None:
        """Scores groups, in place; a collective. The process that scores a group has all its rollouts from then on.

        Raises:
            ValueError: If a scorer of any process fails, on all of them.
        """
        parts = cut([sum(r.length for r in g.rollouts) for g in groups], self.processes.size)
        part, rollouts = parts[self.processes.rank], [r for g in groups for r in g.rollouts]
        if self.processes.size > 1:
            self._tell_what_was_heard(rollouts)
        with self.watch.phase("exchange"):
            holders = [rank for rank, each in enumerate(parts) for g in groups[each] for _ in g.rollouts]
            move(rollouts, holders, self.processes)
        failure: Exception | None = None
        try:
            for scorer in self.scorers:
                with self.watch.phase(scorer.phase):
                    scorer.score(groups[part], self.progress)
        except Exception as error:
            if self.processes.size == 1:
                raise
            failure = error
        self._end_together(failure)
        with self.watch.phase("exchange"):
            outcomes = share(rollouts, _outcome, self.processes)
        for rollout, outcome in zip(rollouts, outcomes, strict=True):
            rollout.correct, rollout.ungraded, rollout.correct_when_cut = outcome[:3]
            rollout.prediction, rollout.rewards, rollout.reward = outcome[3:]

    def note(self, groups: Sequence[RolloutGroup], *, votes: bool = True) -> None:
        """Notes on groups what metrics take of their texts, so that all processes know it; in place, and a collective.

        Args:
            groups: Scored.
            votes: Whether those of solutions too.
        """

        def notes(group: RolloutGroup) -> tuple[list[int | None] | None, Comparisons]:
            compared = [scorer.compare(group) for scorer in self.scorers if isinstance(scorer, Comparer)]
            return count_votes(group) if votes else None, {
                name: rows for each in compared for name, rows in each.items()
            }

        with self.watch.phase("exchange"):
            for group, (numbers, comparisons) in zip(groups, share(groups, notes, self.processes), strict=True):
                group.votes, group.comparisons = numbers, comparisons

    def _tell_what_was_heard(self, rollouts: Sequence[Rollout]) -> None:
        """Waits for what scorers began, as other processes may be the ones to score these rollouts; a collective."""
        for scorer in self.scorers:
            if not isinstance(scorer, Hearing) or not scorer.hears:
                continue
            failure: Exception | None = None
            found: list[dict[str, float]] = []
            with self.watch.phase(scorer.phase):
                try:
                    found = [scorer.heard(r) for r in rollouts if r.holder in (None, self.processes.rank)]
                except Exception as error:
                    failure = error
            self._end_together(failure)
            with self.watch.phase("exchange"):
                scorer.know(rollouts, share(rollouts, partial(_next_of, iter(found)), self.processes))

    def _end_together(self, failure: Exception | None) -> None:
        """Ends all processes with the error of the first that has one, so that none waits for it; a collective."""
        failures = self.processes.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        for rank, text in enumerate(failures):
            if text is not None:
                raise ValueError(
                    f"process {rank} of {self.processes.size} could not score its rollouts: {text}"
                ) from failure


def _next_of(found: Iterator[dict[str, float]], rollout: Rollout) -> dict[str, float]:
    """That of a rollout, which `share` asks for in the order in which they were made."""
    return next(found)


def _outcome(
    rollout: Rollout,
) -> tuple[bool, bool, bool | None, MetaPrediction | None, dict[str, float], float | None]:
    verdict = rollout.correct, rollout.ungraded, rollout.correct_when_cut
    return *verdict, rollout.prediction, rollout.rewards, rollout.reward
