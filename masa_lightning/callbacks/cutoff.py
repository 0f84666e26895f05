"""Stop solution rollouts that run far past the predicted length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from masa_lightning.callbacks._control import Mode
from masa_lightning.callbacks._rule import Rule, RuledControl, fixed_settings
from masa_lightning.checks import check_number
from masa_lightning.functional.controls import ControlCounts, cutoff_tokens
from masa_lightning.functional.risk import RiskCutoff
from masa_lightning.types import Decision, RolloutGroup


class EarlyCutoff(RuledControl):
    """Lets a solution rollout use at most `factor` times the predicted length (docs/method.md, section 5).

    The limit goes to the sampler with each request, so that the tokens after it are never generated; a rollout that
    reaches it is judged by its text like any other. A rollout is lost if it is right in full and not right when cut.
    The limit is the same for all rollouts of a problem, and audits are of whole problems, which train the predictions
    with their weight.

    Metrics, ``controls/cutoff/...``: ``precision`` (of the rollouts cut, those that lose nothing by it), ``recall`` (of
    those that lose nothing by it, the ones cut), ``f1``, ``share`` of the rollouts cut, ``lost_correct`` (correct
    rollouts lost, of all correct ones), ``saved_tokens`` (share of solution tokens), all over the window and estimated
    for all problems; ``acted_share``, ``evidence``, ``held_back``; with the rule "risk" ``factor`` (of the next step),
    ``audit_share`` and, with confidence, the most that was lost since the start, ``lost_correct_bound``; and
    ``tokens/saved_cutoff`` of the step.

    By the rule "risk" the factor is the least that `max_lost_correct` allows, from the lengths of right rollouts
    against the predicted ones, steered by audits (`functional.risk`).

    Args:
        mode: "off", "shadow" (decide and be scored, change nothing) or "act".
        start_step: Training steps before it acts; 80 by default, the paper's, and 0 by the rule "risk".
        factor: Times the median of the predicted lengths, > 0; 2 by default. Rule "fixed".
        audit_share: Share of the limited problems that gets the full budget all the same, in (0, 1); 0.05 by default.
            Rule "fixed".
        max_lost_correct: Rule "fixed": once it has shown to lose more than this share of the correct rollouts, it goes
            back to shadow mode.
            Rule "risk": no more than this share is lost over the run, in [0, 1).
        window: Training steps that the metrics look back on, and that the rule "risk" learns from.
        min_evidence: Rollouts past their limit that the guard waits for; 10 by default. Rule "fixed".
        rule: "fixed" or "risk".
        confidence: Rule "risk": probability that its limit holds, at all steps at once, in (0, 1).

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
        start_step: int | None = None,
        factor: float | None = None,
        audit_share: float | None = None,
        max_lost_correct: float = 0.05,
        window: int = 50,
        min_evidence: int | None = None,
        rule: Rule = "fixed",
        confidence: float = 0.9,
    ) -> None:
        given = {"factor": (factor, 2.0), "audit_share": (audit_share, 0.05), "min_evidence": (min_evidence, 10)}
        fixed = fixed_settings(type(self).__name__, rule, given)
        start = (0 if rule == "risk" else 80) if start_step is None else start_step
        super().__init__(mode, start, fixed["audit_share"], max_lost_correct, window, fixed["min_evidence"])
        check_number("factor", fixed["factor"], "> 0")
        self.fixed_factor: float = fixed["factor"]
        self.risk: RiskCutoff | None = None
        if rule == "risk":
            check_number("max_lost_correct", max_lost_correct, ">= 0", "< 1")
            check_number("confidence", confidence, "> 0", "< 1")
            self.steered = True
            self.risk = RiskCutoff(max_lost_correct, confidence, window)

    @property
    def factor(self) -> float:
        """Times the median of the predicted lengths that a solution may use now; infinite for no limit."""
        return self.fixed_factor if self.risk is None else self.risk.factor()

    def acts(self, step: int) -> bool:
        return super().acts(step) and math.isfinite(self.factor)

    def wants(self, group: RolloutGroup, budget: int) -> int | None:
        return self._limit(group, budget, self.factor)

    def plan(self, groups: Sequence[RolloutGroup], budget: int) -> list[tuple[Any, float]]:
        if self.risk is None:
            return super().plan(groups, budget)
        share, most, factor = self.risk.audit_share, self.risk.places, self.factor
        limits = [self._limit(group, budget, factor) for group in groups]
        some = sorted((limit, index) for index, limit in enumerate(limits) if limit is not None)[:most]
        self.risk.reserve(len(some))
        kept = {index for _, index in some}
        return [(limit if index in kept else None, share) for index, limit in enumerate(limits)]

    def _limit(self, group: RolloutGroup, budget: int, factor: float) -> int | None:
        lengths = _predicted(group)
        if not lengths or not math.isfinite(factor):
            return None
        limit = cutoff_tokens(lengths, budget=budget, factor=factor)
        return limit if limit < budget else None

    def metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Metrics of every control, and with the rule "risk" what it found."""
        metrics = super().metrics(groups)
        if not metrics or self.risk is None:
            return metrics
        decided = [(g, d) for g in groups if (d := g.decisions.get(self.name)) is not None]
        ratios = [
            (r.length / max(float(median(lengths)), 1.0), g.weight / len(g.solutions))
            for g, _ in decided
            if g.is_unbiased and (lengths := _predicted(g))
            for r in g.solutions
            if r.correct
        ]
        columns = np.array(ratios, dtype=np.float64).reshape(-1, 2)
        self.risk.add(
            {"ratio": columns[:, 0], "share": columns[:, 1]},
            np.array(
                [np.nan if d.acted or not g.solutions else self._lost(g, d) for g, d in decided], dtype=np.float64
            ),
            np.array([d.wanted for _, d in decided], dtype=np.float64),
            np.array([g.pass_rate or 0.0 for g, _ in decided], dtype=np.float64),
            acted=any(d.share < 1 for _, d in decided),
        )
        own = {
            "factor": self.factor,
            "audit_share": self.risk.audit_share,
            "lost_correct_bound": self.risk.budget.lost_share,
        }
        return metrics | {f"controls/{self.name}/{name}": value for name, value in own.items()}

    def _lost(self, group: RolloutGroup, decision: Decision) -> float:
        """Share of a problem's rollouts that are right and that its limit would lose."""
        if not decision.wanted:
            return 0.0
        lost = [r.correct and r.length > decision.limit and r.correct_when_cut is not True for r in group.solutions]
        return float(sum(lost) / len(lost))

    def apply(self, group: RolloutGroup, wanted: int) -> None:
        group.token_limit = wanted

    def withhold(self, group: RolloutGroup, wanted: int) -> None:
        group.foreseen_limit = wanted

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """An audited problem of which nothing would have been cut stands for itself alone: the others like it were seen."""
        for group in groups:
            decision = group.decisions.get(self.name)
            if decision is not None and decision.weight > 1 and max(group.lengths, default=0) <= decision.limit:
                decision.weight = 1.0

    def count(self, counts: ControlCounts, group: RolloutGroup, decision: Decision) -> None:
        if not group.is_unbiased:
            return
        for rollout in group.solutions:
            beyond = max(0, rollout.length - decision.limit) if decision.wanted else 0
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


def _predicted(group: RolloutGroup) -> list[int]:
    predictions = [r.prediction for r in group.metas if r.prediction is not None]
    return [p.solution_length for p in predictions if p.solution_length is not None]
