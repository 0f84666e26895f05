"""What every module here owns: policy, reference, tokenizer, sampler and optimiser, and how they start."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, Self, cast, get_args

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from masa_lightning.checks import check_choice, check_number, check_object
from masa_lightning.distributed import Processes
from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA, add_adapters, check_same, leave_out_frozen, without_adapters
from masa_lightning.models.policy import Policy
from masa_lightning.models.steady import make_steady
from masa_lightning.models.stops import Stops, find_stops, read_stops
from masa_lightning.modules import hyperparameters
from masa_lightning.modules.checkpointing import as_file, check_savers, make_durable
from masa_lightning.modules.optimization import Optimization
from masa_lightning.modules.parity import ParityGuard, claim
from masa_lightning.modules.precision import check_precision, check_trained_dtype, lost_share
from masa_lightning.modules.run_folder import RunFolder
from masa_lightning.modules.schedules import Schedules
from masa_lightning.modules.steps import Uncounted, live_in_buckets, share_buckets
from masa_lightning.modules.termination import SaveOnSigterm
from masa_lightning.modules.trainer_checks import check_callbacks, check_gradients, check_processes
from masa_lightning.protocols import PhaseListener, ProgressFn, Sampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.timing import Stopwatch
from masa_lightning.update.learner import Learner, are_finite
from masa_lightning.update.policy_update import LogProbs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        chat_template_kwargs: Extra variables of the chat template.
        sampling: How training rollouts are drawn; what ends a completion here does so everywhere.
        max_prompt_length: Longest prompt, tokens.
        max_completion_length: Most tokens of a completion.
        needs_reference: Whether to keep the log-probabilities of the model as it was at hand.
        optimization: How the weights are changed.
        dtype: Of the weights; float16 for evaluation alone.
        gradient_checkpointing: Recompute activations in the backward pass.
        float32_head: Whether the output layer computes in float32 in any precision.
        trust_remote_code: Run Python code that the model brings.
        lora: Adapters to train in place of all weights.
        max_logp_difference: Of sampler and policy; above it the run stops.
        seed: Of the rollouts and of the adapters' start.
    """

    def __init__(
        self,
        *,
        model: str,
        sampler: Sampler,
        chat_template: str | None,
        chat_template_kwargs: dict[str, Any] | None,
        sampling: SamplingSettings,
        max_prompt_length: int,
        max_completion_length: int,
        needs_reference: bool,
        optimization: Optimization,
        dtype: loading.DType,
        gradient_checkpointing: bool,
        float32_head: bool,
        trust_remote_code: bool,
        lora: LoRA | None,
        max_logp_difference: float | None,
        seed: int | None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_object("sampler", sampler, Sampler, note="such as VLLMSampler()")
        if lora is not None:
            check_object("lora", lora, LoRA)
        check_number("max_prompt_length", max_prompt_length, ">= 1", whole=True, note="token")
        check_number("max_completion_length", max_completion_length, ">= 1", whole=True, note="token")
        check_choice("dtype", dtype, get_args(loading.DType))
        check_choice("gradient_checkpointing", gradient_checkpointing, (False, True))
        check_choice("float32_head", float32_head, (False, True))
        check_choice("trust_remote_code", trust_remote_code, (False, True))
        if seed is not None:
            check_number("seed", seed, "", whole=True)
        if max_logp_difference not in (None, math.inf):
            note = "nats a token, None for one by precision, or inf to compare nothing"
            check_number("max_logp_difference", max_logp_difference, "> 0", note=note)
        self.automatic_optimization = False
        self.strict_loading = True
        self.model_name = model
        self.sampler = sampler
        self.chat_template = chat_template
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.sampling = sampling
        self.max_prompt_length = max_prompt_length
        self.max_completion_length = max_completion_length
        self.needs_reference = needs_reference
        self.optimization = optimization
        self.dtype_name = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self.float32_head = float32_head
        self.trust_remote_code = trust_remote_code
        self.lora = lora
        self.max_logp_difference = max_logp_difference
        self.seed = seed
        self.policy: Policy | None = None
        self.tokenizer: Any = None
        self._stops: Stops | None = None
        self.processes = Processes(0, 1)
        """Those of the trainer, after `setup`."""
        self._learner = Learner(
            max_grad_norm=optimization.max_grad_norm, max_skipped_steps=optimization.max_skipped_steps
        )
        self._schedules = Schedules(self.lr_scheduler_step)
        self._reference: list[LogProbs] = []  # in a list: not a submodule, so neither trained nor checkpointed
        self._vocabulary = float("inf")  # rows of the embedding
        self._guard: ParityGuard | None = None  # of the last start
        self._sampler_is_ready = False  # and has the policy
        self._training_steps = 0  # of this run
        self._shards_checked = False
        self.watch = Stopwatch()

    @property
    def stops(self) -> Stops:
        """What ends a completion, once tokenizer and policy are loaded."""
        if self._stops is None and self.policy is not None and self.tokenizer is not None:
            self._stops = find_stops(self.policy.model, self.tokenizer, self.sampling, self.chat_template_kwargs)
        return self._stops or Stops()

    def save_hyperparameters(
        self, *args: Any, ignore: Any = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """As Lightning's, with objects as plain values (`modules.hyperparameters`); called for each module, also yours.

        `hparams` has what the module was called with, by which `load_from_checkpoint` makes it again; loggers get
        `hparams_initial`, in which defaults are filled in.
        """
        caller = inspect.currentframe()
        frame = frame or (caller.f_back if caller is not None else None)
        given, held = hyperparameters.chosen(args, frame)
        left_out = {ignore} if isinstance(ignore, str) else {*(ignore or ())}
        given = {n: v for n, v in (dict(self.hparams) | given).items() if n not in left_out}
        held = {n: v for n, v in (held | dict(self.hparams_initial)).items() if n not in left_out}
        self.hparams.clear()
        super().save_hyperparameters(held, logger=logger)  # `hparams_initial` becomes a copy of `hparams`
        self.hparams.clear()
        self.hparams.update(given)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Makes the module of a checkpoint as it was made, and loads its weights.

        Args:
            checkpoint_path: What `ModelCheckpoint` or `Trainer.save_checkpoint` wrote: a file, or a folder of shards.
            map_location: As Lightning's.
            hparams_file: Not used: the checkpoint has the settings.
            strict: As Lightning's.
            weights_only: As Lightning's, True by default.
            **kwargs: Arguments of the module that take the place of the checkpoint's.

        Returns:
            A module of the class that wrote the checkpoint, if that is this one or a subclass that is imported, else of
            this class.

        Raises:
            ValueError: If the checkpoint names objects that are not of this package, which have to be given.
        """
        if hparams_file is not None:
            raise ValueError(f"hparams_file is {hparams_file!r}; expected none: the checkpoint has the settings")
        kind, settings = hyperparameters.to_load(cls, checkpoint_path, kwargs)
        make = super(PolicyLightningModule, cast("Any", kind)).load_from_checkpoint
        only = True if weights_only is None else weights_only
        with as_file(checkpoint_path) as file:
            return cast("Self", make(file, map_location, None, strict, only, **settings))

    def setup(self, stage: str) -> None:
        """Checks strategy and limits and loads the tokenizer, before any weights.

        Raises:
            ValueError: If the strategy spreads weights in a way that they cannot be handed to an engine from, precision
                or dtype are none to train with, a `ModelCheckpoint` would write nothing, prompt and completion are longer
                than what the model was made for, the tokenizer does not fit the model, a stop is none that can come,
                or the sampler cannot be right on this model.
        """
        if isinstance(self.trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
            raise ValueError(
                f"the strategy is {type(self.trainer.strategy).__name__}, from whose flattened weights the sampler cannot "
                "be served; expected one process, DDP, or ModelParallelStrategy (FSDP2), which shards weights, gradients "
                "and optimiser as they do: configs/masa.yaml"
            )
        check_precision(self.trainer.precision, self.dtype_name)
        if stage == "fit":
            check_trained_dtype(self.dtype_name)
            check_savers(self.trainer)
        make_durable(self.trainer)
        share_buckets(self.trainer.strategy)
        self.processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        self._training_steps = 0
        if self.tokenizer is not None:
            return
        if self.lora is not None:
            self.lora.config()  # an error where peft is missing
        config = loading.load_config(self.model_name, trust_remote_code=self.trust_remote_code)
        if (check_model := getattr(self.sampler, "check_model", None)) is not None:
            check_model(self.model_name, config, self.trainer.strategy.root_device)
        context = loading.context_length(config)
        asked = self.max_prompt_length + self.max_completion_length
        if context is not None and asked > context:
            raise ValueError(
                f"max_prompt_length {self.max_prompt_length} + max_completion_length {self.max_completion_length} = "
                f"{asked} tokens, but model {self.model_name!r} was made for {context}; lower one of the two"
            )
        tokenizer = loading.load_tokenizer(
            self.model_name, self.chat_template, trust_remote_code=self.trust_remote_code
        )
        self._vocabulary = loading.vocabulary_size(config)
        loading.check_vocabulary(self.model_name, self._vocabulary, tokenizer)
        read_stops(tokenizer, self.sampling, model=self.model_name, rows=self._vocabulary)
        self.tokenizer = tokenizer

    def configure_callbacks(self) -> list[Callback]:
        """Adds `SaveOnSigterm` and `RunFolder` to the Trainer's callbacks.

        Raises:
            TypeError: If a callback of the Trainer is none.
            ValueError: If the Trainer is to clip or accumulate gradients, which are the module's settings, two callbacks
                write the same checkpoints, or the strategy is for another number of processes.
        """
        check_callbacks(self.trainer)
        check_processes(self.trainer)
        check_gradients(self.trainer)  # the first hook there is, and before Lightning refuses them without a remedy
        present = [c for c in getattr(self.trainer, "callbacks", []) if isinstance(c, RunFolder)]
        folder = present[0] if present else RunFolder()
        folder.enter(self.trainer)
        return [] if present else [folder, SaveOnSigterm()]

    def configure_model(self) -> None:
        """Loads the policy, and the reference if there is one, and shards them under `ModelParallelStrategy`."""
        # Until `on_fit_start`, so that Lightning reads all that `configure_optimizers` says of schedules, and checks it.
        trainer = self._trainer  # None in `load_from_checkpoint`
        self.automatic_optimization = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if self.policy is not None:
            return
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        empty = self.device_mesh is not None and self.trainer.global_rank > 0  # gets its shards from the first process
        model = self._load(empty, self.gradient_checkpointing)
        if self.lora is not None:
            add_adapters(model, self.lora, self.run_seed())
        self.policy = self._spread(self._steady(model))
        if self.lora is not None:
            self.policy.register_state_dict_post_hook(leave_out_frozen)  # type: ignore[no-untyped-call]
            # Or Lightning, told to be strict, would look for frozen weights in unsharded checkpoints; in sharded ones
            # torch.distributed.checkpoint misses what is not there in any case.
            self.strict_loading = self.device_mesh is None
        if self.needs_reference and self.lora is not None:
            self._reference.append(without_adapters(self.policy))
        elif self.needs_reference:
            reference = self._steady(self._load(empty))
            self._reference.append(self._spread(reference.eval().requires_grad_(False)))
        if self.device_mesh is not None:
            self.register_state_dict_pre_hook(self._check_shards)  # type: ignore[no-untyped-call]

    def _load(self, empty: bool, gradient_checkpointing: bool = False) -> PreTrainedModel:
        return loading.load_model(
            self.model_name,
            self.dtype_name,
            gradient_checkpointing,
            empty=empty,
            trust_remote_code=self.trust_remote_code,
        )

    def _steady(self, model: PreTrainedModel) -> Policy:
        make_steady(model, self.max_prompt_length + self.max_completion_length)
        return Policy(model, float32_head=self.float32_head)

    def _spread(self, policy: Policy) -> Policy:
        """Shards a policy where there is a device mesh, before another one is loaded."""
        if self.device_mesh is not None:
            from masa_lightning.models.sharding import shard

            shard(
                policy,
                self.device_mesh,
                compute_dtype=torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None,
            )
        return policy

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Loads weights, all of them; with LoRA those of the adapters, which are all that `state_dict` holds."""
        if self.lora is None:
            return super().load_state_dict(state_dict, strict, assign)
        keys = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = sorted({*keys.missing_keys} & {*self.state_dict()})
        if strict and (missing or keys.unexpected_keys):
            raise RuntimeError(
                f"of the adapters' weights {len(missing)} are missing ({missing[:3]}), and {len(keys.unexpected_keys)} are "
                f"unknown ({keys.unexpected_keys[:3]}); expected a checkpoint of the same model with lora={self.lora}"
            )
        return keys

    def configure_optimizers(self) -> Any:
        """Those of `optimization`; override it for what these settings cannot say.

        It may return all that Lightning takes for one optimiser, several schedules and their ``interval``, ``frequency``,
        ``monitor`` and ``strict`` included (`modules.schedules`).
        """
        made = self.optimization.make(self.named_parameters(), lambda: self.trainer.estimated_stepping_batches)
        groups = made["optimizer"].param_groups
        rate = max(group.get("initial_lr", group["lr"]) for group in groups)
        weights = [p for group in groups for p in group["params"] if p.dtype == torch.bfloat16]
        if (lost := lost_share(weights, rate)) > 0.5:
            rank_zero_warn(
                f"{lost:.0%} of the weights are too large for steps of learning rate {rate:g} to change them "
                "in bfloat16, which keeps 8 significant bits; expected most of them to move. Set dtype: float32, on a GPU "
                "with precision: bf16-mixed, train a LoRA, whose adapters are float32, or raise the learning rate"
            )
        return made

    def on_fit_start(self) -> None:
        """Looks at what `configure_optimizers` gave.

        Raises:
            ValueError: If it has none of the policy's weights.
        """
        self.automatic_optimization = False
        trained = {id(p) for p in self.parameters() if p.requires_grad}
        held = {
            id(p) for optimizer in self.trainer.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        if not trained & held:
            raise ValueError(
                "configure_optimizers gave no optimiser of the policy's weights, so nothing would be trained; expected one "
                "of self.parameters(), or of some of them"
            )
        self._schedules.take(self.trainer.lr_scheduler_configs)
        self._learner.keeps_gradients = live_in_buckets(self.trainer.strategy)

    def teardown(self, stage: str) -> None:
        """Closes the sampler, if it can be, which gives the memory of its engine back; the next start makes another one."""
        close = getattr(self.sampler, "close", None)
        if close is not None:
            close()
            self._sampler_is_ready = False

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Problems are text: they stay as they are."""
        return batch

    def __getstate__(self) -> dict[str, Any]:
        """For copies, whose sampler has no policy yet."""
        return super().__getstate__() | {"_guard": None, "_sampler_is_ready": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """For copies, whose reference under adapters is their own policy."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.lora is not None and self.policy is not None:
            self._reference = [without_adapters(self.policy) for _ in self._reference]

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Readies the sampler and compares it with the policy."""
        assert self.policy is not None
        length = self.max_prompt_length + self.max_completion_length
        with torch.inference_mode(False), torch.enable_grad(), self.watch.phase("start"):
            claim(self.sampler, self)
            if not self._sampler_is_ready:
                self._set_up_sampler(self.policy, length)
                self._sampler_is_ready = True
            else:
                self.sampler.wake()
                self.sampler.sync_weights()
        self._guard = ParityGuard(
            self.sampler,
            self.policy,
            self.processes,
            limit=self.max_logp_difference,
            model=self.model_name,
            precision=self.trainer.precision,
        )
        stage = self.trainer.state.stage
        self._compare(f"at the start of stage {stage.value!r}" if stage else "at the start")

    def _set_up_sampler(self, policy: Policy, length: int) -> None:
        """Gives the sampler the policy, the first time; the two may come to share weights."""
        if not are_finite(policy.parameters()):
            raise ValueError(
                f"model {self.model_name!r} has weights that are not finite, as {self.dtype_name} or in its checkpoint; "
                "expected finite ones. Choose another dtype or checkpoint"
            )
        with self.trainer.precision_plugin.forward_context():  # an engine takes the dtype of autocast
            self.sampler.setup(
                policy.model,
                loading.model_path(self.model_name),
                max_model_length=length,
                stop_token_ids=self.stops.token_ids,
            )
        for reference in self._reference:
            if isinstance(reference, Policy):
                reference.to(self.device)

    def _compare(self, when: str) -> None:
        """Compares sampler and policy on a few tokens, and leaves random states as they are; a collective."""
        assert self._guard is not None
        if self.max_logp_difference == math.inf:
            return
        length = self.max_prompt_length + self.max_completion_length
        precision = self.trainer.precision_plugin.forward_context()
        with self.processes.together(), torch.inference_mode(False), isolate_rng(), precision:
            self._guard.probe(self.tokenizer, length, when)

    def _optimizer_step(self, last: bool = True) -> float:
        """Takes one, and steps the schedules. Returns the gradient's norm, NaN if it was not finite and thus dropped.

        Args:
            last: Of the training step; Lightning counts no other.
        """
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        steps = optimizer if last else Uncounted(optimizer, self.trainer.strategy)
        norm = self._learner.step(steps, self.parameters())
        self._schedules.after_optimizer_step()
        return norm

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Back-propagates; under DDP gradients are averaged over processes at the last loss of an optimiser step alone."""
        wait = getattr(self.trainer.strategy, "block_backward_sync", nullcontext)
        with nullcontext() if last else wait():
            self.manual_backward(loss)

    def run_seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))

    def _check_shards(self, *_: Any) -> None:
        """Compares LoRA settings when Lightning asks what to read a folder of shards into: torch's errors name weights."""
        meta = Path(self.trainer.ckpt_path or "", "meta.pt")
        if not self._shards_checked and meta.is_file():
            check_same(torch.load(meta, map_location="cpu", weights_only=True, mmap=True)["masa"]["lora"], self.lora)
        self._shards_checked = True

    def _progress(self, phase: str, total: int) -> ProgressFn:
        """Tells the callbacks that listen how far a phase is."""
        callbacks: list[Any] = getattr(self.trainer, "callbacks", [])
        listeners = [c for c in callbacks if isinstance(c, PhaseListener)]

        def report(done: int, of: int) -> None:
            for listener in listeners:
                listener.on_phase_progress(phase, done, of)

        report(0, total)
        return report
