"""A model's name and how it is to be loaded -> tokenizer, policy and reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import torch

from masa_lightning.checks import check_choice, check_number, check_object
from masa_lightning.models import loading
from masa_lightning.models.lora import LoRA, WithoutAdapters, add_adapters
from masa_lightning.models.policy import Policy
from masa_lightning.models.steady import make_steady
from masa_lightning.models.stops import read_stops
from masa_lightning.protocols import LogProbs
from masa_lightning.settings import SamplingSettings

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(kw_only=True, frozen=True)
class Sharding:
    """How weights are spread over processes.

    Args:
        mesh: Lightning's device mesh.
        compute_dtype: What weights are gathered and computed in, where it differs from what is kept.
        is_first: Whether this is the process that loads them; the others get their shards from it.
    """

    mesh: DeviceMesh
    compute_dtype: torch.dtype | None
    is_first: bool


@dataclass(kw_only=True, frozen=True)
class PolicyLoader:
    """Loads what a module trains and samples from, after it has looked whether the settings fit the model.

    Args:
        model: Hugging Face folder or hub name.
        dtype: Of the weights.
        gradient_checkpointing: Recompute activations in the backward pass.
        float32_head: Whether the output layer computes in float32 in any precision.
        trust_remote_code: Run Python code that the model brings.
        lora: Adapters to train in place of all weights.
        chat_template: Replaces the tokenizer's.
        max_prompt_length: Longest prompt, tokens.
        max_completion_length: Most tokens of a completion.
    """

    model: str
    dtype: loading.DType
    gradient_checkpointing: bool
    float32_head: bool
    trust_remote_code: bool
    lora: LoRA | None
    chat_template: str | None
    max_prompt_length: int
    max_completion_length: int

    def __post_init__(self) -> None:
        if self.lora is not None:
            check_object("lora", self.lora, LoRA)
        for name in ("max_prompt_length", "max_completion_length"):
            check_number(name, getattr(self, name), ">= 1", whole=True, note="token")
        check_choice("dtype", self.dtype, get_args(loading.DType))
        for name in ("gradient_checkpointing", "float32_head", "trust_remote_code"):
            check_choice(name, getattr(self, name), (False, True))

    @property
    def max_length(self) -> int:
        """Most tokens of prompt and completion together."""
        return self.max_prompt_length + self.max_completion_length

    def load_config(self) -> PretrainedConfig:
        """Loads the model's configuration.

        Raises:
            ImportError: If adapters are wanted, and peft is missing.
            ValueError: If it is of no causal language model.
        """
        if self.lora is not None:
            self.lora.config()
        return loading.load_config(self.model, trust_remote_code=self.trust_remote_code)

    def load_tokenizer(self, config: PretrainedConfig, sampling: SamplingSettings) -> Any:
        """Loads the tokenizer, before any weights.

        Args:
            config: The model's.
            sampling: With the stops of the user.

        Raises:
            ValueError: If prompt and completion are longer than what the model was made for, the tokenizer does not fit the
                model, or a stop is none that can come.
        """
        context = loading.context_length(config)
        if context is not None and self.max_length > context:
            raise ValueError(
                f"max_prompt_length {self.max_prompt_length} + max_completion_length {self.max_completion_length} = "
                f"{self.max_length} tokens, but model {self.model!r} was made for {context}; lower one of the two"
            )
        tokenizer = loading.load_tokenizer(self.model, self.chat_template, trust_remote_code=self.trust_remote_code)
        rows = loading.vocabulary_size(config)
        loading.check_vocabulary(self.model, rows, tokenizer)
        read_stops(tokenizer, sampling, model=self.model, rows=rows)
        return tokenizer

    def load_policy(self, sharding: Sharding | None, *, seed: int) -> Policy:
        """Loads the policy, with adapters if there are any, and shards it.

        Args:
            sharding: None for all weights in each process.
            seed: Of the adapters' start.
        """
        model = self._load(sharding, self.gradient_checkpointing)
        if self.lora is not None:
            add_adapters(model, self.lora, seed)
        return self._spread(self._steady(model), sharding)

    def load_reference(self, policy: Policy, sharding: Sharding | None) -> LogProbs:
        """Gives the model before training: loaded once more, or the policy without its adapters.

        Args:
            policy: Of `load_policy`.
            sharding: As there.
        """
        if self.lora is not None:
            return WithoutAdapters(policy)
        reference = self._steady(self._load(sharding))
        return self._spread(reference.eval().requires_grad_(False), sharding)

    def _load(self, sharding: Sharding | None, gradient_checkpointing: bool = False) -> PreTrainedModel:
        return loading.load_model(
            self.model,
            self.dtype,
            gradient_checkpointing,
            empty=sharding is not None and not sharding.is_first,
            trust_remote_code=self.trust_remote_code,
        )

    def _steady(self, model: PreTrainedModel) -> Policy:
        make_steady(model, self.max_length)
        return Policy(model, float32_head=self.float32_head)

    @staticmethod
    def _spread(policy: Policy, sharding: Sharding | None) -> Policy:
        """Shards a policy, before another one is loaded."""
        if sharding is not None:
            from masa_lightning.models.sharding import shard

            shard(policy, sharding.mesh, compute_dtype=sharding.compute_dtype)
        return policy
