"""What gating, cutoff and hinting share: shadow mode, audits, evidence over a window of steps, and the guard.

A problem is left alone by all controls together, for they share one random number a problem (`draw`): with two shares of
5% it is unbiased with a chance of 5% and not of 1 in 400, and it stands for 20 problems and not for 400.
"""

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
from masa_lightning.functional.guards import LossGuard
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.types import Decision, RolloutGroup

Mode = Literal["off", "shadow", "act"]


class PredictionControl(Callback):
    """Decides on every problem of a training step from its predictions; a subclass says what, and what that cost.

    Satisfies `protocols.RolloutControl`. In shadow mode, before `start_step`, and while the guard holds it back, a control
    decides and is scored but changes nothing. While it acts, a random share of the problems that it wants to change is
    audited: left alone, and counted for those that were changed. `masa predict --solve` uses the same controls, without
    audits.

    The guard holds a control back when it has shown, by a test that may look at every step (`functional.guards`), that it
    loses more than its limit, and lets it go when it has shown the opposite in shadow mode; neither without evidence.

    Args:
        mode: "off", "shadow" or "act".
        start_step: Training steps before it acts.
        audit_share: Share of the problems it wants to change that are audited, in (0, 1).
        max_lost_correct: The guard's limit on the share of correct rollouts lost, in [0, 1]; above it the control goes
            back to shadow mode.
        window: Training steps that the metrics look back on, >= 1.
        min_evidence: The guard holds nothing back before the window has that many prevented units that were seen in full,
            >= 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    name: str
    reads: str
    """Name of the quantity whose predictions it decides by."""
    counts_type: type[Any] = ControlCounts
    """Class that the evidence of a step is summed up in."""
    draw = "audit"
    """Names the random number by which a problem is left alone."""
    skips = False
    """Whether a problem that it acts on has no solutions."""
    release = "until it is within the limit there"
    """Until when the guard holds it back, in words for the warning."""
    steered = False
    """Whether it keeps within its limits by itself (`functional.risk`), so that the guard has nothing to say."""

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
        self.guard = LossGuard()
        self.window: deque[Any] = deque(maxlen=window)

    # -- what a subclass says ----------------------------------------------------------------------------------------

    @abstractmethod
    def wants(self, group: RolloutGroup, budget: int) -> Any:
        """What the control would do to a problem; None for nothing."""

    @abstractmethod
    def apply(self, group: RolloutGroup, wanted: Any) -> None:
        """Does it."""

    def withhold(self, group: RolloutGroup, wanted: Any) -> None:
        """Notes what it would have done, and did not; nothing by default."""

    @abstractmethod
    def count(self, counts: Any, group: RolloutGroup, decision: Decision) -> None:
        """Adds what an unbiased problem shows (`RolloutGroup.is_unbiased`), with the weight of its group."""

    def plan(self, groups: Sequence[RolloutGroup], budget: int) -> list[tuple[Any, float]]:
        """What it would do to each problem of a step, and the share of such problems that is to be audited."""
        return [(self.wants(group, budget), self.audit_share) for group in groups]

    def tokens(self, decided: Sequence[tuple[RolloutGroup, Decision]]) -> dict[str, float]:
        """What this step saved, by the estimate of its audits, and what these cost: entries of the token ledger.

        Where one control skips a problem, no other control saves anything of it.
        """
        saved = cost = 0.0
        for group, decision in decided:
            skipping = next((name for name, d in group.decisions.items() if d.skips and d.weight > 1), self.name)
            if decision.weight > 1 and group.is_unbiased and skipping == self.name:
                counts = ControlCounts()
                self.count(counts, group, decision)
                saved += counts.saved * (1 - 1 / decision.weight)  # but for the audited problem itself
                cost += counts.saved / group.weight
        return {f"tokens/saved_{self.name}": saved, f"tokens/audit_{self.name}": cost}

    def bounds(self, groups: Sequence[RolloutGroup]) -> tuple[float, float]:
        """Least and greatest excess (`ControlCounts.excess`) that a problem may show, known before any is solved."""
        most = max((g.greatest_weight * len(g.solutions) for g in groups), default=0.0)
        return -self.max_lost_correct * most, (1 - self.max_lost_correct) * most

    # -- protocols.RolloutControl ----------------------------------------------------------------------------------------

    @property
    def held_back(self) -> bool:
        """Whether the guard keeps the control from acting."""
        return self.guard.held_back

    def acts(self, step: int) -> bool:
        return self.mode == "act" and step >= self.start_step and not self.held_back

    def decide(
        self, groups: Sequence[RolloutGroup], *, step: int, key: str, budget: int, count: int, audit: bool
    ) -> None:
        if self.mode == "off":
            return
        acting = self.acts(step)
        for index, (group, (wanted, share)) in enumerate(zip(groups, self.plan(groups, budget), strict=True)):
            decision = Decision(wanted=wanted is not None, detail=wanted, draw=self.draw, skips=self.skips)
            if acting and audit and decision.wanted:
                decision.share = share
                decision.acted = uniform(f"{key}/{self.draw}/{index}") >= share
                decision.weight = 1.0 if decision.acted else 1 / share
            else:
                decision.acted = acting and decision.wanted
            if decision.wanted:
                (self.apply if decision.acted else self.withhold)(group, wanted)
            group.decisions[self.name] = decision

    def settle(self, groups: Sequence[RolloutGroup]) -> None:
        """Does nothing; a subclass may override it."""

    def metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Estimates over the window, ``controls/<name>/...``, and the tokens that this step saved."""
        if self.mode == "off":
            return {}
        decided = [(g, d) for g in groups if (d := g.decisions.get(self.name)) is not None]
        units = [self._shown(group, decision) for group, decision in decided]
        self.window.append(sum(units, self.counts_type()))
        total = sum(self.window, self.counts_type())
        metrics = {f"controls/{self.name}/{name}": value for name, value in total.metrics().items()}
        acted = sum(d.acted and (self.skips or bool(g.solutions)) for g, d in decided)
        metrics |= {
            f"controls/{self.name}/acted_share": acted / len(decided) if decided else 0.0,
            f"controls/{self.name}/evidence": total.evidence,
            f"controls/{self.name}/held_back": float(self.held_back),
        }
        if not self.steered:
            self._look(units, self.bounds(groups), total)
        return metrics | self.tokens(decided)

    def _shown(self, group: RolloutGroup, decision: Decision) -> Any:
        counts = self.counts_type()
        self.count(counts, group, decision)
        return counts

    def _look(self, units: Sequence[Any], bounds: tuple[float, float], total: Any) -> None:
        """Tells the guard what was lost in a step, and warns if it now holds the control back."""
        least, greatest = bounds
        gains = [gain for unit in units if (gain := unit.excess(self.max_lost_correct))]
        speaks = self.held_back or total.evidence >= self.min_evidence
        if not self.guard.look(gains, least=least, greatest=greatest, speaks=speaks) or not self.held_back:
            return
        does = (
            f"it only decides, as in shadow mode, {self.release}"
            if self.mode == "act"
            else "in mode: act it would be held back"
        )
        rank_zero_warn(
            f"{type(self).__name__} loses more correct rollouts than its max_lost_correct, {self.max_lost_correct:.1%}, "
            f"allows (estimated over the last {len(self.window)} steps: {total.lost_share:.1%}): {does}. Start it later "
            "(start_step), make it stricter, or raise the limit"
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
        """The evidence, and the guard with the limit that it holds."""
        window = [asdict(counts) for counts in self.window]
        return {"guard": asdict(self.guard), "limit": self.max_lost_correct, "window": window}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them from a checkpoint; the guard starts afresh if the limit has changed.

        The guard of an earlier version had no test: all that is known is whether it held the control back.
        """
        guard = state_dict.get("guard", {"held_back": state_dict.get("held_back", False)})
        same = state_dict.get("limit", self.max_lost_correct) == self.max_lost_correct
        self.guard = LossGuard(**guard) if same else LossGuard()
        self.window.clear()
        self.window.extend(self.counts_type(**counts) for counts in state_dict["window"])
