"""Groups -> rewards, each process its part. A scorer takes groups and fills rewards in; nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
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

    def _end_together(self, failure: Exception | None) -> None:
        """Ends all processes with the error of the first that has one, so that none waits for it; a collective."""
        failures = self.processes.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        for rank, text in enumerate(failures):
            if text is not None:
                raise ValueError(
                    f"process {rank} of {self.processes.size} could not score its rollouts: {text}"
                ) from failure


def _outcome(
    rollout: Rollout,
) -> tuple[bool, bool, bool | None, MetaPrediction | None, dict[str, float], float | None]:
    verdict = rollout.correct, rollout.ungraded, rollout.correct_when_cut
    return *verdict, rollout.prediction, rollout.rewards, rollout.reward
