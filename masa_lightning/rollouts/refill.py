"""Problems in place of those that gating or dynamic sampling took out."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from typing import Any

from masa_lightning.types import Problem, RolloutGroup


def fill(
    groups: list[RolloutGroup],
    *,
    reserve: ProblemReserve,
    draw: Callable[[list[Problem], int], list[RolloutGroup]],
    max_refills: int,
) -> tuple[list[RolloutGroup], int]:
    """Draws other problems in place of those that teach nothing (DAPO's dynamic sampling).

    Args:
        groups: Of a step, scored.
        reserve: Where the other problems come from.
        draw: Makes scored groups of problems; told the number of the refill, from 0.
        max_refills: Most times that it is called.

    Returns:
        All groups, and how many of the reserve's problems had prompts that are too long.
    """
    wanted, overlong = len(groups), 0
    for number in range(max_refills):
        missing = wanted - sum(group.teaches for group in groups)
        problems = reserve.draw(missing, without={g.problem.id for g in groups}) if missing else []
        if not problems:
            break
        more = draw(problems, number)
        groups, overlong = groups + more, overlong + len(problems) - len(more)
    return groups, overlong


class ProblemReserve:
    """An endless stream of training problems in an order of its own, the same on every process.

    The training loader's order is left alone, so a problem may come from here and from the loader in one epoch. What
    comes next is a function of the seed and of `taken`, which a resumed run has to restore.

    Args:
        problems: Gives the training problems; called where they are wanted first.
        seed: Of the order.
        taken: Problems looked at so far.
    """

    def __init__(self, problems: Callable[[], Sequence[Problem]], *, seed: int, taken: int = 0) -> None:
        self._find, self.seed, self.taken = problems, seed, taken

    @cached_property
    def problems(self) -> Sequence[Problem]:
        """The training problems."""
        return self._find()

    def draw(self, count: int, without: Collection[str] = ()) -> list[Problem]:
        """Returns the next problems; fewer than `count` if one pass over all of them finds no more.

        Args:
            count: How many.
            without: Ids that are not wanted, such as those of the batch.
        """
        drawn: dict[str, Problem] = {}
        for _ in range(len(self.problems)):
            if len(drawn) >= count:
                break
            epoch, index = divmod(self.taken, len(self.problems))
            problem = self.problems[self._order(epoch)[index]]
            self.taken += 1
            if problem.id not in without:
                drawn.setdefault(problem.id, problem)
        return list(drawn.values())

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_epoch", None) != epoch:
            self._epoch, self._shuffled = epoch, list(range(len(self.problems)))
            random.Random(f"{self.seed}/reserve/{epoch}").shuffle(self._shuffled)
        return self._shuffled


def training_problems(loader: Any) -> Sequence[Problem]:
    """The problems of a training loader: ours, or a torch `DataLoader` over a list of problems.

    Raises:
        TypeError: If the loader does not hold problems that can be looked at in any order.
    """
    problems = getattr(loader, "problems", None)
    if problems is None:
        problems = getattr(loader, "dataset", None)
    if not isinstance(problems, Sequence) or not len(problems) or not isinstance(problems[0], Problem):
        raise TypeError(
            f"algorithm.dynamic_sampling draws more problems than the batch has, and found none in the training loader "
            f"({type(loader).__name__}); expected a datamodule of masa_lightning, or a torch DataLoader over a list of "
            "Problem. Use one of these, or turn dynamic_sampling off"
        )
    return problems
