"""What gating, cutoff and hinting share: shadow mode, audits, evidence over a window of steps, and the guard."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_warn

from masa_lightning.checks import check_choice, check_number
from masa_lightning.functional.controls import ControlCounts, uniform
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.types import Decision, RolloutGroup

Mode = Literal["off", "shadow", "act"]


class PredictionControl(Callback):
    """Decides on every problem of a training step from its predictions; a subclass says what, and what that cost.

    Satisfies `protocols.RolloutControl`. In shadow mode, before `start_step`, and while the guard holds it back, a control
    decides and is scored but changes nothing. While it acts, a random share of the problems that it wants to change is
    audited: left alone, and counted for those that were changed. `masa predict --solve` uses the same controls, without
    audits.

    Args:
        mode: "off", "shadow" or "act".
        start_step: Training steps before it acts.
        audit_share: Share of the problems it wants to change that are audited, in (0, 1).
        max_lost_correct: The guard's limit on the share of correct rollouts lost, in [0, 1]; above it the control goes
            back to shadow mode until a whole window of steps is within the limit again.
        window: Training steps that the figures and the guard look back on, >= 1.
        min_evidence: The guard says nothing before that many prevented units were seen in full, >= 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    name: str
    reads: str
    """Name of the quantity whose predictions it decides by."""
    counts_type: type[Any] = ControlCounts
    """What the evidence of a step is summed up in."""

    def __init__(
        self,
        mode: Mode,
        start_step: int,
        audit_share: float,
        max_lost_correct: float,
        window: int,
        min_evidence: int,
    ) -> None:
        super().__init__()
        check_choice("mode", mode, get_args(Mode))
        check_number("start_step", start_step, ">= 0", whole=True)
        check_number("audit_share", audit_share, "> 0", "< 1", note="(without audits nobody knows)")
        check_number("max_lost_correct", max_lost_correct, ">= 0", "<= 1")
        check_number("window", window, ">= 1", whole=True)
        check_number("min_evidence", min_evidence, ">= 1", whole=True)
        self.mode: Mode = mode
        self.start_step = start_step
        self.audit_share = audit_share
        self.max_lost_correct = max_lost_correct
        self.min_evidence = min_evidence
        self.held_back = False
        """Whether the guard keeps the control from acting."""
        self.window: deque[Any] = deque(maxlen=window)

    # -- what a subclass says ----------------------------------------------------------------------------------------

    @abstractmethod
    def wants(self, group: RolloutGroup, budget: int) -> Any:
        """What the control would do to a problem; None for nothing."""

    @abstractmethod
    def apply(self, group: RolloutGroup, wanted: Any) -> None:
        """Does it."""

    @abstractmethod
    def count(self, counts: Any, group: RolloutGroup, decision: Decision) -> None:
        """Adds what a problem shows, if its statistics are true, with the weight of its group."""

    def plan(self, groups: Sequence[RolloutGroup], budget: int) -> list[tuple[Any, float]]:
        """What it would do to each problem of a step, and the share of such problems that is to be audited."""
        return [(self.wants(group, budget), self.audit_share) for group in groups]

    def tokens(self, decided: Sequence[tuple[RolloutGroup, Decision]]) -> dict[str, float]:
        """What this step saved, by the estimate of its audits, and what these cost: entries of the token ledger."""
        saved = cost = 0.0
        for group, decision in decided:
            if decision.weight > 1 and group.is_unbiased:
                counts = ControlCounts()
                self.count(counts, group, decision)
                saved += counts.saved * (1 - 1 / decision.weight)  # but for the audited problem itself
                cost += counts.saved / group.weight
        return {f"tokens/saved_{self.name}": saved, f"tokens/audit_{self.name}": cost}

    # -- types.RolloutControl ----------------------------------------------------------------------------------------

    def acts(self, step: int) -> bool:
        return self.mode == "act" and step >= self.start_step and not self.held_back

    def decide(
        self, groups: Sequence[RolloutGroup], *, step: int, key: str, budget: int, count: int, audit: bool
    ) -> None:
        if self.mode == "off":
            return
        acting = self.acts(step)
        for place, (group, (wanted, share)) in enumerate(zip(groups, self.plan(groups, budget), strict=True)):
            decision = Decision(wanted=wanted is not None, detail=wanted)
            if acting and decision.wanted:
                if audit and uniform(f"{key}/{self.name}/{place}") < share:
                    decision.weight = 1 / share
                else:
                    decision.acted = True
                    self.apply(group, wanted)
            group.decisions[self.name] = decision

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """Nothing, unless a subclass knows better."""

    def figures(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Estimates over the window, ``controls/<name>/...``, and the tokens that this step saved."""
        if self.mode == "off":
            return {}
        decided = [(g, d) for g in groups if (d := g.decisions.get(self.name)) is not None]
        counts = self.counts_type()
        for group, decision in decided:
            self.count(counts, group, decision)
        self.window.append(counts)
        total = sum(self.window, self.counts_type())
        figures = {f"controls/{self.name}/{name}": value for name, value in total.figures().items()}
        acted = sum(d.acted for _, d in decided)
        figures |= {
            f"controls/{self.name}/acted_share": acted / len(decided) if decided else 0.0,
            f"controls/{self.name}/evidence": total.evidence,
            f"controls/{self.name}/held_back": float(self.held_back),
        }
        self._guard(total)
        return figures | self.tokens(decided)

    def _guard(self, total: ControlCounts) -> None:
        lost = total.lost_share
        if self.held_back:
            if len(self.window) == self.window.maxlen and not lost > self.max_lost_correct:
                self.held_back = False
        elif total.evidence >= self.min_evidence and lost > self.max_lost_correct:
            self.held_back = True
            self.window.clear()
            if self.mode == "act":
                rank_zero_warn(
                    f"{type(self).__name__} loses {lost:.1%} of the correct rollouts, its max_lost_correct is "
                    f"{self.max_lost_correct:.1%}: it only decides, as in shadow mode, until {self.window.maxlen} "
                    "steps in a row are within the limit. Start it later (start_step), make it stricter, or raise the limit"
                )

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses modules that make no predictions.

        Raises:
            TypeError: If the module is no `MASALightningModule`.
            ValueError: If it draws no meta rollouts in training, or they do not predict what this control reads.
        """
        if self.mode == "off" or stage not in ("fit", "predict"):
            return
        if not isinstance(pl_module, MASALightningModule):
            raise TypeError(
                f"{type(self).__name__} needs predictions, and {type(pl_module).__name__} makes none; expected a "
                "MASALightningModule: use one, or remove the callback"
            )
        if self.reads not in pl_module.quantities.names:
            raise ValueError(
                f"{type(self).__name__} decides by the predicted {self.reads}, and the module's quantities are "
                f"{', '.join(pl_module.quantities.names)}; expected {self.reads} among them: add it, or remove the callback"
            )
        if stage == "fit" and not pl_module.num_meta_generations:
            raise ValueError(
                f"{type(self).__name__} needs predictions, and num_meta_generations is 0; raise it, or set mode: off"
            )

    def state_dict(self) -> dict[str, Any]:
        """The evidence and whether the guard holds the control back."""
        return {"held_back": self.held_back, "window": [asdict(counts) for counts in self.window]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them up from a checkpoint."""
        self.held_back = state_dict["held_back"]
        self.window.clear()
        self.window.extend(self.counts_type(**counts) for counts in state_dict["window"])
