"""The optimiser steps of a module in its trainer: what a training step's groups do to the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from masa_lightning.models.packing import pack
from masa_lightning.modules.listeners import phase_progress
from masa_lightning.modules.schedules import Schedules
from masa_lightning.modules.steps import Uncounted, live_in_buckets
from masa_lightning.rollouts.value_tokens import ValueTokens
from masa_lightning.types import RolloutGroup
from masa_lightning.update.batch_update import BatchUpdate
from masa_lightning.update.learner import Learner
from masa_lightning.update.policy_update import PolicyUpdate, TokenLoss

if TYPE_CHECKING:
    from masa_lightning.modules.base import PolicyLightningModule
    from masa_lightning.modules.grpo import GRPOLightningModule
    from masa_lightning.modules.optimization import Optimization


class PolicyLearner:
    """Back-propagates, clips, steps the optimiser of a module and its schedules, in all processes together.

    Args:
        optimization: The module's.
        step_schedule: `LightningModule.lr_scheduler_step`.
    """

    def __init__(self, optimization: Optimization, step_schedule: Callable[[Any, Any], None]) -> None:
        self.optimization = optimization
        self.learner = Learner(
            max_grad_norm=optimization.max_grad_norm, max_skipped_steps=optimization.max_skipped_steps
        )
        self.schedules = Schedules(step_schedule)

    def begin(self, trainer: Trainer) -> None:
        """Reads the schedules that `configure_optimizers` returned; for ``on_fit_start``."""
        self.schedules.take(trainer.lr_scheduler_configs)
        self.learner.keeps_gradients = live_in_buckets(trainer.strategy)

    def state_dict(self) -> dict[str, Any]:
        """Its state, for a checkpoint."""
        return {"schedules": self.schedules.state_dict(), "skipped_in_a_row": self.learner.skipped_in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores it; a checkpoint of an earlier version has none, and can only be tested."""
        if "schedules" in state:
            self.schedules.load_state_dict(state["schedules"])
            self.learner.skipped_in_a_row = state["skipped_in_a_row"]

    def update(
        self,
        module: GRPOLightningModule,
        groups: Sequence[RolloutGroup],
        *,
        extra: TokenLoss | None,
        first: Callable[[Tensor], None],
    ) -> tuple[dict[str, float], list[list[int]]]:
        """Takes the optimiser steps of a training step; a collective.

        Args:
            module: Whose policy learns.
            groups: With advantages, the same on each process.
            extra: A further loss of each token; None without one.
            first: Told how sampler and policy differ on the first micro-batch, nats.

        Returns:
            What to log, and the tokens that each process trained on, one list for each optimiser step.
        """
        assert module.policy is not None
        loss = PolicyUpdate(
            policy=module.policy,
            reference=module.reference,
            algorithm=module.algorithm,
            kind_weights=module.kind_weights,
            temperature=module.sampling.temperature,
            norm_length=(module.completion_limits["solution"], module.completion_limits["meta"]),
            idle=pack([([0], [0])]).to(module.device),
            extra=extra,
        )
        update = BatchUpdate(
            loss=loss,
            num_iterations=self.optimization.num_iterations,
            num_mini_batches=self.optimization.num_mini_batches,
            max_tokens_per_micro_batch=self.optimization.max_tokens_per_micro_batch,
            share_prompts=module.policy.packs,
            device=module.device,
            processes=module.processes,
            progress=phase_progress(module.trainer),
            watch=module.watch,
            values=None if module.quantities is None else ValueTokens(module.quantities, module.parts.rollouter.texts),
            structured={kind: (s, module.completion_limits[kind]) for kind, s in module.session.structured.items()},
        )
        metrics = update.run(
            groups,
            backward=lambda loss, last: self.backward(module, loss, last),
            step=lambda last: self.step(module, last),
            first=first,
            learning_rate=module.trainer.optimizers[0].param_groups[0]["lr"],
        )
        return metrics, update.trained_tokens

    def backward(self, module: PolicyLightningModule, loss: Tensor, last: bool) -> None:
        """Back-propagates; under DDP gradients are averaged over processes at the last loss of an optimiser step alone."""
        wait = getattr(module.trainer.strategy, "block_backward_sync", nullcontext)
        with nullcontext() if last else wait():
            module.manual_backward(loss)

    def step(self, module: PolicyLightningModule, last: bool = True) -> float:
        """Takes an optimiser step, and steps the schedules. Returns the gradient's norm, NaN if the step was skipped.

        Args:
            module: Whose weights are changed.
            last: Of the training step; Lightning counts no other.
        """
        optimizer = module.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        steps = optimizer if last else Uncounted(optimizer, module.trainer.strategy)
        norm = self.learner.step(steps, module.parameters())
        self.schedules.after_optimizer_step()
        return norm
