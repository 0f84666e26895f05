"""Clone the best predictions, rewritten with what really happened: supervised phases between the steps of GRPO."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from masa_lightning.checks import check_number
from masa_lightning.distributed import Processes
from masa_lightning.functional.losses import sft_loss
from masa_lightning.models.packing import pack, split
from masa_lightning.models.policy import Policy
from masa_lightning.modules.listeners import phase_progress
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.optimization import AdamW, decay_groups
from masa_lightning.modules.precision import check_precision, check_trained_dtype
from masa_lightning.modules.steps import live_in_buckets
from masa_lightning.protocols import ExampleSource, ProgressFn
from masa_lightning.types import Example
from masa_lightning.update.learner import Learner

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ExpertSFT(Callback):
    r"""Minimises the negative log-likelihood of expert examples, in phases (docs/method.md, section 5).

    .. math:: L = -\frac{1}{\sum_b |y_b|} \sum_b w_b \sum_t \log \pi(y_{b,t} \mid x_b, y_{b,<t})

    The weight w is 1, but where controls keep other problems from giving examples. After each training step the module's
    examples go into a buffer. A phase takes an optimiser step on each batch of them, oldest first, with an AdamW of its
    own: neither the module's optimiser nor its schedule nor the Trainer's `global_step` notices. Buffer, optimiser and
    counters are in the checkpoint. Works with any LightningModule that is a `protocols.ExampleSource`. With several
    processes all of them share one buffer and work on each batch together.

    Logged: ``sft/buffer``, ``sft/examples`` (of this step), ``tokens/sft`` (target tokens of this step),
    ``tokens_total/sft``, ``timing_s/sft``, ``sft/loss`` and ``sft/grad_norm`` (means over the batches of this step, NaN
    without any or where one was skipped), ``sft/skipped_updates`` (of this step).

    Args:
        batch_size: Examples of an optimiser step, over all processes, >= 1.
        every_n_steps: None runs a phase as soon as the buffer holds a batch; n runs one after every n-th training step,
            on all that the buffer holds, the last batch being smaller where need be.
        learning_rate: Constant, > 0.
        weight_decay: Of AdamW, >= 0; norms and biases have none.
        max_grad_norm: Gradients are clipped to this norm, > 0; None is off.
        max_skipped_steps: Optimiser steps whose gradient is not finite are skipped; with more than that many in a row, >= 0,
            the run ends.
        max_tokens_per_micro_batch: Memory knob: tokens of one forward and backward.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ExpertSFT(batch_size=16, learning_rate=1e-5).state_dict()["buffer"]
        []
    """

    def __init__(
        self,
        batch_size: int = 32,
        every_n_steps: int | None = None,
        learning_rate: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float | None = 1.0,
        max_skipped_steps: int = 3,
        max_tokens_per_micro_batch: int = 16384,
    ) -> None:
        super().__init__()
        check_number("batch_size", batch_size, ">= 1", whole=True)
        if every_n_steps is not None:
            check_number("every_n_steps", every_n_steps, ">= 1", whole=True)
        check_number("max_tokens_per_micro_batch", max_tokens_per_micro_batch, ">= 1", whole=True)
        check_number("learning_rate", learning_rate, "> 0")
        check_number("weight_decay", weight_decay, ">= 0")
        self.batch_size = batch_size
        self.every_n_steps = every_n_steps
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self._learner = Learner(max_grad_norm=max_grad_norm, max_skipped_steps=max_skipped_steps, owner="ExpertSFT")
        self.max_tokens_per_micro_batch = max_tokens_per_micro_batch
        self.buffer: list[Example] = []
        self.steps = 0
        """Training steps so far."""
        self.tokens = 0
        """Target tokens trained on so far."""
        self._processes: Processes | None = None
        self._policy: Policy | None = None
        self._optimizer: torch.optim.AdamW | None = None
        self._optimizer_state: dict[str, Any] | None = None  # of a checkpoint, until the optimiser is made

    # -- Lightning's hooks -------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuses modules that have no examples; after `configure_model`, which may make the policy.

        Raises:
            TypeError: If the module is no `ExampleSource`, or its policy is no `Policy`.
            ValueError: If the precision is none to train with, or a `MASALightningModule` makes no predictions to clone.
        """
        check_precision(trainer.precision)
        predicts = getattr(type(pl_module), "expert_examples", None) is MASALightningModule.expert_examples
        if predicts and not pl_module.num_meta_generations:
            raise ValueError(
                "ExpertSFT clones predictions, and num_meta_generations is 0; raise it, or remove the callback"
            )
        if not isinstance(pl_module, ExampleSource):
            raise TypeError(
                f"ExpertSFT found no examples to clone: {type(pl_module).__name__} lacks `policy` or `expert_examples`; "
                "expected a MASALightningModule, or a module of yours that satisfies masa_lightning.protocols.ExampleSource"
            )
        if not hasattr(pl_module.policy, "packs"):
            raise TypeError(
                f"`policy` of {type(pl_module).__name__} is a {type(pl_module.policy).__name__}, which gives no "
                "log-probabilities of packed tokens; expected a masa_lightning.models.policy.Policy, which wraps a causal "
                "language model of transformers and shares its weights: self.policy = Policy(model), as in "
                "examples/expert_sft_foreign.py"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the optimiser, when weights and checkpoint are there."""
        assert isinstance(pl_module, ExampleSource)
        self._processes = Processes(trainer.global_rank, trainer.world_size)
        self._policy = pl_module.policy
        assert self._policy is not None
        for p in self._policy.parameters():
            if p.requires_grad:
                check_trained_dtype(str(p.dtype).removeprefix("torch."))
        self._learner.keeps_gradients = live_in_buckets(trainer.strategy)
        groups = decay_groups(self._policy.named_parameters())
        self._optimizer = AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
        decays = [group["weight_decay"] for group in self._optimizer.param_groups]
        if self._optimizer_state is not None:
            if self._sharded:
                set_optimizer_state_dict(self._policy, self._optimizer, self._optimizer_state, options=_FULL)
            else:
                self._optimizer.load_state_dict(self._optimizer_state)
            self._optimizer_state = None
            for group, decay in zip(self._optimizer.param_groups, decays, strict=True):
                # The settings of this run, not those of the checkpoint.
                group["lr"], group["weight_decay"] = self.learning_rate, decay

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the step's examples to the buffer, and runs a phase if it is time."""
        assert isinstance(pl_module, ExampleSource)
        assert self._processes is not None
        with self._processes.together():
            metrics = self._work(trainer, pl_module, outputs)
        log = getattr(pl_module, "log_step", pl_module.log_dict)  # ours remember what a resumed run has to log again
        log(metrics)

    def state_dict(self) -> dict[str, Any]:
        """Buffer, counters and the optimiser's state."""
        optimizer = self._optimizer_state
        if self._optimizer is not None and self._policy is not None:
            if self._sharded:
                optimizer = get_optimizer_state_dict(self._policy, self._optimizer, options=_FULL)
            else:
                optimizer = self._optimizer.state_dict()
        return {
            "buffer": [[list(e.prompt_ids), list(e.target_ids), float(e.weight)] for e in self.buffer],
            "steps": self.steps,
            "tokens": self.tokens,
            "optimizer": optimizer,
            "skipped_in_a_row": self._learner.skipped_in_a_row,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores buffer and counters; the optimiser's state when training starts."""
        self.buffer = [Example(*example) for example in state_dict["buffer"]]
        self.steps, self.tokens = state_dict["steps"], state_dict["tokens"]
        self._optimizer_state = state_dict["optimizer"]
        self._learner.skipped_in_a_row = state_dict["skipped_in_a_row"]

    # -- a phase -----------------------------------------------------------------------------------------------------

    def _work(self, trainer: Trainer, pl_module: Any, outputs: Any) -> dict[str, float]:
        assert self._processes is not None
        examples = [Example(*example) for example in pl_module.expert_examples(outputs)]
        self.buffer += self._processes.concatenate(examples)
        self.steps += 1
        batches = self._take_batches()
        tokens = sum(len(e.target_ids) for examples in batches for e in examples)
        self.tokens += tokens
        metrics = {  # the same names each step: Lightning would log the last value of a missing one again
            "sft/loss": math.nan,
            "sft/grad_norm": math.nan,
            "sft/skipped_updates": 0.0,
            "timing_s/sft": 0.0,
            "sft/buffer": float(len(self.buffer)),
            "sft/examples": float(sum(map(len, batches))),
            "tokens/sft": float(tokens),
            "tokens_total/sft": float(self.tokens),
        }
        if batches:
            start = time.perf_counter()
            world, rank = trainer.world_size, trainer.global_rank
            done, total = 0, sum(len(examples[rank::world]) for examples in batches)
            report = phase_progress(trainer)("sft", total)
            losses, norms = [], []
            for examples in batches:
                loss, norm = self._step(trainer, pl_module, examples, partial(_further, report, done, total))
                done += len(examples[rank::world])
                losses.append(loss)
                norms.append(norm)
            metrics["sft/loss"] = sum(losses) / len(losses)
            metrics["sft/grad_norm"] = sum(norms) / len(norms)
            metrics["sft/skipped_updates"] = float(sum(map(math.isnan, norms)))
            metrics["timing_s/sft"] = time.perf_counter() - start
        return metrics

    @property
    def _sharded(self) -> bool:
        assert self._policy is not None
        return any(isinstance(p, DTensor) for p in self._policy.parameters())

    def _take_batches(self) -> list[list[Example]]:
        """Removes the batches that are due from the buffer, and returns them."""
        if self.every_n_steps is None:
            due = len(self.buffer) // self.batch_size * self.batch_size
        else:
            due = 0 if self.steps % self.every_n_steps else len(self.buffer)
        taken, self.buffer = self.buffer[:due], self.buffer[due:]
        return [taken[i : i + self.batch_size] for i in range(0, due, self.batch_size)]

    def _step(
        self, trainer: Trainer, pl_module: LightningModule, examples: Sequence[Example], told: Callable[[int], None]
    ) -> tuple[float, float]:
        """Takes one optimiser step; returns the loss before it and the gradient's norm, NaN if it was skipped.

        `told` is told how many of the examples of this process are done.
        """
        policy, optimizer, sharded = self._policy, self._optimizer, self._sharded
        assert policy is not None and optimizer is not None
        world, rank = trainer.world_size, trainer.global_rank
        shares = [
            split([e[:2] for e in examples[r::world]], self.max_tokens_per_micro_batch, share_prompts=policy.packs)
            for r in range(world)
        ]
        mine = examples[rank::world]
        own = [[mine[i] for i in part] for part in shares[rank]]
        used = len(own)
        if sharded:  # weights are gathered in every forward pass, so that all processes make as many: some of nothing
            own += [list(examples[:1])] * (max(map(len, shares)) - used)
        denominator = sum(len(e.target_ids) for e in examples)
        self._learner.clear(optimizer)
        total = torch.zeros((), device=pl_module.device)
        for i, batch in enumerate(own):
            tokens = pack([e[:2] for e in batch]).to(pl_module.device)
            weights = torch.tensor([[e.weight] for e in batch], dtype=torch.float32, device=pl_module.device)
            with trainer.precision_plugin.forward_context():
                logp, _ = policy(tokens)
                loss = sft_loss(logp * weights, tokens.mask, denominator) * (i < used)
            if sharded:
                loss = loss * world  # FSDP2 averages gradients over processes
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach() / (world if sharded else 1)
            told(sum(map(len, own[: min(i + 1, used)])))
        if world > 1:
            torch.distributed.all_reduce(total)
            if not sharded:
                for p in policy.parameters():
                    if p.requires_grad:
                        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                        torch.distributed.all_reduce(p.grad)
        return total.item(), self._learner.step(optimizer, policy.parameters())


def _further(report: ProgressFn, before: int, total: int, done: int) -> None:
    report(before + done, total)
