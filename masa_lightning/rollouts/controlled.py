"""Groups -> rollouts of both kinds with rewards, under the controls of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from masa_lightning.distributed import share
from masa_lightning.protocols import RolloutControl
from masa_lightning.rollouts.control_checks import checked
from masa_lightning.rollouts.rollouter import Rollouter
from masa_lightning.rollouts.scorers import Scorers
from masa_lightning.settings import SamplingSettings
from masa_lightning.types import Kind, RolloutGroup


class ControlledRollouts:
    """Draws and scores rollouts: both kinds in one call of the sampler, or predictions first where a control may act.

    Args:
        rollouter: Draws.
        scorers: Score.
        controls: Those of the run, in their order.
        read: Reads the predictions that this process drew, in place; None where there are none.
        budget: Most tokens of a solution.
        num_acting: Most meta rollouts a problem in training steps in which a control may act; None for all.
    """

    def __init__(
        self,
        *,
        rollouter: Rollouter,
        scorers: Scorers,
        controls: Sequence[RolloutControl] = (),
        read: Callable[[Sequence[RolloutGroup]], None] | None = None,
        budget: int,
        num_acting: int | None = None,
    ) -> None:
        self.rollouter, self.scorers, self.controls = rollouter, scorers, list(controls)
        self.budget, self.num_acting = budget, num_acting
        self._read = read

    def draw(
        self,
        groups: list[RolloutGroup],
        counts: dict[Kind, int],
        sampling: SamplingSettings,
        keys: Sequence[str],
        *,
        key: str,
        step: int,
        training: bool,
    ) -> None:
        """Draws and scores rollouts of groups, in place; a collective.

        Args:
            groups: With prompts, without rollouts.
            counts: Rollouts a problem, by kind.
            sampling: How tokens are drawn.
            keys: One a group; seeds are functions of them.
            key: Of them all; the draws of controls are functions of it.
            step: Training steps done before.
            training: Whether controls leave some problems alone, and log-probabilities are wanted.
        """
        acting = [control.acts(step) for control in self.controls]
        sequential = any(acting)
        first = counts
        if sequential:
            metas = counts.get("meta", 0)
            first = {"meta": min(metas, self.num_acting) if training and self.num_acting is not None else metas}
        self.rollouter.generate(groups, first, sampling, keys, logprobs=training)
        if self.controls:
            self.read_predictions(groups)
        for control, acts in zip(self.controls, acting, strict=True):
            with checked(control, groups, acts=acts):
                control.decide(
                    groups,
                    step=step,
                    key=f"{self.rollouter.seed}/{key}",
                    budget=self.budget,
                    count=counts["solution"],
                    audit=training,
                )
        if sequential:
            self.rollouter.hint(groups)
            self.rollouter.generate(groups, {"solution": counts["solution"]}, sampling, keys, logprobs=training)
        self.scorers.score(groups)
        for control in self.controls:
            control.settle(groups)

    def read_predictions(self, groups: Sequence[RolloutGroup]) -> None:
        """Reads the predictions that this process drew, and gets the others; in place, and a collective."""
        if self._read is not None:
            self._read(groups)
        metas = [r for g in groups for r in g.metas]
        with self.rollouter.watch.phase("exchange"):
            predictions = share(metas, lambda r: r.prediction, self.rollouter.processes)
        for rollout, prediction in zip(metas, predictions, strict=True):
            rollout.prediction = prediction
