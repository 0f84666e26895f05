"""Skip the solution rollouts of problems whose predictions say that they would teach nothing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Final, Literal, get_args

import numpy as np

from masa_lightning.callbacks._control import Mode
from masa_lightning.callbacks._past import Past
from masa_lightning.callbacks._rule import Rule, RuledControl, fixed_settings
from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.controls import ControlCounts, gate
from masa_lightning.functional.risk import RiskGate, scores
from masa_lightning.types import Decision, Gate, RolloutGroup

Skip = Literal["both", "hopeless"]

UNKNOWN: Final = (float("nan"), float("nan"))


class GatingControl(RuledControl):
    """Draws no solution rollouts for some problems: by what a subclass wants of each, or by its scores and `risk`.

    The arguments are those of `PredictionControl`.
    """

    skips = True
    risk: RiskGate | None = None
    past: Past | None = None
    """Earlier rollouts of each problem, if they count."""

    @abstractmethod
    def scores(self, group: RolloutGroup) -> tuple[float, float]:
        """How hopeless and how trivial a problem looks (`functional.risk.scores`); NaN where nothing is known of it."""

    def acts(self, step: int) -> bool:
        return super().acts(step) and (self.risk is None or self.risk.ready())

    def plan(self, groups: Sequence[RolloutGroup], budget: int) -> list[tuple[Any, float]]:
        if self.risk is None:
            return super().plan(groups, budget)
        share = self.risk.audit_share
        return [(gate, share) for gate in self.risk.plan(self._table(groups))]

    def _table(self, groups: Sequence[RolloutGroup]) -> Any:
        return np.array([self.scores(group) for group in groups], dtype=np.float64).reshape(-1, 2)

    def apply(self, group: RolloutGroup, wanted: Gate) -> None:
        group.gated = True

    def metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Metrics of every control, shares of this step's problems that look hopeless and trivial, and what may be lost."""
        metrics = super().metrics(groups)
        if not metrics:
            return {}
        decided = [(g, d) for g in groups if (d := g.decisions.get(self.name)) is not None]
        details = [d.gate for _, d in decided]
        own = {f"{name}_share": details.count(name) / len(details) if details else 0.0 for name in get_args(Gate)}
        if self.risk is not None:
            self.risk.add(
                self._table([g for g, _ in decided]),
                details,
                np.array([np.nan if g.pass_rate is None else g.pass_rate for g, _ in decided], dtype=np.float64),
                np.array([g.weight if g.is_unbiased else 0.0 for g, _ in decided], dtype=np.float64),
                acted=any(d.share < 1 for _, d in decided),
            )
            signal, correct = self.risk.budgets
            own |= {
                "audit_share": self.risk.audit_share,
                "lost_signal_bound": signal.lost_share,
                "lost_correct_bound": correct.lost_share,
            }
        if self.past is not None:
            own["known_share"] = self.past.known_share(groups)
            self.past.remember(groups)
        return metrics | {f"controls/{self.name}/{name}": value for name, value in own.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of a control with a rule, and the past of all problems if `history` is set."""
        return super().state_dict() | ({} if self.past is None else {"past": self.past.rows()})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it; the past starts empty if the checkpoint has none."""
        super().load_state_dict(state_dict)
        if self.past is not None:
            self.past.take(state_dict.get("past", ()))

    def count(self, counts: ControlCounts, group: RolloutGroup, decision: Decision) -> None:
        if not group.is_unbiased:
            return
        correct, tokens = sum(group.correct), sum(group.lengths)
        counts.add(
            prevented=decision.wanted,
            deserved=len(set(group.correct)) == 1,
            weight=group.weight,
            correct=correct,
            lost=correct if decision.gate == "hopeless" else 0,
            tokens=tokens,
            saved=tokens if decision.wanted else 0,
        )


class PredictiveGating(GatingControl):
    """Draws no solution rollouts for problems that are predicted hopeless or trivial (docs/method.md, section 5).

    GRPO learns nothing from a problem whose rollouts are all right or all wrong. By the rule "fixed", the paper's, a
    problem is gated if its predicted pass rates agree (`max_std`) and their mean is within `margin` of 0 or of 1. By
    the rule "risk" what predictions mean is learned, and as many problems are gated as `max_lost_signal` and
    `max_lost_correct` allow; it sets the rate of audits itself, and begins when audits can show that it keeps to its
    limits (`functional.risk`).

    Metrics, ``controls/gating/...``: ``precision`` (of the gated problems, those without variance), ``recall`` (of the
    problems without variance, those gated), ``f1``, ``share`` gated, ``lost_correct`` (correct rollouts of problems
    gated as hopeless, of all correct ones), ``saved_tokens`` (share of solution tokens), all over the window and
    estimated for all problems; ``hopeless_share`` and ``trivial_share`` of the step's problems, ``acted_share``,
    ``evidence``, ``held_back``; with the rule "risk" ``audit_share`` and, with confidence, the most that was lost since
    the start, ``lost_signal_bound`` and ``lost_correct_bound``; with `history` ``known_share``, of the step's problems
    those solved before; and ``tokens/saved_gating`` of the step.

    Args:
        mode: "off", "shadow" (decide and be scored, change nothing) or "act".
        start_step: Training steps before it acts; 80 by default, the paper's, and 0 by the rule "risk".
        max_std: The standard deviation of a problem's predictions has to be below it; 0.1 by default. Rule "fixed".
        margin: Distance of their mean from 0 or 1, in [0, 0.5); 0.1 by default. Rule "fixed".
        skip: "both", or "hopeless" alone, for `masa predict --solve`, where trivial problems are to be solved.
        min_predictions: Parsed predictions without which nothing is decided, >= 1; 2 by default. Rule "fixed".
        audit_share: Share of the gated problems that is solved all the same, in (0, 1); 0.05 by default. Rule "fixed".
        max_lost_correct: Rule "fixed": once it has shown to lose more than this share of the correct rollouts, it goes
            back to shadow mode.
            Rule "risk": no more than this share is lost over the run, in [0, 1).
        window: Training steps that the metrics look back on, and that the rule "risk" learns from.
        min_evidence: Gated problems solved all the same that the guard waits for; 10 by default. Rule "fixed".
        rule: "fixed" or "risk".
        max_lost_signal: Rule "risk": no more than this share of what GRPO could have learned is lost over the run, the
            sum of p (1 - p) with p the share of right rollouts of a problem, in [0, 1).
        confidence: Rule "risk": probability that both limits hold, at all steps at once, in (0, 1).
        history: Rule "risk": whether a problem's own past rollouts, discounted by a half each time it is solved again, count
            beside its predictions, each like one more prediction of 0 or 1; from the second epoch on.

    Raises:
        ValueError: If an argument is out of range, or is none of its rule.

    Example:
        >>> PredictiveGating(mode="shadow").acts(step=1000)
        False
    """

    name = "gating"
    reads = "pass_rate"

    def __init__(
        self,
        mode: Mode = "act",
        start_step: int | None = None,
        max_std: float | None = None,
        margin: float | None = None,
        min_predictions: int | None = None,
        audit_share: float | None = None,
        max_lost_correct: float = 0.05,
        window: int = 50,
        min_evidence: int | None = None,
        skip: Skip = "both",
        rule: Rule = "fixed",
        max_lost_signal: float = 0.05,
        confidence: float = 0.9,
        history: bool = False,
    ) -> None:
        check_choice("history", history, (False, True))
        given = {
            "max_std": (max_std, 0.1),
            "margin": (margin, 0.1),
            "min_predictions": (min_predictions, 2),
            "audit_share": (audit_share, 0.05),
            "min_evidence": (min_evidence, 10),
        }
        fixed = fixed_settings(type(self).__name__, rule, given)
        start = (0 if rule == "risk" else 80) if start_step is None else start_step
        super().__init__(mode, start, fixed["audit_share"], max_lost_correct, window, fixed["min_evidence"])
        check_number("max_std", fixed["max_std"], "> 0")
        check_number("margin", fixed["margin"], ">= 0", "< 0.5")
        check_number("min_predictions", fixed["min_predictions"], ">= 1", whole=True)
        check_choice("skip", skip, get_args(Skip))
        self.max_std, self.margin, self.min_predictions = (fixed[n] for n in ("max_std", "margin", "min_predictions"))
        self.skip: Skip = skip
        if rule == "risk":
            self.steered = True
            self.risk = risk_gate(max_lost_signal, max_lost_correct, confidence, window)
            self.past = Past() if history else None
        elif history:
            raise ValueError(
                "PredictiveGating has history: true and rule: fixed, which looks at predictions alone; expected rule: risk"
            )

    def _rates(self, group: RolloutGroup) -> list[float]:
        return [r.prediction.rate for r in group.metas if r.prediction is not None and r.prediction.rate is not None]

    def wants(self, group: RolloutGroup, budget: int) -> Gate | None:
        looks = gate(self._rates(group), max_std=self.max_std, margin=self.margin, min_predictions=self.min_predictions)
        return looks if self.skip in ("both", looks) else None

    def scores(self, group: RolloutGroup) -> tuple[float, float]:
        rates = self._rates(group)
        past = None if self.past is None else self.past.known(group)
        return scores(rates, *(past or (0.0, 0.0))) if rates or past else UNKNOWN


def risk_gate(max_lost_signal: float, max_lost_correct: float, confidence: float, window: int) -> RiskGate:
    """Makes the rule.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_number("max_lost_signal", max_lost_signal, ">= 0", "< 1")
    check_number("max_lost_correct", max_lost_correct, ">= 0", "< 1")
    check_number("confidence", confidence, "> 0", "< 1")
    return RiskGate(max_lost_signal, max_lost_correct, confidence, window)
