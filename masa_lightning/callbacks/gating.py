"""Skip the solution rollouts of problems whose predictions say that they would teach nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from masa_lightning.callbacks._control import Mode, PredictionControl
from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.controls import ControlCounts, Gate, gate
from masa_lightning.types import Decision, RolloutGroup

Skip = Literal["both", "hopeless"]


class PredictiveGating(PredictionControl):
    """Draws no solution rollouts for problems that are predicted hopeless or trivial (docs/method.md, section 5).

    GRPO learns nothing from a problem whose rollouts are all right or all wrong. A problem is gated if its predicted
    pass rates agree (`max_std`) and their mean is within `margin` of 0 or of 1.

    Figures, ``controls/gating/...``: ``precision`` (of the gated problems, those without variance), ``recall`` (of the
    problems without variance, those gated), ``f1``, ``share`` gated, ``lost_correct`` (correct rollouts of problems gated
    as hopeless, of all correct ones), ``saved_tokens`` (share of solution tokens), all over the window and estimated for
    all problems; ``hopeless_share`` and ``trivial_share`` of the step's problems, ``acted_share``, ``evidence``,
    ``held_back``; and ``tokens/saved_gating`` of the step.

    Args:
        mode: "off", "shadow" (decide and be scored, change nothing) or "act".
        start_step: Training steps before it acts (the paper's: 80).
        max_std: The standard deviation of a problem's predictions has to be below it.
        margin: Distance of their mean from 0 or 1, in [0, 0.5).
        skip: "both", or "hopeless" alone, for `masa predict --solve`, where trivial problems are to be solved.
        min_predictions: Parsed predictions without which nothing is decided, >= 1.
        audit_share: Share of the gated problems that is solved all the same, in (0, 1).
        max_lost_correct: Once it has shown to lose more than this share of the correct rollouts, it goes back to shadow
            mode.
        window: Training steps that the figures look back on.
        min_evidence: Gated problems solved all the same that the guard waits for.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> PredictiveGating(mode="shadow").acts(step=1000)
        False
    """

    name = "gating"
    reads = "pass_rate"
    skips = True

    def __init__(
        self,
        mode: Mode = "act",
        start_step: int = 80,
        max_std: float = 0.1,
        margin: float = 0.1,
        min_predictions: int = 2,
        audit_share: float = 0.05,
        max_lost_correct: float = 0.05,
        window: int = 50,
        min_evidence: int = 10,
        skip: Skip = "both",
    ) -> None:
        super().__init__(mode, start_step, audit_share, max_lost_correct, window, min_evidence)
        check_number("max_std", max_std, "> 0")
        check_number("margin", margin, ">= 0", "< 0.5")
        check_number("min_predictions", min_predictions, ">= 1", whole=True)
        check_choice("skip", skip, get_args(Skip))
        self.max_std = max_std
        self.margin = margin
        self.min_predictions = min_predictions
        self.skip: Skip = skip

    def wants(self, group: RolloutGroup, budget: int) -> Gate | None:
        rates = [r.prediction.rate for r in group.metas if r.prediction is not None and r.prediction.rate is not None]
        looks = gate(rates, max_std=self.max_std, margin=self.margin, min_predictions=self.min_predictions)
        return looks if self.skip in ("both", looks) else None

    def apply(self, group: RolloutGroup, wanted: Gate) -> None:
        group.gated = True

    def figures(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Those of all controls, and the shares of this step's problems that look hopeless and trivial."""
        figures = super().figures(groups)
        if not figures:
            return {}
        details = [d.detail for g in groups if (d := g.decisions.get(self.name)) is not None]
        shares = {name: details.count(name) / len(details) if details else 0.0 for name in get_args(Gate)}
        return figures | {f"controls/{self.name}/{name}_share": share for name, share in shares.items()}

    def count(self, counts: ControlCounts, group: RolloutGroup, decision: Decision) -> None:
        if not group.is_unbiased:
            return
        correct, tokens = sum(group.correct), sum(group.lengths)
        counts.add(
            prevented=decision.wanted,
            deserved=len(set(group.correct)) == 1,
            weight=group.weight,
            correct=correct,
            lost=correct if decision.detail == "hopeless" else 0,
            tokens=tokens,
            saved=tokens if decision.wanted else 0,
        )
