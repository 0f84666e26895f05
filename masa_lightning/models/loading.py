"""Model name -> configuration, tokenizer, causal language model; every failure says what to do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from masa_lightning.models import tiny

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DType = Literal["float32", "bfloat16", "float16"]

TINY = "tiny"
"""Name of the embedded model."""


def model_path(name: str) -> str:
    """Resolves `name`: "tiny" is the embedded model; anything else is a folder or a hub name, returned as it is."""
    return str(tiny.PATH) if name == TINY else name


def load_config(name: str) -> PretrainedConfig:
    """Loads a model's configuration.

    Raises:
        FileNotFoundError: If there is no such folder and no such reachable model on the hub.
    """
    from transformers import AutoConfig

    path = model_path(name)
    if Path(path).is_dir() and not Path(path, "config.json").is_file():
        raise FileNotFoundError(
            f"model {name!r}: the folder exists but holds no config.json; expected a Hugging Face checkpoint "
            "(config.json, *.safetensors, tokenizer files). For a Lightning checkpoint, export it first: "
            "masa export CKPT OUT_DIR"
        )
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(path)
    except OSError as error:
        raise FileNotFoundError(
            f"model {name!r} was not found: it is neither a folder on this machine nor a hub model that could be reached "
            f"({str(error).splitlines()[0]}). Give the path of a Hugging Face checkpoint, a hub name with network "
            f"access, or {TINY!r} for the embedded model"
        ) from error
    return config


def load_tokenizer(name: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer, with a chat template.

    Args:
        name: As for `load_config`.
        chat_template: Replaces the tokenizer's own: Jinja text, or the path of a file with it.

    Raises:
        ValueError: If there is no chat template.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_path(name))
    if chat_template is not None:
        is_text = "{" in chat_template
        if not is_text and not Path(chat_template).is_file():
            raise FileNotFoundError(f"chat_template {chat_template!r} is neither Jinja text nor a file that exists")
        tokenizer.chat_template = chat_template if is_text else Path(chat_template).read_text()
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of model {name!r} has no chat template, which prompts are made with; set "
            "model.init_args.chat_template to a Jinja template or to a file with one, or use an instruct model"
        )
    return tokenizer


def load_model(
    name: str, dtype: DType, gradient_checkpointing: bool = False, *, empty: bool = False
) -> PreTrainedModel:
    """Loads a causal language model with its weights, in evaluation mode: dropout would falsify log-probabilities.

    Args:
        name: As for `load_config`.
        dtype: Of the weights.
        gradient_checkpointing: Recompute activations in the backward pass instead of keeping them.
        empty: Leave the weights as they come, for `sharding.shard`: memory that nobody wrote to takes up none.
    """
    from transformers import AutoModelForCausalLM
    from transformers.modeling_layers import GradientCheckpointingLayer

    config = load_config(name)  # its errors are the readable ones
    model: PreTrainedModel
    if empty:
        model = _empty_model(name, config, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(model_path(name), dtype=getattr(torch, dtype))
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # or it would not recompute; its parts, dropout among them, stay in eval mode
    return model


def _empty_model(name: str, config: PretrainedConfig, dtype: DType) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    with no_init_weights():
        auto: Any = AutoModelForCausalLM
        model: PreTrainedModel = auto.from_config(config, dtype=getattr(torch, dtype))
    model.tie_weights()
    with suppress(OSError):  # not every model has one
        model.generation_config = GenerationConfig.from_pretrained(model_path(name))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a completion: the tokenizer's and those of the generation configuration (often several).

    Raises:
        ValueError: If there is none, as every completion would then run to its limit.
    """
    generation = model.generation_config.eos_token_id if model.generation_config is not None else None
    several = generation if isinstance(generation, list) else [generation]
    ids = {i for i in (*several, tokenizer.eos_token_id) if i is not None}
    if not ids:
        raise ValueError(
            f"model {model.config.name_or_path!r} has no end-of-sequence token, neither in its tokenizer nor in its "
            "generation configuration; set tokenizer_config.json's eos_token"
        )
    return sorted(ids)


def context_length(config: PretrainedConfig) -> int | None:
    """Most tokens of prompt and completion that the model was made for; None where its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
