"""MASA: GRPO plus meta rollouts, in which the model predicts how its solution rollouts will go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from masa_lightning.checks import check_number, check_object
from masa_lightning.functional.prompts import check_asked
from masa_lightning.metrics.rollouts import MetaStatistics
from masa_lightning.modules.defaults import default_meta_length, fitting_scale
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.listeners import callbacks_of
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.protocols import RolloutControl, Sampler
from masa_lightning.quantities import Quantities, Quantity
from masa_lightning.rollouts.control_checks import measured_by
from masa_lightning.rollouts.controlled import ControlledRollouts
from masa_lightning.rollouts.cut_scorer import CutScorer
from masa_lightning.rollouts.expert_examples import ExpertExamples
from masa_lightning.rollouts.measurement import Named, measure
from masa_lightning.rollouts.meta_scorer import MetaScorer
from masa_lightning.rollouts.prompts import Chat, MetaChat
from masa_lightning.rollouts.rollouter import Rollouter
from masa_lightning.rollouts.scorers import Scorer, Scorers
from masa_lightning.types import Example, Kind, Objective, RolloutGroup


class MASALightningModule(GRPOLightningModule):
    """Trains a language model to solve problems and to predict its own pass rate, solution length and notions.

    The meta rollouts of a problem are rewarded for matching what its solution rollouts then really did; both kinds are
    drawn in one call of the sampler and share the policy update, with advantages of their own. With
    ``num_meta_generations=0`` this is GRPO, evaluated on its (untrained) predictions all the same. The method is that of
    arXiv 2510.03259, MAPR in its ICML version (docs/method.md).

    Args:
        model: Hugging Face folder or hub name; "tiny" is the embedded model.
        sampler: Draws completions; by default `VLLMSampler`, or `TransformersSampler` where vLLM is not installed.
        num_meta_generations: Meta rollouts a problem in training (M), >= 2, or 0 for GRPO; 1 with a `meta.loss_weight` of 0.
        num_acting_meta_generations: Meta rollouts a problem in training steps in which a control may act, so that predicting
            costs less than it saves; at most, and by default, `num_meta_generations`.
        max_meta_length: Most tokens of a meta completion; by default that of the model's training, if its folder says so (48
            for the embedded model), else `max_completion_length`. At most the latter, unless `num_meta_generations` is 0.
        quantities: What meta rollouts predict, by class path; the paper's three by default. Others have settings of their
            own ([how to](predict_your_own.md)).
        meta: How predictions are rewarded, and how much they count.
        **settings: Of the solutions, the model and its update: arguments of `GRPOLightningModule`.
    """

    quantities: Quantities
    """What meta rollouts predict, and what solutions state of themselves."""

    def __init__(
        self,
        model: str,
        sampler: Sampler | None = None,
        *,
        num_meta_generations: int = 8,
        num_acting_meta_generations: int | None = None,
        max_meta_length: int | None = None,
        quantities: list[Quantity] | None = None,
        meta: MetaSettings = MetaSettings(),
        **settings: Any,
    ) -> None:
        super().__init__(model, sampler, **settings)
        check_object("meta", meta, MetaSettings)
        if quantities is None:
            meta = fitting_scale(model, meta)
        meta.check_counts(num_meta_generations, num_acting_meta_generations, self.evaluation.num_meta_generations)
        if max_meta_length is None:
            max_meta_length = default_meta_length(model, self.max_completion_length)
        check_number("max_meta_length", max_meta_length, ">= 1", whole=True)
        if num_meta_generations and max_meta_length > self.max_completion_length:
            raise ValueError(
                f"max_meta_length is {max_meta_length}; expected 1..max_completion_length = {self.max_completion_length}"
            )
        self.num_meta_generations = num_meta_generations
        self.num_acting_meta_generations = num_acting_meta_generations
        self.completion_limits["meta"] = self.max_meta_length = min(max_meta_length, self.max_completion_length)
        self.calibrate(meta.quantities(quantities, self.max_completion_length, self.sampler, self.confidence))
        if quantities is not None:
            check_asked(self.prompts, self.quantities.questions())
        self.pass_rate_scale = self.quantities.pass_rate_scale
        self.meta_scorer = MetaScorer(self.quantities, meta.reward_weights)
        self.meta = replace(meta, reward_weights=self.meta_scorer.weights, pass_rate_scale=self.pass_rate_scale)
        self.kind_weights = (meta.solution_loss_weight, meta.loss_weight)

    def training_counts(self) -> dict[Kind, int]:
        return super().training_counts() | {"meta": self.num_meta_generations}

    def evaluation_counts(self) -> dict[Kind, int]:
        return super().evaluation_counts() | {"meta": self.evaluation.num_meta_generations}

    def objectives(self) -> dict[Kind, list[Objective]]:
        return super().objectives() | {"meta": self.meta_scorer.objectives}

    def chats(self) -> dict[Kind, Chat]:
        meta = MetaChat(
            templates=self.prompts,
            questions=self.quantities.questions(),
            pass_rate_scale=self.pass_rate_scale,
            max_completion_length=self.max_completion_length,
        )
        return super().chats() | {"meta": meta}

    def controlled_rollouts(self, rollouter: Rollouter, scorers: Scorers) -> ControlledRollouts:
        return ControlledRollouts(
            rollouter=rollouter,
            scorers=scorers,
            controls=callbacks_of(self.trainer, RolloutControl),
            read=self.meta_scorer.read,
            budget=self.max_completion_length,
            num_acting=self.num_acting_meta_generations,
        )

    def all_scorers(self, rollouter: Rollouter) -> list[Scorer]:
        cut = CutScorer(self.scorer, lambda completion: rollouter.texts([completion])[0])
        return [*super().all_scorers(rollouter), cut, self.meta_scorer]

    def prediction_counts(self) -> dict[Kind, int]:
        """Of solutions none, unless `evaluation.solve` asks for them.

        Raises:
            ValueError: If `evaluation.num_meta_generations` is 0.
        """
        counts = self.evaluation_counts()
        if not counts["meta"]:
            raise ValueError("evaluation.num_meta_generations is 0, so that there is nothing to predict; expected >= 1")
        return {kind: n for kind, n in counts.items() if kind == "meta" or self.evaluation.solve}

    def expert_examples(self, outputs: Any) -> list[Example]:
        """The best prediction of each problem, rewritten with what then really happened.

        Args:
            outputs: Of `training_step`. Problems that a control has biased (`RolloutGroup.is_unbiased`) give no example, and
                the others count for them (`functional.controls.training_weights`).

        Returns:
            Those of this process's part of the problems; a collective.
        """
        writer = ExpertExamples(
            self.quantities,
            tokenizer=self.tokenizer,
            stops=self.stops,
            max_length=self.max_meta_length,
            processes=self.processes,
        )
        return writer.of(outputs["groups"])

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        metrics = super().training_metrics(groups) | measure([("", self._meta_statistics())], groups)
        controls = callbacks_of(self.trainer, RolloutControl)
        for control in controls:
            metrics |= measured_by(control, groups, metrics)
        if controls and groups:
            metrics["controls/unbiased_share"] = fmean(g.is_unbiased for g in groups)
        return metrics

    def evaluation_metrics(self) -> list[Named]:
        return [*super().evaluation_metrics(), ("", self._meta_statistics())]

    def _meta_statistics(self) -> MetaStatistics:
        return MetaStatistics(self.meta_scorer.parts, sync_on_compute=False)
