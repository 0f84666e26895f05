"""Put the predicted notions into the solution prompt, at a set probability, so that one sees whether that helps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from masa_lightning.callbacks._control import Mode, PredictionControl
from masa_lightning.checks import check_number
from masa_lightning.functional.controls import HintCounts, hint_notions
from masa_lightning.functional.guards import LossGuard
from masa_lightning.types import Decision, RolloutGroup


class NotionHinting(PredictionControl):
    """Gives the notions that most predictions of a problem name as a hint (docs/method.md, section 5).

    A model does what a hint says, right or wrong. So a notion that few of the predictions name is not given: it would take
    the place of the other ways that the solutions try. A problem with notions to give, and room for them in its prompt, is
    hinted at `probability`; the others of them are what it is compared with. All solution rollouts of a hinted problem are
    drawn, and trained on, with the hinted prompt (`PromptTemplates.hint`). Its meta rollouts have no reward: they predict
    how the problem goes without a hint. Validation is never hinted.

    Metrics, ``controls/hinting/...``: ``hinted_pass_rate``, ``plain_pass_rate`` and ``lift`` over the window;
    ``acted_share``, ``evidence``, ``held_back``.

    Args:
        mode: "off", "shadow" (choose hints, give none) or "act".
        start_step: Training steps before it acts (the paper's: 80).
        probability: Share of the problems with notions that is hinted, in (0, 1).
        max_notions: Most notions of a hint, >= 1.
        max_lost_correct: Once the hinted pass rate has shown to be lower by more than this share, it goes back to shadow
            mode, where hints show nothing: none is given any more, unless the run is resumed with another limit or another
            `min_agreement`.
        window: Training steps that the metrics look back on.
        min_evidence: Hinted problems that the guard waits for.
        min_agreement: A notion is given if more than this share of the problem's predictions name it, in [0, 1). 0 gives
            those that the most predictions name, however few these are.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> NotionHinting(probability=0.25).audit_share
        0.75
    """

    name = "hinting"
    reads = "notions"
    counts_type = HintCounts
    draw = "hinting"
    release = "to the end of the run, as hints that are not given show nothing"

    def __init__(
        self,
        mode: Mode = "act",
        start_step: int = 80,
        probability: float = 0.5,
        max_notions: int = 3,
        max_lost_correct: float = 0.2,
        window: int = 50,
        min_evidence: int = 50,
        min_agreement: float = 0.5,
    ) -> None:
        check_number("probability", probability, "> 0", "< 1", note="to compare with and without")
        super().__init__(mode, start_step, 1 - probability, max_lost_correct, window, min_evidence)
        check_number("max_notions", max_notions, ">= 1", whole=True)
        check_number("min_agreement", min_agreement, ">= 0", "< 1")
        self.max_notions = max_notions
        self.min_agreement = min_agreement

    def state_dict(self) -> dict[str, Any]:
        """The evidence, and which hints it is of."""
        return super().state_dict() | {"min_agreement": self.min_agreement}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it from a checkpoint, if it is of hints of the same `min_agreement`; 0 where that does not say."""
        super().load_state_dict(state_dict)
        if state_dict.get("min_agreement", 0.0) != self.min_agreement:
            self.guard = LossGuard()
            self.window.clear()

    def wants(self, group: RolloutGroup, budget: int) -> tuple[str, ...] | None:
        predictions = [r.prediction for r in group.metas if r.prediction is not None]
        text, most = group.problem.problem, self.max_notions
        return hint_notions(predictions, text, count=most, min_agreement=self.min_agreement) or None

    def apply(self, group: RolloutGroup, wanted: tuple[str, ...]) -> None:
        group.hint = wanted

    def withhold(self, group: RolloutGroup, wanted: tuple[str, ...]) -> None:
        group.withheld_hint = wanted

    def bounds(self, groups: Sequence[RolloutGroup]) -> tuple[float, float]:
        """All solutions of a hinted problem right, and all of a plain one."""
        most = max((len(g.solutions) for g in groups), default=0)
        return -most / (1 - self.audit_share), (1 - self.max_lost_correct) * most / self.audit_share

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """A hint that the prompt had, or would have had, no room for was none."""
        for group in groups:
            decision = group.decisions.get(self.name)
            if decision is not None and decision.wanted and not (group.hint or group.withheld_hint):
                group.decisions[self.name] = Decision(wanted=False)

    def tokens(self, decided: Sequence[tuple[RolloutGroup, Decision]]) -> dict[str, float]:
        return {}

    def count(self, counts: Any, group: RolloutGroup, decision: Decision) -> None:
        if decision.share < 1:
            chance = 1 - decision.share if decision.acted else decision.share
            counts.add(hinted=decision.acted, weight=1 / chance, count=len(group.correct), correct=sum(group.correct))
