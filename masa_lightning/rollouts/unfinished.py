"""A warning where nearly no rollout comes to an end by itself."""

from __future__ import annotations

from collections.abc import Sequence

from masa_lightning.distributed import rank_zero_warn
from masa_lightning.types import RolloutGroup

_STEPS, _FEWEST, _SHARE = 3, 64, 0.95


class UnfinishedWarning:
    """Looks at the solutions of the first training steps, and warns once if nearly all were cut at the full budget.

    Problems whose budget a control has lowered do not count: there it is on purpose.
    """

    def __init__(self) -> None:
        self._steps = self._solutions = self._cut = 0

    def look(self, groups: Sequence[RolloutGroup], *, budget: int, stops: str) -> None:
        """Counts the solutions of a training step.

        Args:
            groups: With solutions.
            budget: Most tokens of one.
            stops: What ends a solution, in words.
        """
        if self._steps == _STEPS:
            return
        self._steps += 1
        reasons = [r.completion.finish_reason for g in groups if g.token_limit is None for r in g.solutions]
        self._solutions += len(reasons)
        self._cut += reasons.count("length")
        if self._steps == _STEPS and self._solutions >= _FEWEST and self._cut >= _SHARE * self._solutions:
            rank_zero_warn(
                f"{self._cut} of the {self._solutions} solutions of the first {_STEPS} training steps "
                f"({self._cut / self._solutions:.0%}) were cut at max_completion_length = {budget} tokens; expected most of "
                f"them to end by themselves, with one of: {stops}. Look at their ends (RolloutTable): if they go on behind "
                "their answers, give sampling.stop_token_ids or sampling.stop what the model ends its answers with, or "
                "chat_template the one that it was trained with; else raise max_completion_length"
            )
