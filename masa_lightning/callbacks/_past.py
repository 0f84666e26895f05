"""What a problem's own solutions were before: the past that `HistoryGating` gates by, and a feature of the rule "risk"."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from masa_lightning.checks import check_number
from masa_lightning.types import RolloutGroup


class Past(OrderedDict[tuple[str, str], tuple[float, float]]):
    """Right and wrong rollouts of each problem, discounted, by its source and id; those solved last come last.

    Args:
        discount: Of the past, each time a problem is solved again, in [0, 1]; 1 forgets nothing.
        max_problems: Problems that are remembered; those that were solved longest ago are forgotten first, >= 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, discount: float = 0.5, max_problems: int = 200_000) -> None:
        super().__init__()
        check_number("discount", discount, ">= 0", "<= 1")
        check_number("max_problems", max_problems, ">= 1", whole=True)
        self.discount = discount
        self.max_problems = max_problems

    def known(self, group: RolloutGroup) -> tuple[float, float] | None:
        """Right and wrong rollouts of a problem; None if it was not solved before."""
        return self.get(_name(group))

    def known_share(self, groups: Sequence[RolloutGroup]) -> float:
        """Share of problems that were solved before, in [0, 1]."""
        return sum(_name(group) in self for group in groups) / max(len(groups), 1)

    def remember(self, groups: Iterable[RolloutGroup]) -> None:
        """Adds the rollouts of those problems of a step that are unbiased (`RolloutGroup.is_unbiased`)."""
        for group in groups:
            if group.is_unbiased:
                right, wrong = self.pop(_name(group), (0.0, 0.0))
                correct = sum(group.correct)
                more = len(group.correct) - correct
                self[_name(group)] = self.discount * right + correct, self.discount * wrong + more
        while len(self) > self.max_problems:
            self.popitem(last=False)

    def rows(self) -> list[list[str | float]]:
        """The whole past as plain values, for a checkpoint."""
        return [[*name, *counts] for name, counts in self.items()]

    def take(self, rows: Iterable[Sequence[str | float]]) -> None:
        """Restores what `rows` gave."""
        self.clear()
        self.update({(str(source), str(id_)): (float(right), float(wrong)) for source, id_, right, wrong in rows})


def _name(group: RolloutGroup) -> tuple[str, str]:
    return group.problem.source, group.problem.id
