"""Stop solution rollouts that run far past the predicted length."""

from __future__ import annotations

from collections.abc import Sequence

from masa_lightning.callbacks._control import Mode, PredictionControl
from masa_lightning.checks import check_number
from masa_lightning.functional.controls import ControlCounts, cutoff_tokens
from masa_lightning.types import Decision, RolloutGroup


class EarlyCutoff(PredictionControl):
    """Lets a solution rollout use at most `factor` times the predicted length (docs/method.md, section 5).

    The limit goes to the sampler with each request, so that the tokens behind it are never generated; a rollout that meets
    it is judged by its text like any other. Lost is what is right in full and not right when cut. The limit is the same for
    all rollouts of a problem, and audits are of whole problems, which train the predictions with their weight.

    Figures, ``controls/cutoff/...``: ``precision`` (of the rollouts cut, those that lose nothing by it), ``recall`` (of
    those that lose nothing by it, the ones cut), ``f1``, ``share`` of the rollouts cut, ``lost_correct`` (correct rollouts
    lost, of all correct ones), ``saved_tokens`` (share of solution tokens), all over the window and estimated for all
    problems; ``acted_share``, ``evidence``, ``held_back``; and ``tokens/saved_cutoff`` of the step.

    Args:
        mode: "off", "shadow" (decide and be scored, change nothing) or "act".
        start_step: Training steps before it acts (the paper's: 80).
        factor: Times the median of the predicted lengths, > 0.
        audit_share: Share of the limited problems that gets the full budget all the same, in (0, 1).
        max_lost_correct: Once it has shown to lose more than this share of the correct rollouts, it goes back to shadow
            mode.
        window: Training steps that the figures look back on.
        min_evidence: Rollouts past their limit that the guard waits for.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> EarlyCutoff(factor=3.0, start_step=20).acts(step=20)
        True
    """

    name = "cutoff"
    reads = "solution_length"

    def __init__(
        self,
        mode: Mode = "act",
        start_step: int = 80,
        factor: float = 2.0,
        audit_share: float = 0.05,
        max_lost_correct: float = 0.05,
        window: int = 50,
        min_evidence: int = 10,
    ) -> None:
        super().__init__(mode, start_step, audit_share, max_lost_correct, window, min_evidence)
        check_number("factor", factor, "> 0")
        self.factor = factor

    def wants(self, group: RolloutGroup, budget: int) -> int | None:
        predictions = [r.prediction for r in group.metas if r.prediction is not None]
        lengths = [p.solution_length for p in predictions if p.solution_length is not None]
        limit = cutoff_tokens(lengths, budget=budget, factor=self.factor)
        return limit if limit < budget else None

    def apply(self, group: RolloutGroup, wanted: int) -> None:
        group.token_limit = wanted

    def withhold(self, group: RolloutGroup, wanted: int) -> None:
        group.foreseen_limit = wanted

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """An audited problem of which nothing would have been cut stands for itself alone: the others like it were seen."""
        for group in groups:
            decision = group.decisions.get(self.name)
            if decision is not None and decision.weight > 1 and max(group.lengths, default=0) <= decision.detail:
                decision.weight = 1.0

    def count(self, counts: ControlCounts, group: RolloutGroup, decision: Decision) -> None:
        if not group.is_unbiased:
            return
        for rollout in group.solutions:
            beyond = max(0, rollout.length - decision.detail) if decision.wanted else 0
            loses = rollout.correct and not (beyond > 0 and rollout.correct_when_cut is True)
            counts.add(
                prevented=beyond > 0,
                deserved=not loses,
                weight=group.weight,
                correct=rollout.correct,
                lost=loses and beyond > 0,
                tokens=rollout.length,
                saved=beyond,
            )
