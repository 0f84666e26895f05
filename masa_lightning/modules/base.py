"""What every module here owns: policy, reference, tokenizer, sampler and optimiser, and how they start."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler

from masa_lightning.models import loading
from masa_lightning.models.policy import Policy
from masa_lightning.modules.processes import Processes
from masa_lightning.types import PhaseListener, ProgressFn, Sampler

_EXPECTED_WARNINGS = (  # of Lightning, about what is so on purpose here
    r"Found \d+ module\(s\) in eval mode",  # no dropout: it would falsify log-probabilities
    "You have overridden `transfer_batch_to_device` in both",  # both leave the batch alone
    "Using ModelCheckpoint with manual optimization",  # checkpoints are of the weights after a step
    r"It is recommended to use `self.log\(.*sync_dist=True",  # it is used; vLLM's process group misleads Lightning
)


class PolicyLightningModule(LightningModule):
    """Owns a policy and what it takes to sample from it and to step it; a subclass says what a batch does.

    Manual optimisation: gradient clipping and accumulation are settings of the module, not of the Trainer.

    Args:
        model: As `GRPOLightningModule`, like the others.
        sampler: Draws completions.
        chat_template: Replaces the tokenizer's.
        max_prompt_length: Longest prompt, tokens.
        max_completion_length: Most tokens of a completion.
        needs_reference: Whether to load a frozen copy of the policy.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        warmup_steps: Optimiser steps of linear warm-up.
        max_grad_norm: Gradients are clipped to this norm; None is off.
        dtype: Of the weights.
        gradient_checkpointing: Recompute activations in the backward pass.
    """

    def __init__(
        self,
        *,
        model: str,
        sampler: Sampler,
        chat_template: str | None,
        max_prompt_length: int,
        max_completion_length: int,
        needs_reference: bool,
        learning_rate: float,
        weight_decay: float,
        warmup_steps: int,
        max_grad_norm: float | None,
        dtype: loading.DType,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__()
        for name, value in (
            ("max_prompt_length", max_prompt_length),
            ("max_completion_length", max_completion_length),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected >= 1 token")
        self.automatic_optimization = False
        self.strict_loading = True
        self.model_name = model
        self.sampler = sampler
        self.chat_template = chat_template
        self.max_prompt_length = max_prompt_length
        self.max_completion_length = max_completion_length
        self.needs_reference = needs_reference
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.max_grad_norm = max_grad_norm
        self.dtype_name = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.policy: Policy | None = None
        self.tokenizer: Any = None
        self.processes = Processes(0, 1)
        """Those of the trainer, after `setup`."""
        self._reference: list[Policy] = []  # in a list: not a submodule, so neither trained nor checkpointed
        self._sampler_ready = False
        self._seconds: dict[str, float] = {}

    def setup(self, stage: str) -> None:
        """Checks the limits and loads the tokenizer, before any weights."""
        self.processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        if self.tokenizer is not None:
            return
        context = loading.context_length(loading.load_config(self.model_name))
        asked = self.max_prompt_length + self.max_completion_length
        if context is not None and asked > context:
            raise ValueError(
                f"max_prompt_length {self.max_prompt_length} + max_completion_length {self.max_completion_length} = "
                f"{asked} tokens, but model {self.model_name!r} was made for {context}; lower one of the two"
            )
        self.tokenizer = loading.load_tokenizer(self.model_name, self.chat_template)

    def configure_model(self) -> None:
        """Loads the policy, and the reference if there is one, and shards them under `ModelParallelStrategy`."""
        if self.policy is not None:
            return
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        self.policy = Policy(loading.load_model(self.model_name, self.dtype_name, self.gradient_checkpointing))
        if self.needs_reference:
            reference = Policy(loading.load_model(self.model_name, self.dtype_name))
            self._reference.append(reference.eval().requires_grad_(False))
        if self.device_mesh is not None:
            from masa_lightning.models.sharding import shard

            for policy in (self.policy, *self._reference):
                shard(policy, self.device_mesh)

    def configure_optimizers(self) -> Any:
        """AdamW with linear warm-up; override it for another optimiser or schedule."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trainable, lr=self.learning_rate, weight_decay=self.weight_decay)
        warmup = max(self.warmup_steps, 1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Problems are text: they stay as they are."""
        return batch

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Readies the sampler, once; outside inference mode, because the policy may come to share its weights."""
        if self._sampler_ready:
            return
        assert self.policy is not None
        with torch.inference_mode(False), torch.enable_grad(), self._timed("start"):
            self.sampler.setup(
                self.policy.model,
                loading.model_path(self.model_name),
                max_model_length=self.max_prompt_length + self.max_completion_length,
                stop_token_ids=loading.stop_token_ids(self.policy.model, self.tokenizer),
            )
            for reference in self._reference:
                reference.to(self.device)
        self._sampler_ready = True

    def _optimizer_step(self) -> float:
        """Clips, steps and schedules; a gradient that is not finite is dropped. Returns its norm, NaN if dropped."""
        optimizer = self.optimizers()
        if not isinstance(optimizer, LightningOptimizer):
            raise TypeError(f"configure_optimizers gave {len(optimizer)} optimizers; expected one")
        bound = float("inf") if self.max_grad_norm is None else self.max_grad_norm
        total = torch.nn.utils.clip_grad_norm_(self.parameters(), bound)
        norm = (total.full_tensor() if isinstance(total, DTensor) else total).item()
        if not math.isfinite(norm):
            rank_zero_warn(f"the gradient norm is {norm}: this optimiser step is skipped")
            optimizer.zero_grad(set_to_none=True)
            norm = float("nan")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule = self.lr_schedulers()
        if isinstance(schedule, LRScheduler):
            schedule.step()
        return norm

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Back-propagates; under DDP gradients are averaged over processes at the last loss of an optimiser step alone."""
        wait = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        with nullcontext() if last else wait():
            self.manual_backward(loss)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Adds the seconds of its body to those of `phase`."""
        start = time.perf_counter()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - start

    def _progress(self, phase: str, total: int) -> ProgressFn:
        """Tells the callbacks that listen how far a phase is."""
        callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
        listeners = [c for c in callbacks if isinstance(c, PhaseListener)]

        def report(done: int, of: int) -> None:
            for listener in listeners:
                listener.on_phase_progress(phase, done, of)

        report(0, total)
        return report
