"""GRPO as a LightningModule: problems in, one or more optimiser steps out, with the sampler in the same process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from masa_lightning.checks import check_number
from masa_lightning.distributed import cut, imbalance
from masa_lightning.functional.advantages import group_advantages
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA, check_same
from masa_lightning.models.packing import pack
from masa_lightning.modules.defaults import default_lengths, default_sampler, fitting_prompts
from masa_lightning.modules.evaluation import EvaluationLightningModule
from masa_lightning.modules.hyperparameters import class_path
from masa_lightning.modules.provenance import fingerprint, provenance
from masa_lightning.modules.resume import Resumption
from masa_lightning.protocols import Grader, RewardFunction, Sampler
from masa_lightning.rollouts import summary
from masa_lightning.rollouts.plan import keys_by_place, merge_batches
from masa_lightning.rollouts.refill import ProblemReserve, teaches, training_problems
from masa_lightning.rollouts.unfinished import UnfinishedWarning
from masa_lightning.settings import Algorithm, Evaluation, SamplingSettings
from masa_lightning.types import Experience, Kind, Problem, Rollout, RolloutGroup
from masa_lightning.update.experience import micro_batches, mini_batches, token_costs
from masa_lightning.update.learner import are_finite
from masa_lightning.update.policy_update import PolicyUpdate
from masa_lightning.update.summary import compact, merge_processes, update_metrics


class GRPOLightningModule(EvaluationLightningModule):
    """Trains a causal language model with group-relative policy optimisation on problems with known answers.

    Batches are `list[Problem]`. Each training step draws `num_generations` solutions a problem from the sampler, grades
    them, and takes ``num_iterations * num_mini_batches`` optimiser steps (manual optimisation: gradient clipping and
    accumulation are settings of this module, not of the Trainer). Lightning counts training steps: ``max_steps``,
    ``every_n_train_steps``, `global_step` and the axis of logs are training steps, however many optimiser steps each takes.

    With several processes the batches of all of them are one batch, of which each draws, grades and trains on its part
    (`distributed`); settings such as `num_mini_batches` are of that batch.

    Args:
        model: Hugging Face folder or hub name; "tiny" is the embedded model.
        sampler: Draws completions; by default `VLLMSampler`, or `TransformersSampler` where vLLM is not installed.
        grader: Decides which solutions are right; `AnswerGrader` by default.
        reward_functions: Extra rewards of solution rollouts, added to their correctness (0 or 1).
        reward_weights: One factor a reward function; 1 each by default.
        prompts: Instructions around the problem. For the embedded model those that are left at their defaults are its own.
        chat_template: Replaces the tokenizer's: Jinja text or the path of a file.
        chat_template_kwargs: Extra variables of the chat template, such as enable_thinking.
        num_generations: Solution rollouts a problem, >= 2: they are compared (G).
        max_prompt_length: Longest prompt, tokens; problems above it are left out, counted and named. By default 512, and
            64 for the embedded model.
        max_completion_length: Most tokens of a completion, end-of-sequence included. By default 512, and 192 for the
            embedded model.
        sampling: How training rollouts are drawn, and what ends any completion.
        evaluation: How validation, test and predict draw theirs.
        algorithm: Surrogate, aggregation, advantages, KL; by default the paper's GRPO.
        num_iterations: Passes over a batch, >= 1.
        num_mini_batches: Optimiser steps a pass, >= 1.
        max_tokens_per_micro_batch: Memory knob: tokens of one forward and backward. Does not change the gradient.
        learning_rate: Of AdamW, >= 0.
        weight_decay: Of AdamW, >= 0; norms and biases have none.
        warmup_steps: Optimiser steps over which the learning rate rises linearly; constant afterwards.
        max_grad_norm: Gradients are clipped to this norm, > 0; None is off.
        max_skipped_steps: Optimiser steps whose gradient is not finite are skipped; with more than that many in a row, >= 0,
            the run ends.
        dtype: Of the weights, in trainer and sampler; float16 for evaluation alone.
        gradient_checkpointing: Recompute activations in the backward pass.
        lora: Adapters to train in place of all weights; checkpoints then hold nothing else, and the reference of the KL
            term is the model without them.
        max_logp_difference: Stops the run where the log-probabilities of sampler and policy differ by more, nats a token
            in the mean, > 0. None is 0.001 in float32 on CPU, 0.01 in float32 elsewhere, and 0.15 where weights, sampler
            or Trainer round to 16 bits; inf compares nothing.
        seed: Of the rollouts and of the adapters' start; by default that of `seed_everything`, else 0.
    """

    def __init__(
        self,
        model: str,
        sampler: Sampler | None = None,
        grader: Grader | None = None,
        reward_functions: list[RewardFunction] | None = None,
        reward_weights: list[float] | None = None,
        prompts: PromptTemplates = PromptTemplates(),
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        num_generations: int = 8,
        max_prompt_length: int | None = None,
        max_completion_length: int | None = None,
        sampling: SamplingSettings = SamplingSettings(),
        evaluation: Evaluation = Evaluation(),
        algorithm: Algorithm | None = None,  # a default made here would override what belongs to a `loss_type`
        num_iterations: int = 1,
        num_mini_batches: int = 1,
        max_tokens_per_micro_batch: int = 16384,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        max_grad_norm: float | None = 1.0,
        max_skipped_steps: int = 3,
        dtype: loading.DType = "float32",
        gradient_checkpointing: bool = False,
        lora: LoRA | None = None,
        max_logp_difference: float | None = None,
        seed: int | None = None,
    ) -> None:
        algorithm = Algorithm() if algorithm is None else algorithm
        max_prompt_length, max_completion_length = default_lengths(model, max_prompt_length, max_completion_length)
        super().__init__(
            model=model,
            sampler=default_sampler() if sampler is None else sampler,
            grader=grader,
            reward_functions=reward_functions,
            reward_weights=reward_weights,
            overlong_buffer=algorithm.overlong_buffer,
            prompts=fitting_prompts(model, prompts),
            chat_template=chat_template,
            chat_template_kwargs=chat_template_kwargs,
            sampling=sampling,
            max_prompt_length=max_prompt_length,
            max_completion_length=max_completion_length,
            evaluation=evaluation,
            needs_reference=algorithm.kl_coef > 0,
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
        check_number("num_generations", num_generations, ">= 1", whole=True)
        if num_generations == 1:
            raise ValueError(
                "num_generations is 1; expected >= 2: a solution's advantage is what it earns more than the others of its "
                "problem"
            )
        check_number("num_iterations", num_iterations, ">= 1", whole=True)
        check_number("num_mini_batches", num_mini_batches, ">= 1", whole=True)
        check_number("max_tokens_per_micro_batch", max_tokens_per_micro_batch, ">= 1", whole=True)
        if algorithm.overlong_buffer > max_completion_length:
            raise ValueError(
                f"algorithm.overlong_buffer is {algorithm.overlong_buffer}; expected at most max_completion_length = "
                f"{max_completion_length}"
            )
        if sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0, so all rollouts of a problem would be equal; expected > 0")
        self.num_generations = num_generations
        self.algorithm = algorithm
        self.num_iterations = num_iterations
        self.num_mini_batches = num_mini_batches
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.kind_weights = (1.0, 1.0)

        self.rollout_steps = 0
        """Training steps so far; resumed from checkpoints."""
        self.num_tokens = 0
        """Prompt and completion tokens of training rollouts so far."""
        self.ledger: dict[str, float] = {}
        """Sums of the ``tokens/`` figures over all training steps so far."""
        self._resumption = Resumption()
        self._unfinished = UnfinishedWarning()
        self._reserve: ProblemReserve | None = None
        self._reserve_taken = 0
        self._metrics: dict[str, float] = {}
        self.first_validation: dict[str, Any] | None = None
        """What a validation before the first step logged, of which problems; None if there was none."""
        self.last_validation: dict[str, Any] | None = None
        """The same of the last one; after how many training steps is ``rollout_steps``."""
        self._trained_tokens: list[list[int]] = []  # computed by each process, one list for each optimiser step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an exact resume needs beyond weights, optimisers and loops, and what an export needs."""
        assert self.policy is not None
        if not are_finite(self.policy.parameters()):
            raise RuntimeError(
                "the weights are not finite, so no checkpoint of them is written; expected finite ones. Go on from the last "
                "checkpoint: --ckpt_path last"
            )
        checkpoint["masa"] = {
            "class_path": class_path(type(self)),
            "model": self.model_name,
            "dtype": str(self.policy.model.dtype).removeprefix("torch."),
            "lora": None if self.lora is None else asdict(self.lora),
            # Its text, never the name of a file: an export reads none for a checkpoint.
            "chat_template": None if self.chat_template is None else self.tokenizer.chat_template,
            "stop_token_ids": [*self.stops.token_ids],
            "stop": [*self.stops.texts],
            "rollout_steps": self.rollout_steps,
            "num_tokens": self.num_tokens,
            "ledger": dict(self.ledger),
            "expected_lengths": dict(self._expected),
            "schedules": self._schedules.state_dict(),
            "skipped_in_a_row": self._learner.skipped_in_a_row,
            "reserve_taken": self._reserve_taken if self._reserve is None else self._reserve.taken,
            "metrics": self._metrics,
            "run": provenance(self) | {"validation": self.last_validation, "first_validation": self.first_validation},
        } | self._resumption.state_dict()
        for logger in self.trainer.loggers:
            logger.save()  # what was logged before the checkpoint must outlive a kill after it

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what `on_save_checkpoint` added.

        Raises:
            ValueError: If the checkpoint is of other LoRA settings, of another module, or cannot be gone on from.
        """
        if "masa" not in checkpoint:
            raise ValueError(
                f"checkpoint {str(self.trainer.ckpt_path)!r} has nothing of a {type(self).__name__}; expected one that a "
                "GRPO or MASA Lightning module wrote. To start from another model's weights give its folder as `model`"
            )
        state = checkpoint["masa"]
        check_same(state["lora"], self.lora)
        self.rollout_steps, self.num_tokens = state["rollout_steps"], state["num_tokens"]
        self._metrics, self.ledger = state["metrics"], dict(state["ledger"])
        if "schedules" in state:  # else an earlier version's, which can be tested and not gone on from
            self._schedules.load_state_dict(state["schedules"])
            self._learner.skipped_in_a_row = state["skipped_in_a_row"]
        self._reserve_taken = state["reserve_taken"]
        self._expected = dict(state["expected_lengths"])
        self.last_validation = state.get("run", {}).get("validation")
        self.first_validation = state.get("run", {}).get("first_validation")
        self._resumption.load(self, checkpoint)

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def on_validation_epoch_end(self) -> None:
        record = {"problems": len(self.evaluated), "measured": fingerprint(self, self.evaluated)}
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            if self.trainer.state.fn == TrainerFn.FITTING:
                self.log_dict(self._place())
            else:
                self._log_step_of_checkpoint()
            metrics = {n: value.item() for n, value in self.trainer.callback_metrics.items() if n.startswith("val/")}
            self.last_validation = record | {"rollout_steps": self.rollout_steps, "metrics": metrics}
            if not self.rollout_steps:
                self.first_validation = self.last_validation

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._log_step_of_checkpoint()

    def on_fit_start(self) -> None:
        super().on_fit_start()
        self._resumption.prepare(self.trainer)

    def on_train_start(self) -> None:
        self._start()
        self._resumption.begin(self.trainer, self._metrics)

    def training_step(self, batch: list[Problem], batch_idx: int) -> dict[str, Any]:
        """Rolls out, scores and updates.

        Returns:
            ``groups``: the step's `list[RolloutGroup]` of all processes, for callbacks.
        """
        with self.processes.together():
            self._step_monitored_schedules(self.current_epoch)
            groups = self._train(batch)
        if self.trainer.is_last_batch:
            self._schedules.after_epoch(self.current_epoch + 1)
        return {"groups": groups}

    def on_train_epoch_end(self) -> None:
        if self.trainer.is_last_batch:
            self._step_monitored_schedules(self.current_epoch + 1)

    def log_step(self, metrics: dict[str, float]) -> None:
        """Logs figures of a training step; a run that is resumed right after its checkpoint logs them again."""
        place = self._place()
        self._metrics |= {n: torch.tensor(value, dtype=torch.float32).item() for n, value in metrics.items()}
        self._metrics["epoch"] = place["epoch"]
        self.log_dict(metrics | place, batch_size=1)

    def _place(self) -> dict[str, float]:
        """Logged with other figures these two say where, as Lightning documents: after how many training steps."""
        return {"step": float(self._resumption.steps), "epoch": float(self.current_epoch)}

    def _log_step_of_checkpoint(self) -> None:
        """Outside of training Lightning's own count is 0."""
        if self.rollout_steps:
            self.log("step", float(self.rollout_steps))

    def _step_monitored_schedules(self, epochs: int) -> None:
        known = {**(self.last_validation or {}).get("metrics", {}), **self._metrics, **self.trainer.callback_metrics}
        self._schedules.monitor(known, training_steps=self.rollout_steps, epochs=epochs)

    # -- what a subclass extends -------------------------------------------------------------------------------------

    def training_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in training, by kind."""
        return {"solution": self.num_generations}

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What a training step logs of its rollouts."""
        return summary.solution_metrics(groups, self.scorer.parts)

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

    def _train(self, batch: list[Problem]) -> list[RolloutGroup]:
        """The whole step, also what is logged of it."""
        self._seconds, self._generated, self._trained_tokens = {}, [], []
        with self._timed("step"):
            with self._timed("sync"):
                self.sampler.wake()
                self.sampler.sync_weights()
                if self._training_steps == 1:
                    self._compare("after the first update")
            groups, draws = self._draw_step(merge_batches(self.processes.gather(batch)))
            self.sampler.sleep()
            self._assign_advantages(groups)
            update_metrics = self._update(groups)
        self.rollout_steps += 1
        self._training_steps += 1
        self._resumption.steps, self._resumption.updating = self.trainer.global_step, False
        self.num_tokens += sum(len(r.prompt_ids) + r.length for g in groups for r in g.rollouts)
        metrics = self.training_metrics(groups) | update_metrics | draws
        metrics["num_tokens"] = float(self.num_tokens)
        metrics["tokens/trained"] = float(self.num_iterations * sum(r.length for g in groups for r in self._trained(g)))
        for name in [name for name in metrics if name.startswith("tokens/")]:
            self.ledger[name] = self.ledger.get(name, 0.0) + metrics[name]
            metrics[name.replace("tokens/", "tokens_total/")] = self.ledger[name]
        timings = self.processes.gather(self._seconds)
        seconds = {name: max(each.get(name, 0.0) for each in timings) for name in self._seconds}
        metrics["tokens_per_second"] = sum(map(sum, self._generated)) / max(seconds["generate"], 1e-9)
        metrics |= {f"timing_s/{name}": value for name, value in seconds.items()}
        if self.processes.size > 1:
            metrics["balance/generated_tokens"] = imbalance(self._generated)
            metrics["balance/trained_tokens"] = imbalance(self._trained_tokens)
        self._expect(groups)
        self._unfinished.look(groups, budget=self.max_completion_length, stops=self.stops.described(self.tokenizer))
        self._metrics = {}
        self.log_step(metrics)
        return groups

    def _draw_step(self, batch: Sequence[Problem]) -> tuple[list[RolloutGroup], dict[str, float]]:
        """Draws and scores the groups of a training step; dynamic sampling refills the places that teach nothing."""
        key, counts = f"fit/{self.rollout_steps}", self.training_counts()
        groups = self.start(batch, counts)
        if not groups:
            raise ValueError(
                f"none of the {len(batch)} problems of the batch has a prompt of at most {self.max_prompt_length} tokens; "
                "raise max_prompt_length"
            )
        self.draw(groups, key)
        overlong, places, refilled = len(batch) - len(groups), len(groups), 0
        reserve = self._problem_reserve() if self.algorithm.dynamic_sampling else None
        for refill in range(self.algorithm.max_refills if reserve else 0):
            missing = places - sum(map(teaches, groups))
            problems = reserve.draw(missing, without={g.problem.id for g in groups}) if reserve and missing else []
            if not problems:
                break
            more = self.draw(self.start(problems, counts), f"{key}/refill/{refill}")
            groups, overlong, refilled = groups + more, overlong + len(problems) - len(more), refilled + len(more)
        return groups, {"prompts/overlong": float(overlong), "prompts/refilled": float(refilled)}

    def _problem_reserve(self) -> ProblemReserve:
        if self._reserve is None:
            problems = training_problems(self.trainer.train_dataloader)
            self._reserve = ProblemReserve(problems, seed=self._run_seed())
            self._reserve.taken = self._reserve_taken
        return self._reserve

    def draw(self, groups: list[RolloutGroup], key: str) -> list[RolloutGroup]:
        """Draws and scores the rollouts of groups in training; in place.

        Args:
            groups: Without rollouts.
            key: Seeds are functions of it and of a group's place.
        """
        self.generate(groups, self.training_counts(), self.sampling, keys_by_place(groups, key))
        self._score_parts(groups)
        return groups

    def _assign_advantages(self, groups: Sequence[RolloutGroup]) -> None:
        for kind in ("solution", "meta"):
            members = [
                (i, r) for i, g in enumerate(groups) for r in g.rollouts if r.kind == kind and r.reward is not None
            ]
            advantages = group_advantages(
                torch.tensor([r.reward for _, r in members], dtype=torch.float64),
                torch.tensor([i for i, _ in members], dtype=torch.long),
                scale=self.algorithm.scale_rewards,
                baseline=self.algorithm.baseline,
            )
            for (_, rollout), advantage in zip(members, advantages.tolist(), strict=True):
                rollout.advantage = advantage

    def _update(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        assert self.policy is not None
        update = PolicyUpdate(
            policy=self.policy,
            reference=self._reference[0] if self._reference else None,
            algorithm=self.algorithm,
            kind_weights=self.kind_weights,
            temperature=self.sampling.temperature,
            norm_length=(self.completion_limit("solution"), self.completion_limit("meta")),
            idle=pack([([0], [0])]).to(self.device),
            extra=None if type(self).extra_loss is GRPOLightningModule.extra_loss else self.extra_loss,
        )
        rank, size = self.processes.rank, self.processes.size
        steps = []
        for part in mini_batches([g for g in groups if self._trained(g)], self.num_mini_batches):
            rollouts = [r for g in part for r in self._trained(g)]
            chosen = update.select(rollouts)
            batches = micro_batches(
                chosen,
                self.max_tokens_per_micro_batch,
                self.device,
                share_prompts=self.policy.packs,
                rank=rank,
                processes=size,
            )
            steps.append((batches, update.denominators(rollouts) / size))
            costs = token_costs(chosen, share_prompts=self.policy.packs)
            self._trained_tokens.append([sum(costs[part]) for part in cut(costs, size)])
        with self._timed("logprobs"):
            for i, (batches, _) in enumerate(steps):
                for batch in batches:  # the first step is taken with the policy as it is
                    update.annotate(batch, old=i > 0 or self.num_iterations > 1)
        learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._resumption.updating = True
        with self._timed("update"):
            stats, norms = update.run(
                steps * self.num_iterations,
                backward=self._backward,
                step=self._optimizer_step,
                first=self._compare_first,
                progress=self._progress("update", self.num_iterations * sum(len(batches) for batches, _ in steps)),
            )
        with self._timed("exchange"):
            stats = merge_processes(self.processes.gather(compact(stats)))
        return update_metrics(
            stats,
            norms,
            steps=len(norms),
            learning_rate=learning_rate,
            with_kl=bool(self._reference),
            with_extra=update.extra is not None,
        )

    def _compare_first(self, differences: Tensor) -> None:
        """Compares sampler and policy on the first micro-batch of a step; a collective."""
        sampling = self.sampling
        if self._guard is not None and (sampling.top_p, sampling.top_k, sampling.min_p) == (1, 0, 0):
            when = f"in training step {self.rollout_steps + 1}"
            self._guard.check(differences, when, sampling.temperature)

    def _expect(self, groups: Sequence[RolloutGroup]) -> None:
        """Takes the mean length of a kind's completions for what the next step's will have."""
        for kind in self.training_counts():
            lengths = [r.length for g in groups for r in g.rollouts if r.kind == kind]
            if lengths:
                self._expected[kind] = fmean(lengths)

    def _trained(self, group: RolloutGroup) -> list[Rollout]:
        """The rollouts of a group that the update's loss is a mean over."""
        solutions = group.solutions
        if self.algorithm.dynamic_sampling and not teaches(group):
            solutions = []
        if self.algorithm.mask_truncated_completions:
            solutions = [r for r in solutions if r.completion.finish_reason != "length"]
        return [r for r in (*solutions, *group.metas) if r.reward is not None]
