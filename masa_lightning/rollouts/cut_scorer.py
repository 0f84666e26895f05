"""Would a right solution still be right if a control had cut it short?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from masa_lightning.protocols import PhaseProgress
from masa_lightning.rollouts.solution_scorer import SolutionScorer
from masa_lightning.types import Completion, RolloutGroup


class CutScorer:
    """Grades right solutions once more, up to the limit that a control would have set and did not.

    A rollout that is cut is judged by its text like any other, and its box may come before the cut.

    Args:
        scorer: Grades.
        text: Decodes a completion, without what ended it.
    """

    phase = "grade"

    def __init__(self, scorer: SolutionScorer, text: Callable[[Completion], str]) -> None:
        self.scorer, self.text = scorer, text

    def score(self, groups: Sequence[RolloutGroup], progress: PhaseProgress | None = None) -> None:
        """Sets `Rollout.correct_when_cut` of right solutions past `RolloutGroup.foreseen_limit`, in place.

        Args:
            groups: With graded solutions.
            progress: Not told, as these are few.
        """
        rollouts, copies = [], []
        for group in groups:
            limit = group.foreseen_limit
            for rollout in group.solutions if limit is not None else ():
                if rollout.correct and limit is not None and rollout.length > limit:
                    ids = rollout.completion.token_ids[:limit]
                    cut = Completion(token_ids=ids, logprobs=[], finish_reason="length")
                    copy = replace(rollout, completion=cut, text=self.text(cut))
                    rollouts.append(rollout)
                    copies.append(RolloutGroup(problem=group.problem, solutions=[copy]))
        if copies:
            self.scorer.grade(copies)
        for rollout, judged in zip(rollouts, copies, strict=True):
            rollout.correct_when_cut = judged.solutions[0].correct
