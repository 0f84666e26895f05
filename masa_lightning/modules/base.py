"""What every module here owns: policy, reference, tokenizer, sampler and optimiser, and how they start."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from types import FrameType
from typing import IO, Any, Self, cast

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from masa_lightning.checks import check_number, check_object
from masa_lightning.distributed import Processes
from masa_lightning.models.loading import DType
from masa_lightning.models.lora import LoRA, leave_out_frozen
from masa_lightning.models.policy import Policy
from masa_lightning.models.policy_loader import PolicyLoader, Sharding
from masa_lightning.models.stops import Stops, find_stops
from masa_lightning.modules import hyperparameters, plain
from masa_lightning.modules.checkpoint_entry import ShardsCheck
from masa_lightning.modules.checkpointing import as_file, check_savers, make_durable
from masa_lightning.modules.defaults import default_lengths, default_sampler
from masa_lightning.modules.expected_warnings import ignore_expected_warnings
from masa_lightning.modules.last_step import SaveLastStep
from masa_lightning.modules.optimization import Optimization
from masa_lightning.modules.policy_learner import PolicyLearner
from masa_lightning.modules.precision import check_precision, check_trained_dtype, warn_of_lost_steps
from masa_lightning.modules.run_folder import RunFolder
from masa_lightning.modules.sampler_session import SamplerSession
from masa_lightning.modules.steps import share_buckets
from masa_lightning.modules.termination import SaveOnSigterm
from masa_lightning.modules.trainer_checks import check_optimizers, check_strategy, check_trainer
from masa_lightning.protocols import LogProbs, Sampler
from masa_lightning.settings import SamplingSettings
from masa_lightning.timing import Stopwatch


class PolicyLightningModule(LightningModule):
    """Owns a policy and what it takes to sample from it and to step it; a subclass says what a batch does.

    Manual optimisation: gradient clipping and accumulation are settings of the module, not of the Trainer.

    Args:
        model: Hugging Face folder or hub name; "tiny" is the embedded model.
        sampler: Draws completions; by default `VLLMSampler`, or `TransformersSampler` where vLLM is not installed.
        chat_template: Replaces the tokenizer's: Jinja text or the path of a file.
        chat_template_kwargs: Extra variables of the chat template, such as enable_thinking.
        max_prompt_length: Longest prompt, tokens; problems above it are left out, counted and named. By default that of the
            model's training, if its folder says so (64 for the embedded model), else 512.
        max_completion_length: Most tokens of a completion, end-of-sequence included; by default likewise (128 for the
            embedded model).
        sampling: How training rollouts are drawn, and what ends any completion.
        optimization: Optimiser, learning rate and schedule, and the steps that a batch is split into.
        dtype: Of the weights, in trainer and sampler; float16 for evaluation alone.
        gradient_checkpointing: Recompute activations in the backward pass.
        float32_head: Whether the output layer computes in float32 in any precision of the Trainer: slower, and closer to
            an engine that does so too. By default it computes as the other layers do.
        trust_remote_code: Run Python code that the model or its tokenizer brings, which can do anything; only for code that
            you have read. Never taken from a checkpoint.
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
        *,
        chat_template: str | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        max_prompt_length: int | None = None,
        max_completion_length: int | None = None,
        sampling: SamplingSettings = SamplingSettings(),
        optimization: Optimization = Optimization(),
        dtype: DType = "float32",
        gradient_checkpointing: bool = False,
        float32_head: bool = False,
        trust_remote_code: bool = False,
        lora: LoRA | None = None,
        max_logp_difference: float | None = None,
        seed: int | None = None,
    ) -> None:
        check_object("sampling", sampling, SamplingSettings)
        check_object("optimization", optimization, Optimization)
        max_prompt_length, max_completion_length = default_lengths(model, max_prompt_length, max_completion_length)
        loader = PolicyLoader(
            model=model,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            float32_head=float32_head,
            trust_remote_code=trust_remote_code,
            lora=lora,
            chat_template=chat_template,
            max_prompt_length=max_prompt_length,
            max_completion_length=max_completion_length,
        )
        sampler = default_sampler() if sampler is None else sampler
        super().__init__()
        self.save_hyperparameters()
        check_object("sampler", sampler, Sampler, note="such as VLLMSampler()")
        if seed is not None:
            check_number("seed", seed, "", whole=True)
        self.automatic_optimization = False
        self.strict_loading = True
        self.loader = loader
        self.model_name, self.dtype_name, self.lora = loader.model, loader.dtype, loader.lora
        self.gradient_checkpointing, self.float32_head = loader.gradient_checkpointing, loader.float32_head
        self.trust_remote_code, self.chat_template = loader.trust_remote_code, loader.chat_template
        self.max_prompt_length, self.max_completion_length = loader.max_prompt_length, loader.max_completion_length
        self.sampler = sampler
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self.sampling = sampling
        self.needs_reference = False
        """Whether the KL term needs the reference, the model before training; a subclass sets it."""
        self.optimization = optimization
        self.max_logp_difference = max_logp_difference
        self.seed = seed
        self.policy: Policy | None = None
        self.tokenizer: Any = None
        self._stops: Stops | None = None
        self.processes = Processes(0, 1)
        """The processes of the trainer; set by `setup`."""
        self.learner = PolicyLearner(optimization, self.lr_scheduler_step)
        self._reference: list[LogProbs] = []  # in a list: not a submodule, so neither trained nor checkpointed
        self.session = SamplerSession(max_logp_difference)
        self.watch = Stopwatch()

    @property
    def reference(self) -> LogProbs | None:
        """Gives log-probabilities of the model before training; None without a KL term."""
        return self._reference[0] if self._reference else None

    @property
    def stops(self) -> Stops:
        """What ends a completion, once tokenizer and policy are loaded."""
        if self._stops is None and self.policy is not None and self.tokenizer is not None:
            self._stops = find_stops(self.policy.model, self.tokenizer, self.sampling, self.chat_template_kwargs)
        return self._stops or Stops()

    def save_hyperparameters(
        self, *args: Any, ignore: Any = None, frame: FrameType | None = None, logger: bool = True
    ) -> None:
        """As Lightning's, with objects as plain values (`modules.plain`); called for each module, also yours.

        `hparams` has what the module was called with, by which `load_from_checkpoint` makes it again; loggers get
        `hparams_initial`, in which defaults are filled in.
        """
        caller = inspect.currentframe()
        frame = frame or (caller.f_back if caller is not None else None)
        given, held = plain.chosen(args, frame)
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
        kind, settings, old = hyperparameters.to_load(cls, checkpoint_path, kwargs)
        make = super(PolicyLightningModule, cast("Any", kind)).load_from_checkpoint
        only = True if weights_only is None else weights_only
        with as_file(checkpoint_path, without=old) as file:
            return cast("Self", make(file, map_location, None, strict, only, **settings))

    def setup(self, stage: str) -> None:
        """Checks strategy and limits and loads the tokenizer, before any weights.

        Raises:
            ValueError: If the strategy spreads weights in a way that they cannot be handed to an engine from, precision
                or dtype are none to train with, a `ModelCheckpoint` would write nothing, prompt and completion are longer
                than what the model was made for, the tokenizer does not fit the model, a stop is none that can come,
                or the sampler cannot be right on this model.
        """
        check_strategy(self.trainer)
        check_precision(self.trainer.precision, self.dtype_name)
        if stage == "fit":
            check_trained_dtype(self.dtype_name)
            check_savers(self.trainer)
        make_durable(self.trainer)
        share_buckets(self.trainer.strategy)
        self.processes = Processes(self.trainer.global_rank, self.trainer.world_size)
        if self.tokenizer is not None:
            return
        config = self.loader.load_config()
        if (check_model := getattr(self.sampler, "check_model", None)) is not None:
            check_model(self.model_name, config, self.trainer.strategy.root_device)
        self.tokenizer = self.loader.load_tokenizer(config, self.sampling)

    def configure_callbacks(self) -> list[Callback]:
        """Adds `SaveOnSigterm`, `RunFolder` and, beside a `ModelCheckpoint`, `SaveLastStep` to the Trainer's callbacks.

        Raises:
            TypeError: If a callback of the Trainer is none.
            ValueError: If the Trainer is to clip or accumulate gradients, which are the module's settings, two callbacks
                write the same checkpoints, or the strategy is for another number of processes.
        """
        check_trainer(self.trainer)  # in the first hook there is, before Lightning refuses without a remedy
        ignore_expected_warnings()
        callbacks = getattr(self.trainer, "callbacks", [])
        present = [c for c in callbacks if isinstance(c, RunFolder)]
        folder = present[0] if present else RunFolder()
        folder.enter(self.trainer)
        last = [SaveLastStep() for saver in callbacks if isinstance(saver, ModelCheckpoint)][:1]
        return [] if present else [folder, SaveOnSigterm(), *last]

    def configure_model(self) -> None:
        """Loads the policy, and the reference if there is one, and shards them under `ModelParallelStrategy`."""
        # Until `on_fit_start`, so that Lightning reads all that `configure_optimizers` says of schedules, and checks it.
        trainer = self._trainer  # None in `load_from_checkpoint`
        self.automatic_optimization = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if self.policy is not None:
            return
        sharding = self._sharding()
        self.policy = self.loader.load_policy(sharding, seed=self.run_seed())
        if self.lora is not None:
            leave_out_frozen(self.policy)
            # Or Lightning, told to be strict, would look for frozen weights in unsharded checkpoints; in sharded ones
            # torch.distributed.checkpoint misses what is not there in any case.
            self.strict_loading = sharding is None
        if self.needs_reference:
            self._reference.append(self.loader.load_reference(self.policy, sharding))
        if sharding is not None:
            self.register_state_dict_pre_hook(ShardsCheck())  # type: ignore[no-untyped-call]

    def _sharding(self) -> Sharding | None:
        if self.device_mesh is None:
            return None
        compute_dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
        return Sharding(mesh=self.device_mesh, compute_dtype=compute_dtype, is_first=self.trainer.global_rank == 0)

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule of `optimization`; override it for what these settings cannot say.

        It may return all that Lightning takes for one optimiser, also several schedules with their ``interval``,
        ``frequency``, ``monitor`` and ``strict`` (`modules.schedules`).
        """
        made = self.optimization.make(self.named_parameters(), lambda: self.trainer.estimated_stepping_batches)
        warn_of_lost_steps(made["optimizer"])
        return made

    def on_fit_start(self) -> None:
        """Checks what `configure_optimizers` returned.

        Raises:
            ValueError: If it has none of the policy's weights.
        """
        self.automatic_optimization = False
        check_optimizers(self.trainer.optimizers, self.parameters())
        self.learner.begin(self.trainer)

    def teardown(self, stage: str) -> None:
        """Closes the sampler, which gives the memory of its engine back."""
        self.session.close(self)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Problems are text: they stay as they are."""
        return batch

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def run_seed(self) -> int:
        return self.seed if self.seed is not None else int(os.environ.get("PL_GLOBAL_SEED", 0))
