"""GRPO as a LightningModule: problems in, one or more optimiser steps out, with the sampler in the same process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from masa_lightning.functional.advantages import group_advantages
from masa_lightning.functional.calibration import bootstrap_interval, pass_at_k
from masa_lightning.functional.prompts import PromptTemplates, solution_messages
from masa_lightning.models import loading
from masa_lightning.modules import summary
from masa_lightning.modules.base import PolicyLightningModule
from masa_lightning.modules.experience import micro_batches, mini_batches
from masa_lightning.modules.grader import MathGrader
from masa_lightning.modules.rollouts import collect_rollouts, plan_rollouts
from masa_lightning.modules.settings import Algorithm, Evaluation
from masa_lightning.modules.update import PolicyUpdate
from masa_lightning.types import (
    Grader,
    Kind,
    Problem,
    RewardFunction,
    RolloutGroup,
    Sampler,
    SamplingSettings,
)

Stage = Literal["fit", "validate", "test", "predict"]


class GRPOLightningModule(PolicyLightningModule):
    """Trains a causal language model with group-relative policy optimisation on problems with known answers.

    Batches are `list[Problem]`. Each training step draws `num_generations` solutions a problem from the sampler, grades
    them, and takes ``num_iterations * num_mini_batches`` optimiser steps (manual optimisation: gradient clipping and
    accumulation are settings of this module, not of the Trainer). `Trainer.max_steps` counts optimiser steps.

    Args:
        model: Hugging Face folder or hub name; "tiny" is the embedded model.
        sampler: Draws completions; `VLLMSampler`, or `TransformersSampler` where vLLM does not run.
        grader: Decides which solutions are right; `MathGrader` by default.
        reward_functions: Extra rewards of solution rollouts, added to their correctness (0 or 1).
        reward_weights: One factor a reward function; 1 each by default.
        prompts: Instructions around the problem.
        chat_template: Replaces the tokenizer's: Jinja text or the path of a file.
        chat_template_kwargs: Extra variables of the chat template, such as enable_thinking.
        num_generations: Solution rollouts a problem, >= 1 (G).
        max_prompt_length: Longest prompt, tokens; problems above it are left out, counted and named.
        max_completion_length: Most tokens of a completion, end-of-sequence included.
        sampling: How training rollouts are drawn.
        evaluation: How validation, test and predict draw theirs.
        algorithm: Surrogate, aggregation, advantages, KL.
        num_iterations: Passes over a batch, >= 1.
        num_mini_batches: Optimiser steps a pass, >= 1.
        max_tokens_per_micro_batch: Memory knob: rows times longest row of one forward and backward. Does not change the
            gradient.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Optimiser steps over which the learning rate rises linearly; constant afterwards.
        max_grad_norm: Gradients are clipped to this norm; None is off.
        dtype: Of the weights, in trainer and sampler.
        gradient_checkpointing: Recompute activations in the backward pass.
        seed: Of the rollouts; by default that of `seed_everything`, else 0.
    """

    def __init__(
        self,
        model: str,
        sampler: Sampler,
        grader: Grader | None = None,
        reward_functions: list[RewardFunction] | None = None,
        reward_weights: list[float] | None = None,
        prompts: PromptTemplates = PromptTemplates(),
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        num_generations: int = 8,
        max_prompt_length: int = 512,
        max_completion_length: int = 512,
        sampling: SamplingSettings = SamplingSettings(),
        evaluation: Evaluation = Evaluation(),
        algorithm: Algorithm = Algorithm(),
        num_iterations: int = 1,
        num_mini_batches: int = 1,
        max_tokens_per_micro_batch: int = 16384,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        max_grad_norm: float | None = 1.0,
        dtype: loading.DType = "float32",
        gradient_checkpointing: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            model=model,
            sampler=sampler,
            chat_template=chat_template,
            max_prompt_length=max_prompt_length,
            max_completion_length=max_completion_length,
            needs_reference=algorithm.kl_coef > 0,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup_steps=warmup_steps,
            max_grad_norm=max_grad_norm,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
        )
        _at_least_one(
            num_generations=num_generations,
            max_prompt_length=max_prompt_length,
            max_completion_length=max_completion_length,
            num_iterations=num_iterations,
            num_mini_batches=num_mini_batches,
            max_tokens_per_micro_batch=max_tokens_per_micro_batch,
        )
        if sampling.temperature == 0:
            raise ValueError("sampling.temperature is 0, so all rollouts of a problem would be equal; expected > 0")
        self.reward_functions = list(reward_functions or [])
        self.reward_weights = list(reward_weights or [1.0] * len(self.reward_functions))
        if len(self.reward_weights) != len(self.reward_functions):
            raise ValueError(
                f"{len(self.reward_weights)} reward_weights were given for {len(self.reward_functions)} "
                "reward_functions; expected one each"
            )
        self.grader: Grader = grader if grader is not None else MathGrader()
        self.prompts = prompts
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.num_generations = num_generations
        self.sampling = sampling
        self.evaluation = evaluation
        self.algorithm = algorithm
        self.num_iterations = num_iterations
        self.num_mini_batches = num_mini_batches
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.seed = seed
        self.kind_weights = (1.0, 1.0)

        self.rollout_steps = 0
        """Training steps so far; resumed from checkpoints."""
        self.num_tokens = 0
        """Prompt and completion tokens of training rollouts so far, on this process."""
        self._rng_state: Tensor | None = None
        self._evaluated: list[RolloutGroup] = []
        self._metrics: dict[str, float] = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what an exact resume needs beyond weights, optimisers and loops."""
        checkpoint["masa"] = {
            "model": self.model_name,
            "chat_template": self.chat_template,
            "rollout_steps": self.rollout_steps,
            "num_tokens": self.num_tokens,
            "rng_state": torch.get_rng_state(),
            "metrics": self._metrics | {"epoch": float(self.current_epoch)},
        }
        for logger in self.trainer.loggers:
            logger.save()  # what was logged before the checkpoint must outlive a kill after it

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores what `on_save_checkpoint` added."""
        state = checkpoint["masa"]
        self.rollout_steps, self.num_tokens = state["rollout_steps"], state["num_tokens"]
        self._rng_state, self._metrics = state["rng_state"], state["metrics"]

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        self._start()
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state)
            self._rng_state = None
            if len(self._metrics) > 1 and self.rollout_steps % getattr(self.trainer, "log_every_n_steps", 1) == 0:
                # Lightning logs a step after its checkpoint is written; a kill in between would lose it.
                for logger in self.trainer.loggers:
                    logger.log_metrics(self._metrics, step=self.rollout_steps - 1)

    def training_step(self, batch: list[Problem], batch_idx: int) -> dict[str, Any]:
        """Rolls out, scores and updates.

        Returns:
            ``groups``: the step's `list[RolloutGroup]`, for callbacks.
        """
        self._seconds = {}
        with self._timed("step"):
            with self._timed("sync"):
                self.sampler.wake()
                self.sampler.sync_weights()
            groups = self.rollout(batch, self.training_counts(), self.sampling, f"fit/{self.rollout_steps}")
            self.sampler.sleep()
            self.score(groups)
            self._assign_advantages(groups)
            update_metrics = self._update(groups)
        self.rollout_steps += 1
        self.num_tokens += sum(len(r.prompt_ids) + r.length for g in groups for r in g.rollouts)
        metrics = self.training_metrics(groups) | update_metrics
        metrics["prompts/overlong"] = float(len(batch) - len(groups))
        metrics["num_tokens"] = float(self.num_tokens)
        generated = sum(r.length for g in groups for r in g.rollouts)
        metrics["tokens_per_second"] = generated / max(self._seconds.get("generate", 0.0), 1e-9)
        metrics |= {f"timing_s/{name}": seconds for name, seconds in self._seconds.items()}
        self._metrics = {name: torch.tensor(value, dtype=torch.float32).item() for name, value in metrics.items()}
        self.log_dict(metrics, batch_size=len(batch), sync_dist=True)
        return {"groups": groups}

    def on_validation_epoch_start(self) -> None:
        self._begin_evaluation()

    def on_test_epoch_start(self) -> None:
        self._begin_evaluation()

    def on_predict_epoch_start(self) -> None:
        self._begin_evaluation()

    def validation_step(self, batch: list[Problem], batch_idx: int) -> None:
        self._evaluation_step(batch, batch_idx, "validate")

    def test_step(self, batch: list[Problem], batch_idx: int) -> None:
        self._evaluation_step(batch, batch_idx, "test")

    def predict_step(self, batch: list[Problem], batch_idx: int) -> list[RolloutGroup]:
        """Draws and scores rollouts with the settings of `evaluation`."""
        return self._evaluation_step(batch, batch_idx, "predict")

    def on_validation_epoch_end(self) -> None:
        self._log_evaluation("val")

    def on_test_epoch_end(self) -> None:
        self._log_evaluation("test")

    def teardown(self, stage: str) -> None:
        self.grader.close()

    # -- what a subclass extends -------------------------------------------------------------------------------------

    def training_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in training, by kind."""
        return {"solution": self.num_generations}

    def evaluation_counts(self) -> dict[Kind, int]:
        """Rollouts a problem in validation, test and predict, by kind."""
        return {"solution": self.evaluation.num_generations}

    def messages(self, kind: Kind, problem: Problem) -> list[dict[str, str]]:
        """The chat that a rollout of this kind starts from."""
        if kind != "solution":
            raise ValueError(f"GRPOLightningModule makes solution rollouts only; got kind {kind!r}")
        return solution_messages(self.prompts, problem.problem)

    def completion_limit(self, kind: Kind) -> int:
        """Most tokens of a completion of this kind."""
        return self.max_completion_length

    def score(self, groups: Sequence[RolloutGroup]) -> None:
        """Grades the solutions and sets their rewards, in place."""
        pairs = [(g.problem, r) for g in groups for r in g.solutions]
        with self._timed("grade"):
            verdicts = self.grader.grade(
                [p for p, _ in pairs], [r.text for _, r in pairs], self._progress("grade", len(pairs))
            )
        for (_, rollout), verdict in zip(pairs, verdicts, strict=True):
            rollout.correct, rollout.ungraded = verdict is True, verdict is None
            rollout.rewards["correct"] = float(rollout.correct)
        for group in groups:
            texts = [r.text for r in group.solutions]
            for function in self.reward_functions:
                for rollout, value in zip(group.solutions, function(group.problem, texts), strict=True):
                    rollout.rewards[summary.reward_name(function)] = float(value)
            for rollout in group.solutions:
                extra = zip(self.reward_functions, self.reward_weights, strict=True)
                rollout.reward = rollout.rewards["correct"] + sum(
                    weight * rollout.rewards[summary.reward_name(function)] for function, weight in extra
                )

    def training_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What a training step logs of its rollouts."""
        return summary.solution_metrics(groups)

    def evaluation_metrics(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """What validation and test log of their rollouts."""
        rates = torch.tensor([g.pass_rate for g in groups if g.pass_rate is not None])
        low, high = bootstrap_interval(rates) if len(rates) else (float("nan"), float("nan"))
        metrics = {"pass@1": rates.mean().item(), "pass@1_low": low, "pass@1_high": high}
        for k in self.evaluation.pass_at:
            values = [pass_at_k(len(g.correct), sum(g.correct), k) for g in groups if g.solutions]
            metrics[f"pass@{k}"] = sum(values) / len(values)
        return metrics | summary.solution_metrics(groups)

    # -- the walk of one batch ---------------------------------------------------------------------------------------

    def rollout(
        self, problems: Sequence[Problem], counts: dict[Kind, int], sampling: SamplingSettings, key: str
    ) -> list[RolloutGroup]:
        """Draws the rollouts of problems, all kinds in one call of the sampler.

        Args:
            problems: Those with an over-long prompt are left out.
            counts: Rollouts a problem, by kind.
            sampling: How tokens are drawn.
            key: Seeds are a function of it and of the module's seed; see `plan_rollouts`.
        """
        seed = self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))
        plan = plan_rollouts(
            problems,
            counts,
            prompt_ids=self.prompt_ids,
            limit=self.completion_limit,
            max_prompt_length=self.max_prompt_length,
            key=f"{seed}/{key}/{self.global_rank}",
        )
        progress = self._progress("generate", len(plan.requests))
        with self._timed("generate"):
            completions = self.sampler.generate(plan.requests, sampling, progress)
        texts = self.tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
        return collect_rollouts(plan, completions, texts)

    def prompt_ids(self, kind: Kind, problem: Problem) -> list[int]:
        """Token ids of a prompt, ready for the completion to follow."""
        text = self.tokenizer.apply_chat_template(
            self.messages(kind, problem), add_generation_prompt=True, tokenize=False, **self.chat_template_kwargs
        )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

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
            norm_length=self.max_completion_length,
        )
        steps = []
        for part in mini_batches(groups, self.num_mini_batches):
            rollouts = [r for g in part for r in g.rollouts if r.reward is not None]
            denominators = self._mean_over_processes(update.denominators(rollouts))
            batches = micro_batches(update.select(rollouts), self.max_tokens_per_micro_batch, self.device)
            steps.append((batches, denominators))
        with self._timed("logprobs"):
            for i, (batches, _) in enumerate(steps):
                for batch in batches:  # the first step is taken with the policy as it is
                    update.annotate(batch, old=i > 0 or self.num_iterations > 1)
        learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        with self._timed("update"):
            stats, norms = update.run(
                steps * self.num_iterations,
                backward=self.manual_backward,
                step=self._optimizer_step,
                progress=self._progress("update", self.num_iterations * sum(len(batches) for batches, _ in steps)),
            )
        return summary.update_metrics(stats, norms, steps=len(norms), learning_rate=learning_rate)

    # -- evaluation --------------------------------------------------------------------------------------------------

    def _begin_evaluation(self) -> None:
        self._start()
        self._evaluated = []
        self.sampler.wake()
        self.sampler.sync_weights()

    def _evaluation_step(self, batch: list[Problem], batch_idx: int, stage: Stage) -> list[RolloutGroup]:
        self._seconds = {}
        e = self.evaluation
        sampling = SamplingSettings(temperature=e.temperature, top_p=e.top_p, top_k=e.top_k)
        groups = self.rollout(batch, self.evaluation_counts(), sampling, f"{stage}/{batch_idx}")
        self.score(groups)
        if stage != "predict":
            self._evaluated += groups
        return groups

    def _log_evaluation(self, prefix: str) -> None:
        self.sampler.sleep()
        metrics = self.evaluation_metrics(self._evaluated)
        self.log_dict({f"{prefix}/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self._evaluated = []


def _at_least_one(**settings: int) -> None:
    for name, value in settings.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected >= 1")
