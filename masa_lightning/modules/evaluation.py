"""What draws, scores and evaluates rollouts, and does not train."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import CombinedLoader

from masa_lightning.functional.calibration import pass_at_k, rate_interval
from masa_lightning.functional.prompts import PromptTemplates, solution_messages
from masa_lightning.functional.stopping import before_stop
from masa_lightning.functional.voting import ballot, majority_vote, predicted_vote
from masa_lightning.models.loading import DType, check_prompt
from masa_lightning.models.lora import LoRA
from masa_lightning.models.turns import check_roles
from masa_lightning.modules.answer_grader import AnswerGrader
from masa_lightning.modules.base import PolicyLightningModule
from masa_lightning.protocols import Grader, RewardFunction, RolloutStore, Sampler
from masa_lightning.rollouts import summary
from masa_lightning.rollouts.plan import (
    collect_rollouts,
    keys_by_problem,
    left_out,
    make_groups,
    merge_batches,
    plan_rollouts,
)
from masa_lightning.rollouts.scorers import SolutionScorer
from masa_lightning.settings import Evaluation, SamplingSettings
from masa_lightning.types import Kind, Problem, RolloutGroup

Stage = Literal["fit", "validate", "test", "predict"]


class EvaluationLightningModule(PolicyLightningModule):
    """Draws rollouts of problems, scores them, and reports them in validation and test; a subclass says how to train.

    Args:
        grader: As `GRPOLightningModule`, like all others.
        reward_functions: Extra rewards of solution rollouts.
        reward_weights: One factor a reward function.
        overlong_buffer: Of the soft overlong penalty; 0 is none.
        prompts: Instructions around the problem.
        evaluation: How validation, test and predict draw theirs.

    The other arguments are those of `PolicyLightningModule`.
    """

    def __init__(
        self,
        *,
        model: str,
        sampler: Sampler,
        grader: Grader | None,
        reward_functions: list[RewardFunction] | None,
        reward_weights: list[float] | None,
        overlong_buffer: int,
        prompts: PromptTemplates,
        chat_template: str | None,
        chat_template_kwargs: dict[str, Any] | None,
        sampling: SamplingSettings,
        max_prompt_length: int,
        max_completion_length: int,
        evaluation: Evaluation,
        needs_reference: bool,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        max_grad_norm: float | None,
        max_skipped_steps: int,
        dtype: DType,
        gradient_checkpointing: bool,
        lora: LoRA | None,
        max_logp_difference: float | None,
        seed: int | None,
    ) -> None:
        super().__init__(
            model=model,
            sampler=sampler,
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
            sampling=sampling,
            max_prompt_length=max_prompt_length,
            max_completion_length=max_completion_length,
            needs_reference=needs_reference,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            max_grad_norm=max_grad_norm,
            max_skipped_steps=max_skipped_steps,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            lora=lora,
            max_logp_difference=max_logp_difference,
            seed=seed,
        )
        self.scorer = SolutionScorer(
            grader if grader is not None else AnswerGrader(),
            reward_functions,
            reward_weights,
            max_length=max_completion_length,
            overlong_buffer=overlong_buffer,
        )
        self.prompts = prompts
        self.evaluation = evaluation
        self.evaluated: list[RolloutGroup] = []
        """Groups of the validation that is going on, and of the last test."""
        self._overlong = 0  # problems of the evaluation that is going on whose prompts are too long
        self._expected: dict[Kind, float] = {}  # tokens of a completion
        self._generated: list[list[int]] = []  # tokens of each process, one list for each call of `generate`

    def setup(self, stage: str) -> None:
        """Looks at the chat template too, which has to show the messages of `prompts`.

        Raises:
            ValueError: If it does not, or as `PolicyLightningModule.setup`.
        """
        super().setup(stage)
        system = self.prompts.system is not None
        check_roles(self.tokenizer, model=self.model_name, system=system, template_kwargs=self.chat_template_kwargs)

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation(self.trainer.num_val_batches, self.trainer.val_dataloaders)

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation(self.trainer.num_test_batches, self.trainer.test_dataloaders)

    def on_predict_epoch_start(self) -> None:
        self._begin_evaluation(self.trainer.num_predict_batches, self.trainer.predict_dataloaders)

    def validation_step(self, batch: list[Problem], batch_idx: int) -> dict[str, Any]:
        """As `test_step`."""
        return self._evaluation_step(batch, "validate")

    def test_step(self, batch: list[Problem], batch_idx: int) -> dict[str, Any]:
        """Draws and scores rollouts with the settings of `evaluation`.

        Returns:
            ``groups``: the step's `list[RolloutGroup]` of all processes, for callbacks; ``left_out``: its problems whose
            prompts are too long.
        """
        return self._evaluation_step(batch, "test")

    def predict_step(self, batch: list[Problem], batch_idx: int) -> dict[str, Any]:
        """As `test_step`."""
        return self._evaluation_step(batch, "predict")

    def on_validation_epoch_end(self) -> None:
        """Logs what was measured.

        Raises:
            ValueError: If the prompts of all problems are too long.
        """
        self._log_evaluation("val")
        self.evaluated = []

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def teardown(self, stage: str) -> None:
        self.grader.close()

    @property
    def grader(self) -> Grader:
        """Decides which solutions are right."""
        return self.scorer.grader

    @property
    def reward_functions(self) -> list[RewardFunction]:
        """Extra rewards of solution rollouts; `scorer` has them by name."""
        return list(self.scorer.functions.values())

    @property
    def reward_weights(self) -> list[float]:
        """One factor a reward function."""
        return self.scorer.weights

    # -- what a subclass extends -------------------------------------------------------------------------------------

    def evaluation_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in validation, test and predict, by kind."""
        return {"solution": self.evaluation.num_generations}

    @property
    def evaluation_sampling(self) -> SamplingSettings:
        """How tokens are drawn in validation, test and predict."""
        e = self.evaluation
        return SamplingSettings(temperature=e.temperature, top_p=e.top_p, top_k=e.top_k)

    def messages(self, kind: Kind, group: RolloutGroup) -> list[dict[str, str]]:
        """The chat that a rollout of this kind starts from."""
        if kind != "solution":
            raise ValueError(f"this module makes solution rollouts only; got kind {kind!r}")
        problem = group.problem
        return solution_messages(self.prompts, problem.problem, group.hint, problem.answer_type)

    def completion_limit(self, kind: Kind) -> int:
        """Most tokens of a completion of this kind."""
        return self.max_completion_length

    def score(self, groups: Sequence[RolloutGroup]) -> None:
        """Grades the solutions and sets their rewards, in place; where nobody knows the answer they are ungraded."""
        total = sum(len(g.solutions) for g in groups if g.problem.answer)
        with self._timed("grade"):
            self.scorer.grade(groups, self._progress("grade", total))
        self.scorer.reward(groups)

    def evaluation_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What validation and test log of their rollouts."""
        rates = torch.tensor([g.pass_rate for g in groups if g.pass_rate is not None])
        low, high = rate_interval(rates)
        metrics = {"pass@1": rates.mean().item(), "pass@1_low": low, "pass@1_high": high}
        for k in self.evaluation.pass_at:
            values = [pass_at_k(len(g.correct), sum(g.correct), k) for g in groups if g.solutions]
            metrics[f"pass@{k}"] = sum(values) / len(values) if values else float("nan")
        return metrics | self._vote_metrics(groups) | summary.solution_metrics(groups, self.scorer.parts)

    def _vote_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """How often answers are right that solutions agree on.

        Programs have no vote, and numbers within a tolerance none that does not look at the right one: who is near whom?
        """
        counts = self.evaluation_counts()
        names = ["maj"] * (counts["solution"] > 1)
        names += ["maj_predicted"] * bool(names and counts.get("meta"))
        votes: dict[str, list[float]] = {name: [] for name in names}
        for group in (g for g in groups if names and g.solutions and g.problem.answer_type in ("math", "choice")):
            boxes = [ballot(group.problem, r.text) for r in group.solutions]
            rates = [r.prediction.rate for r in group.metas if r.prediction and r.prediction.rate is not None]
            votes["maj"].append(majority_vote(boxes, group.correct))
            if "maj_predicted" in votes:
                votes["maj_predicted"].append(predicted_vote(boxes, group.correct, rates))
        return {f"{n}@{counts['solution']}": fmean(v) if v else float("nan") for n, v in votes.items()}

    # -- rollouts ----------------------------------------------------------------------------------------------------

    def start(self, problems: Sequence[Problem], counts: dict[Kind, int]) -> list[RolloutGroup]:
        """Makes the groups of problems, still without rollouts; problems with an over-long prompt are left out."""
        kinds = [kind for kind, count in counts.items() if count]
        return make_groups(problems, kinds, prompt_ids=self.prompt_ids, max_prompt_length=self.max_prompt_length)

    def generate(
        self, groups: Sequence[RolloutGroup], counts: dict[Kind, int], sampling: SamplingSettings, keys: Sequence[str]
    ) -> None:
        """Draws rollouts of groups, all kinds in one call of the sampler; in place.

        Each process draws its part of them, and all get all: a collective.

        Args:
            groups: What to draw rollouts for, the same on each process.
            counts: Rollouts a group, by kind.
            sampling: How tokens are drawn.
            keys: One a group; seeds are functions of them and of the module's seed (`plan_rollouts`).
        """
        plan = plan_rollouts(
            groups,
            counts,
            prompt_ids=self.prompt_ids,
            limit=self.completion_limit,
            keys=[f"{self._run_seed()}/{key}" for key in keys],
            logprobs=self.trainer.training,  # of use to an update alone
        )
        expected = [
            min(request.max_tokens, self._expected.get(kind, request.max_tokens))
            for request, (_, kind) in zip(plan.requests, plan.owners, strict=True)
        ]
        requests = plan.requests[self.processes.part(expected)]
        progress = self._progress("generate", len(requests))
        with self._timed("generate"):
            completions = self.sampler.generate(requests, self.stops.with_texts(sampling), progress)
        ids = [self.stops.without_token(c) for c in completions]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True) if ids else []  # it makes [""] of []
        texts = [before_stop(text, self.stops.texts) for text in texts]
        with self._timed("exchange"):
            parts = self.processes.gather((completions, texts))
        self._generated.append([sum(len(c.token_ids) for c in part) for part, _ in parts])
        collect_rollouts(plan, [c for part, _ in parts for c in part], [text for _, part in parts for text in part])

    def prompt_ids(self, kind: Kind, group: RolloutGroup) -> list[int]:
        """Token ids of a prompt, ready for the completion to follow."""
        text = self.tokenizer.apply_chat_template(
            self.messages(kind, group), add_generation_prompt=True, tokenize=False, **self.chat_template_kwargs
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        check_prompt(self.model_name, self._vocabulary, self.tokenizer, ids)
        return ids

    def _score_parts(self, groups: Sequence[RolloutGroup]) -> None:
        """Scores groups, each process its part of them; in place, and a collective."""
        part = self.processes.part([sum(r.length for r in g.rollouts) for g in groups])
        failure: Exception | None = None
        try:
            self.score(groups[part])
        except Exception as error:
            if self.processes.size == 1:
                raise
            failure = error
        self._end_together(failure)
        outcomes = [
            (r.correct, r.ungraded, r.prediction, r.rewards, r.reward) for g in groups[part] for r in g.rollouts
        ]
        with self._timed("exchange"):
            outcomes = self.processes.concatenate(outcomes)
        for rollout, outcome in zip((r for g in groups for r in g.rollouts), outcomes, strict=True):
            rollout.correct, rollout.ungraded, rollout.prediction, rollout.rewards, rollout.reward = outcome

    def _end_together(self, failure: Exception | None) -> None:
        """Ends all processes with the error of the first that has one, so that none waits for it; a collective."""
        failures = self.processes.gather(None if failure is None else f"{type(failure).__name__}: {failure}")
        for rank, text in enumerate(failures):
            if text is not None:
                raise ValueError(
                    f"process {rank} of {self.processes.size} could not score its rollouts: {text}"
                ) from failure

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _begin_evaluation(self, batches: list[int | float], loaders: Any) -> None:
        """Gets ready; `batches` are those of this process, of each loader."""
        for loader in CombinedLoader(loaders, "sequential").flattened:
            if hasattr(loader, "rewind"):  # `limit_val_batches` and the sanity check end early
                loader.rewind()
        counts = self.processes.gather(list(batches))
        if any(count != counts[0] for count in counts):  # some would wait for ever for the others to come along
            raise ValueError(
                f"processes have different numbers of batches, {counts}; expected equal ones: use a datamodule of this "
                "package, or a loader that deals problems out evenly"
            )
        self._start()
        self.evaluated, self._overlong = [], 0

    def _evaluation_step(self, batch: list[Problem], stage: Stage) -> dict[str, Any]:
        self._seconds = {}
        with self.processes.together():
            problems = merge_batches(self.processes.gather(batch))
            groups = self.start(problems, self.evaluation_counts())
            if stage == "test":
                self._restore(groups)
            new = [g for g in groups if not g.rollouts]
            self.generate(new, self.evaluation_counts(), self.evaluation_sampling, keys_by_problem(new, stage))
            self._score_parts(new)
        excluded = left_out(problems, groups)
        self._overlong += len(excluded)
        if stage != "predict":
            for rollout in (r for g in new for r in g.rollouts):  # there may be very many in the end
                rollout.completion.token_ids = array("I", rollout.completion.token_ids)
            self.evaluated += groups
        return {"groups": groups, "left_out": excluded}

    def _restore(self, groups: Sequence[RolloutGroup]) -> None:
        """Fills groups that a callback has the rollouts of; of several callbacks the first that has any."""
        stores = [c for c in getattr(self.trainer, "callbacks", []) if issubclass(type(c), RolloutStore)]
        for store in stores:
            restored = self.processes.gather([store.restore(g) for g in groups])[0]
            for group, rollouts in zip(groups, restored, strict=True):
                if group.rollouts:
                    continue
                prompts = {kind: self.prompt_ids(kind, group) for kind in {r.kind for r in rollouts}}
                for rollout in rollouts:
                    rollout.prompt_ids = prompts[rollout.kind]
                    (group.solutions if rollout.kind == "solution" else group.metas).append(rollout)

    def _log_evaluation(self, prefix: str) -> None:
        self.sampler.sleep()
        if (
            self._overlong and not self.evaluated and not self.trainer.sanity_checking
        ):  # which looks at the first ones alone
            raise ValueError(
                f"none of the {self._overlong} problems has a prompt of at most {self.max_prompt_length} tokens, so that "
                f"nothing can be measured under {prefix}/; expected some. Raise max_prompt_length, or shorten the prompts"
            )
        metrics = self.evaluation_metrics(self.evaluated) | {"prompts/overlong": float(self._overlong)}
        self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items()})
