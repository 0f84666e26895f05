"""GRPO as a LightningModule: problems in, one or more optimiser steps out, with the sampler in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn

from masa_lightning.checks import check_number, check_object, parameters
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.grading.answer_grader import AnswerGrader
from masa_lightning.metrics.rollouts import SolutionStatistics
from masa_lightning.metrics.solving import MajorityVote, PassAtK, PredictedVote
from masa_lightning.models.turns import check_roles
from masa_lightning.modules.base import PolicyLightningModule
from masa_lightning.modules.checkpoint_entry import entry_of, restore
from masa_lightning.modules.defaults import fitting_prompts, warn_of_hub
from masa_lightning.modules.listeners import callbacks_of
from masa_lightning.modules.moved import check_methods, check_names
from masa_lightning.modules.resume import Resumption
from masa_lightning.modules.run_parts import RunParts, begun
from masa_lightning.modules.run_state import RunState
from masa_lightning.modules.trainer_checks import check_batches, check_monitors
from masa_lightning.modules.validated import save_validated
from masa_lightning.protocols import Grader, RewardFunction, RolloutStore, Sampler
from masa_lightning.quantities import Quantities, StatedConfidence
from masa_lightning.rollouts.alike import AlikeWarning
from masa_lightning.rollouts.controlled import ControlledRollouts
from masa_lightning.rollouts.evaluation import Drawn, Evaluator, Predicted, Predictor, Stage
from masa_lightning.rollouts.measurement import Named, measure
from masa_lightning.rollouts.plan import merge_batches
from masa_lightning.rollouts.prompts import Chat, SolutionChat
from masa_lightning.rollouts.rollouter import Rollouter
from masa_lightning.rollouts.scorers import Scorer, Scorers
from masa_lightning.rollouts.solution_scorer import SolutionScorer
from masa_lightning.rollouts.step_metrics import add_token_sums, speed_metrics
from masa_lightning.rollouts.training import Trained
from masa_lightning.rollouts.unfinished import UnfinishedWarning
from masa_lightning.settings import Algorithm, Evaluation, SamplingSettings
from masa_lightning.types import Experience, Kind, Objective, Problem, RolloutGroup
from masa_lightning.update.advantages import assign_advantages


class GRPOLightningModule(PolicyLightningModule):
    """Trains a causal language model with group-relative policy optimisation on problems with known answers.

    Batches are `list[Problem]`. Each training step draws `num_generations` solutions a problem from the sampler, grades
    them, and takes ``num_iterations * num_mini_batches`` optimiser steps (manual optimisation: gradient clipping and
    accumulation are in `optimization`, and not the Trainer's). Lightning counts training steps: ``max_steps``,
    ``every_n_train_steps``, `global_step` and the axis of logs are training steps, however many optimiser steps each takes.

    With several processes the batches of all of them are one batch, of which each draws, grades and trains on its part
    (`distributed`); settings such as `num_mini_batches` are of that batch.

    Args:
        model: Hugging Face folder or hub name; "tiny" is the embedded model.
        sampler: Draws completions; by default `VLLMSampler`, or `TransformersSampler` where vLLM is not installed.
        grader: Decides which solutions are right; `AnswerGrader` by default.
        reward_functions: Extra rewards of solution rollouts, added to their correctness (0 or 1); each a function, or an
            object that can be called, as `protocols.RewardFunction` says.
        reward_weights: One factor a reward function; 1 each by default.
        prompts: Instructions around the problem. Those that are left at their defaults are the ones that the model was
            trained with, if its folder says so: the embedded model's and those of `masa export` do.
        num_generations: Solution rollouts a problem, >= 2: they are compared (G).
        evaluation: How validation, test and predict draw theirs.
        algorithm: Surrogate, aggregation, advantages, KL; by default the paper's GRPO.
        confidence: Asks solutions how sure they are, and rewards being as sure as they are right (RLCR); off by default.
        **settings: Of the model, its lengths, sampling, optimiser and precision: arguments of `PolicyLightningModule`.
    """

    def __init__(
        self,
        model: str,
        sampler: Sampler | None = None,
        *,
        grader: Grader | None = None,
        reward_functions: list[RewardFunction] | None = None,
        reward_weights: list[float] | None = None,
        prompts: PromptTemplates = PromptTemplates(),
        num_generations: int = 8,
        evaluation: Evaluation = Evaluation(),
        algorithm: Algorithm | None = None,  # a default made here would override what belongs to a `loss_type`
        confidence: StatedConfidence | None = None,
        **settings: Any,
    ) -> None:
        check_names(type(self), settings, parameters(PolicyLightningModule))
        check_methods(type(self))
        algorithm = Algorithm() if algorithm is None else algorithm
        check_object("prompts", prompts, PromptTemplates)
        check_object("evaluation", evaluation, Evaluation)
        check_object("algorithm", algorithm, Algorithm)
        super().__init__(model, sampler, **settings)
        check_number("num_generations", num_generations, ">= 1", whole=True)
        if num_generations == 1:
            raise ValueError(
                "num_generations is 1; expected >= 2: a solution's advantage is what it earns more than the others of its "
                "problem"
            )
        if algorithm.overlong_buffer > self.max_completion_length:
            raise ValueError(
                f"algorithm.overlong_buffer is {algorithm.overlong_buffer}; expected at most max_completion_length = "
                f"{self.max_completion_length}"
            )
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0, so all rollouts of a problem would be equal; expected > 0")
        self.scorer = SolutionScorer(
            grader if grader is not None else AnswerGrader(),
            reward_functions,
            reward_weights,
            max_length=self.max_completion_length,
            overlong_buffer=algorithm.overlong_buffer,
            confidence=confidence,
        )
        self.confidence = confidence
        self.quantities: Quantities | None = None
        """What is predicted or stated, if anything is."""
        if confidence is not None:
            confidence.check_stops(self.sampling.stop)
            self.calibrate(Quantities([], budget=self.max_completion_length, confidence=confidence))
        self.prompts = fitting_prompts(model, prompts)
        self.evaluation = evaluation
        self.num_generations = num_generations
        self.algorithm = algorithm
        self.needs_reference = algorithm.kl_coef > 0
        self.kind_weights = (1.0, 1.0)
        self.completion_limits: dict[Kind, int] = dict.fromkeys(("solution", "meta"), self.max_completion_length)
        """Most tokens of a completion, by kind of rollout."""

        self.run_state = RunState()
        """What the run has counted, logged and validated so far; checkpoints have it."""
        self.resumption = Resumption()
        self._unfinished, self._alike = UnfinishedWarning(), AlikeWarning()
        self._parts: RunParts | None = None
        self._evaluator: Evaluator | None = None
        self._predictor: Predictor | None = None

    @property
    def parts(self) -> RunParts:
        """What a batch goes through, once a run has begun."""
        return begun(self._parts)

    @property
    def evaluator(self) -> Evaluator:
        """Draws and measures, once a validation or test has begun."""
        return begun(self._evaluator)

    def calibrate(self, quantities: Quantities) -> None:
        """Sets what validations, tests and training steps calibrate."""
        self.quantities = quantities
        self.calibration = nn.ModuleDict({stage: quantities.calibration() for stage in ("fit", "validate", "test")})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an exact resume needs beyond weights, optimisers and loops, and what an export needs."""
        checkpoint["masa"] = entry_of(self)
        for logger in self.trainer.loggers:
            logger.save()  # what was logged before the checkpoint must outlive a kill after it

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what `on_save_checkpoint` added.

        Raises:
            ValueError: If the checkpoint is of other LoRA settings, of another model or module, or cannot be resumed from.
        """
        restore(self, checkpoint)

    def __getstate__(self) -> dict[str, Any]:
        """For copies, also pickled ones: the parts that a batch goes through are made when a run begins."""
        parts = ("_parts", "_evaluator", "_predictor")
        return {name: None if name in parts else value for name, value in super().__getstate__().items()}

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Checks the chat template too, which has to show the messages of `prompts`.

        Raises:
            ValueError: If it does not, a callback monitors what no validation logs, or as `PolicyLightningModule.setup`.
        """
        super().setup(stage)
        if stage == "fit":
            check_monitors(self.trainer, self)
        self.run_state.session_steps = 0
        warn_of_hub(self.model_name, self.prompts, trust_remote_code=self.trust_remote_code)
        system = self.prompts.system is not None
        check_roles(self.tokenizer, model=self.model_name, system=system, template_kwargs=self.chat_template_kwargs)

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation("validate", self.trainer.num_val_batches, self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation("test", self.trainer.num_test_batches, self.trainer.test_dataloaders)

    def on_predict_epoch_start(self) -> None:
        self._begin_epoch(self.trainer.num_predict_batches, self.trainer.predict_dataloaders)
        counts = self.prediction_counts()
        self._predictor = Predictor(
            self.parts.rollouts,
            counts=counts,
            sampling=self.evaluation_sampling,
            compare=self.evaluation.compare and "meta" in counts,  # controls act by predictions
            step=self.run_state.rollout_steps,
        )

    def validation_step(self, batch: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> Drawn:
        """As `test_step`."""
        return self.evaluator.step(batch)

    def test_step(self, batch: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> Drawn:
        """Draws and scores rollouts with the settings of `evaluation`, but of problems that a `RolloutStore` has them of."""
        return self.evaluator.step(batch, callbacks_of(self.trainer, RolloutStore))

    def predict_step(self, batch: list[Problem], batch_idx: int, dataloader_idx: int = 0) -> Predicted:
        """Draws rollouts with the settings of `evaluation`; problems need no answers."""
        predicted = begun(self._predictor).step(batch)
        self.parts.rollouter.take_generated()  # nobody logs them here
        self.scorer.logged.restart()
        return predicted

    def on_validation_epoch_end(self) -> None:
        """Logs what was measured.

        Raises:
            ValueError: If the prompts of all problems are too long.
        """
        self._log_evaluation("val")
        if not self.trainer.sanity_checking:
            self.run_state.validated(self, self.evaluator.measured)

    def on_validation_end(self) -> None:
        """Writes a checkpoint of the same step again, which lacks the results; after the hooks of all callbacks."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            save_validated(self.trainer, self.run_state.rollout_steps)

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self.resumption.prepare(self.trainer)

    def teardown(self, stage: str) -> None:
        """Closes the sampler and the grader."""
        super().teardown(stage)
        self.scorer.close()

    def on_train_start(self) -> None:
        self._start()
        self.resumption.begin(self.trainer, self.run_state)

    def training_step(self, batch: list[Problem], batch_idx: int) -> Trained:
        """Rolls out, scores and updates."""
        self.watch.restart()
        with self.processes.together():
            self._step_monitored_schedules(self.current_epoch)
            with self.watch.phase("step"):
                self.session.hand_over(self, compare=self.run_state.session_steps == 1)
                problems = merge_batches(self.processes.gather(batch))
                done = self.run_state.rollout_steps
                groups, refills = self.parts.training.draw(problems, self.training_counts(), step=done)
                self.sampler.sleep()
                assign_advantages(groups, self.algorithm, self.objectives())
                self.resumption.updating = True
                update, trained_tokens = self.learner.update(
                    self,
                    groups,
                    extra=None if type(self).extra_loss is GRPOLightningModule.extra_loss else self.extra_loss,
                    first=partial(self.session.check, step=done + 1, sampling=self.sampling),
                )
            self._count(groups)
            self.log_step(self._step_metrics(groups, update, trained_tokens) | refills)
        if self.trainer.is_last_batch:
            self.learner.schedules.after_epoch(self.current_epoch + 1)
        return Trained(groups=groups)

    def on_train_epoch_end(self) -> None:
        if self.trainer.is_last_batch:
            self._step_monitored_schedules(self.current_epoch + 1)

    def log_step(self, metrics: dict[str, float]) -> None:
        """Logs metrics of a training step; a run that is resumed right after its checkpoint logs them again."""
        when = self._step_and_epoch()
        self.run_state.note(metrics | {"epoch": when["epoch"]})
        self.log_dict(metrics | when, batch_size=1)

    def _step_and_epoch(self) -> dict[str, float]:
        """Logged with other metrics these say where, as Lightning documents; outside of training its own count is 0."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            # Behind the last step Lightning counts its epoch as done, which a validation then would say.
            known = self.run_state.metrics if self.trainer.validating else {}
            return {"step": float(self.resumption.steps), "epoch": known.get("epoch", float(self.current_epoch))}
        return {"step": float(self.run_state.rollout_steps)} if self.run_state.rollout_steps else {}

    def _step_monitored_schedules(self, epochs: int) -> None:
        known = {**self.run_state.last_logged(), **self.trainer.callback_metrics}
        self.learner.schedules.monitor(known, training_steps=self.run_state.rollout_steps, epochs=epochs)

    # -- what a subclass extends -------------------------------------------------------------------------------------

    def evaluation_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in validation and test, by kind."""
        return {"solution": self.evaluation.num_generations}

    def prediction_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in predict, by kind; those of `evaluation_counts` by default."""
        return self.evaluation_counts()

    @property
    def evaluation_sampling(self) -> SamplingSettings:
        """How tokens are drawn in validation, test and predict."""
        e = self.evaluation
        return SamplingSettings(temperature=e.temperature, top_p=e.top_p, top_k=e.top_k)

    def chats(self) -> dict[Kind, Chat]:
        """By kind, a function that makes the messages of a prompt from a `RolloutGroup`."""
        return {"solution": SolutionChat(self.prompts, self.confidence)}

    def training_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in training, by kind."""
        return {"solution": self.num_generations}

    def objectives(self) -> dict[Kind, list[Objective]]:
        """What the rewards of rollouts are made of, by kind; each is normalised apart under "normalize_then_sum"."""
        return {"solution": self.scorer.objectives}

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What a training step logs of its rollouts; of their texts by `distributed.share`, as each process has its own."""
        metrics: list[Named] = [("", SolutionStatistics(self.scorer.parts, sync_on_compute=False))]
        if self.quantities is not None and (self.confidence is not None or self.training_counts().get("meta")):
            self.parts.scorers.note(groups, votes=False)
            self.calibration["fit"] = calibration = self.quantities.calibration()
            metrics.append(("calibration", calibration))
        return measure(metrics, groups)

    def evaluation_metrics(self) -> list[Named]:
        """What validation and test log of their rollouts: new metrics with names, filled batch by batch (`Measurement`).

        Every process adds all rollouts, so none of the metrics gathers any.
        """
        counts = self.evaluation_counts()
        n = counts["solution"]
        metrics: list[Named] = [("", PassAtK(self.evaluation.pass_at, sync_on_compute=False))]
        if n > 1:
            metrics.append((f"maj@{n}", MajorityVote(sync_on_compute=False)))
        if n > 1 and counts.get("meta"):
            metrics.append((f"maj_predicted@{n}", PredictedVote(sync_on_compute=False)))
        metrics.append(("", SolutionStatistics(self.scorer.parts, sync_on_compute=False)))
        return metrics if self.quantities is None else [*metrics, ("calibration", self.quantities.calibration())]

    def extra_loss(self, logp: Tensor, batch: Experience) -> Tensor:
        """A further loss of each token, for a subclass to override; aggregated and weighed as the policy's loss is.

        Args:
            logp: Log-probabilities of a micro-batch under the policy, in nats, with a graph, [B, T].
            batch: Its tokens and mask, the sampler's log-probabilities, advantages and kinds.

        Returns:
            [B, T], 0 where a token counts for nothing; its mean is logged as ``extra_loss``.
        """
        return torch.zeros_like(logp)

    # -- the walk of one batch ---------------------------------------------------------------------------------------

    def _count(self, groups: Sequence[RolloutGroup]) -> None:
        """Counts the training step as taken."""
        self.run_state.count(groups)
        self.run_state.reserve_taken = self.parts.training.reserve.taken
        self.resumption.steps, self.resumption.updating = self.trainer.global_step, False
        self.parts.rollouter.expect(groups)
        self._unfinished.look(groups, budget=self.max_completion_length, stops=self.stops.described(self.tokenizer))
        self._alike.look(groups)

    def _step_metrics(
        self, groups: Sequence[RolloutGroup], update: dict[str, float], trained_tokens: list[list[int]]
    ) -> dict[str, float]:
        """What a training step logs of its rollouts, update, tokens and seconds."""
        metrics = self.training_metrics(groups) | update | {"num_tokens": float(self.run_state.num_tokens)}
        metrics |= self.scorer.take_metrics(self.processes)
        add_token_sums(metrics, self.run_state.ledger)
        return metrics | speed_metrics(
            generated=self.parts.rollouter.take_generated(),
            trained=trained_tokens,
            processes=self.processes,
            watch=self.watch,
        )

    def _start(self) -> None:
        """Readies the sampler, and makes the parts that a batch goes through."""
        self.session.start(self)
        self.scorer.start(self.watch, self.device)
        self._parts = RunParts(self)

    def controlled_rollouts(self, rollouter: Rollouter, scorers: Scorers) -> ControlledRollouts:
        """Draws and scores."""
        return ControlledRollouts(rollouter=rollouter, scorers=scorers, budget=self.max_completion_length)

    def all_scorers(self, rollouter: Rollouter) -> list[Scorer]:
        """Those of each kind of rollout."""
        return [self.scorer]

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _begin_epoch(self, batches: list[int | float], loaders: Any) -> None:
        """Gets ready; `batches` are those of this process, of each loader."""
        for loader in CombinedLoader(loaders, "sequential").flattened:
            if hasattr(loader, "rewind"):  # `limit_val_batches` and the sanity check end early
                loader.rewind()
        check_batches(self.processes.gather(list(batches)))
        self._start()

    def _begin_evaluation(self, stage: Stage, batches: list[int | float], loaders: Any) -> None:
        self._begin_epoch(batches, loaders)
        self._evaluator = Evaluator(
            rollouter=self.parts.rollouter,
            scorers=self.parts.scorers,
            metrics=self.evaluation_metrics(),
            counts=self.evaluation_counts(),
            sampling=self.evaluation_sampling,
            stage=stage,
        )
        if self.quantities is not None:  # for callbacks, such as CalibrationPlots
            self.calibration[stage] = self.evaluator.measured.named("calibration")

    def _log_evaluation(self, prefix: str) -> None:
        self.sampler.sleep()
        # A sanity check looks at the first problems alone.
        metrics = self.evaluator.compute(stage=prefix, some=not self.trainer.sanity_checking)
        metrics |= self.scorer.take_metrics(self.processes)
        self.parts.rollouter.take_generated()  # the next training step counts its own
        self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items()} | self._step_and_epoch())
