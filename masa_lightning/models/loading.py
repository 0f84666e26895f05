"""Model name -> configuration, tokenizer, causal language model; every failure says what to do."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from masa_lightning.checks import TRUSTED
from masa_lightning.models import tiny
from masa_lightning.models.turns import end_of_turn

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DType = Literal["float32", "bfloat16", "float16"]

TINY = "tiny"
"""Name of the embedded model."""


def model_path(name: str) -> str:
    """Resolves `name`: "tiny" is the embedded model; anything else is a folder or a hub name, returned as it is."""
    return str(tiny.PATH) if name == TINY else name


@contextmanager
def _without_its_code(name: str) -> Iterator[None]:
    """Says what to do about a model that wants code of its own to be run, or whose weights are a pickle with code.

    Raises:
        ValueError: In place of the errors of transformers and torch, which do not name our settings.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"model {name!r} has a file of weights that is damaged or holds more than tensors; expected *.safetensors. "
            "Nothing in it was run; take another source of this model"
        ) from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"model {name!r} brings Python code of its own, which is not run unless you say so; expected an architecture "
            "that transformers has itself. If you have read that code and trust it, set trust_remote_code to true (`masa "
            "export` has --trust-remote-code); it is never taken from a checkpoint or its run"
        ) from error


def load_config(name: str, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """Loads a model's configuration.

    Args:
        name: "tiny", a folder, or a name on the hub.
        trust_remote_code: Run Python code that the model brings.

    Raises:
        FileNotFoundError: If there is no such folder and no such reachable model on the hub.
        ValueError: If the model does not predict each token from those before it, or wants code of its own to be run.
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
        with _without_its_code(name):
            config: PretrainedConfig = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except OSError as error:
        raise FileNotFoundError(
            f"model {name!r} was not found: it is neither a folder on this machine nor a hub model that could be reached "
            f"({str(error).splitlines()[0]}). Give the path of a Hugging Face checkpoint, a hub name with network "
            f"access, or {TINY!r} for the embedded model"
        ) from error
    _refuse_kernels(name, config)
    _check_causal(name, config, trust_remote_code)
    return config


def _refuse_kernels(name: str, config: PretrainedConfig) -> None:
    """Kernels of the hub are code, too, and a configuration may name them."""
    for part in (config, *(getattr(config, part, None) for part in config.sub_configs)):
        attention = getattr(part, "_attn_implementation", None)
        if attention is not None and "/" in attention:
            raise ValueError(
                f"model {name!r} asks for attention by {attention!r}, code of the hub, which is never run here; take "
                "attn_implementation out of its config.json"
            )


def _check_causal(name: str, config: PretrainedConfig, trusted: bool) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING_NAMES

    found = ""
    if config.is_encoder_decoder:
        found = "an encoder and a decoder"
    elif config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        found = "tokens that see those behind them, as in BERT"
    elif config.model_type == "rwkv":
        found = "a state that transformers mixes up where it decodes several rows"
    elif trusted and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return  # of its own code
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        found = "no causal language model in transformers"
    if found:
        raise ValueError(
            f"model {name!r} is of type {config.model_type!r}, which has {found}; expected a causal (decoder-only) "
            "language model of text, such as those of docs/models.md"
        )


def refuse_links_out(name: str) -> None:
    """Refuses a folder in which a file that an export copies is a link to what lies elsewhere on this machine.

    The links of the hub's cache, which lead to the files of the same model, are as they should be.

    Args:
        name: As for `load_config`.

    Raises:
        ValueError: If there is one.
    """
    folder = Path(model_path(name)).absolute()
    whole = folder.resolve()
    if whole.parent.name == "snapshots":
        whole = whole.parents[1]
    for path in folder.rglob("*") if (folder / "config.json").is_file() else []:
        if path.is_symlink() and path.suffix != ".safetensors" and not path.resolve().is_relative_to(whole):
            raise ValueError(
                f"model {name!r}: {path.name} is a link to {str(path.resolve())!r}, outside of the folder, whose text would "
                "be exported; expected files. Copy it there if it belongs to the model"
            )


def load_tokenizer(
    name: str, chat_template: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Loads a model's tokenizer, with a chat template.

    Args:
        name: As for `load_config`.
        chat_template: Replaces the tokenizer's own: Jinja text, or the path of a file with it.
        trust_remote_code: As for `load_config`.

    Raises:
        ValueError: If there is no tokenizer, or no chat template.
    """
    from transformers import AutoTokenizer

    with _without_its_code(name):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_path(name), trust_remote_code=trust_remote_code
        )
    if len(tokenizer) <= len(tokenizer.added_tokens_decoder):  # what transformers makes of no files
        raise ValueError(
            f"model {name!r} has no tokenizer: no tokens but special ones; expected tokenizer.json, or the files of the "
            "model's own kind, beside its weights"
        )
    if chat_template is not None:
        is_text = "{" in chat_template
        if not is_text and not Path(chat_template).is_file():
            raise FileNotFoundError(f"chat_template {chat_template!r} is neither Jinja text nor a file that exists")
        tokenizer.chat_template = chat_template if is_text else Path(chat_template).read_text()
    if tokenizer.chat_template is None:
        raise ValueError(
            f"the tokenizer of model {name!r} has no chat template, which prompts are made with; set "
            "model.chat_template to a Jinja template or to a file with one, or use an instruct model"
        )
    return tokenizer


def load_model(
    name: str,
    dtype: DType,
    gradient_checkpointing: bool = False,
    *,
    empty: bool = False,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Loads a causal language model with its weights, in evaluation mode: dropout would falsify log-probabilities.

    Args:
        name: As for `load_config`.
        dtype: Of the weights.
        gradient_checkpointing: Recompute activations in the backward pass instead of keeping them.
        empty: Leave the weights as they come, for `sharding.shard`: memory that nobody wrote to takes up none.
        trust_remote_code: As for `load_config`.

    Raises:
        ValueError: If the checkpoint lacks weights, which would then be random; or its layers cannot be recomputed.
    """
    from transformers import AutoModelForCausalLM
    from transformers.modeling_layers import GradientCheckpointingLayer

    if dtype not in get_args(DType):
        raise ValueError(f"dtype is {dtype!r}; expected one of {', '.join(get_args(DType))}")
    config = load_config(name, trust_remote_code=trust_remote_code)  # its errors are the readable ones
    model: PreTrainedModel
    auto: Any = AutoModelForCausalLM
    if empty:
        model = _empty_model(name, config, dtype, trust_remote_code)
    else:
        with _without_its_code(name):
            model, info = auto.from_pretrained(
                model_path(name),
                dtype=getattr(torch, dtype),
                trust_remote_code=trust_remote_code,
                weights_only=True,
                output_loading_info=True,
            )
        missing = sorted(info["missing_keys"])
        if missing:
            raise ValueError(
                f"the checkpoint of model {name!r} lacks {len(missing)} of the weights of {type(model).__name__} "
                f"({', '.join(missing[:3])}), which would be random; expected all of them. Choose a checkpoint of a causal "
                "language model, not one of a classifier, a reward model or a body without its head"
            )
    if trust_remote_code:
        setattr(model, TRUSTED, True)
    if gradient_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise ValueError(
                f"gradient_checkpointing is on, and {type(model).__name__} ({name!r}) has no layers that can be computed "
                "again; set gradient_checkpointing to false"
            )
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module.training = True  # or it would not recompute
                module.register_forward_pre_hook(_without_dropout)
                module.register_forward_hook(_as_before, always_call=True)
    return model


def _without_dropout(layer: Any, _: Any) -> None:
    """Puts a layer into evaluation mode once it has decided to recompute: some drop out what their parts gave."""
    layer.was_training, layer.training = layer.training, False


def _as_before(layer: Any, *_: Any) -> None:
    layer.training = layer.was_training


def _empty_model(name: str, config: PretrainedConfig, dtype: DType, trust_remote_code: bool) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.initialization import no_init_weights

    with no_init_weights():
        auto: Any = AutoModelForCausalLM
        model: PreTrainedModel = auto.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code
        )
    model.tie_weights()
    with suppress(OSError):  # not every model has one
        model.generation_config = GenerationConfig.from_pretrained(model_path(name))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def stop_token_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any] | None = None
) -> list[int]:
    """All tokens that end a completion: the tokenizer's, those of the generation configuration, the template's end of turn.

    Args:
        model: With its generation configuration, which often lists several.
        tokenizer: With a chat template.
        template_kwargs: Extra variables of the template.

    Raises:
        ValueError: If there is none, as every completion would then run to its limit.
    """
    generation = model.generation_config.eos_token_id if model.generation_config is not None else None
    several = generation if isinstance(generation, list) else [generation]
    ids = {i for i in (*several, tokenizer.eos_token_id) if i is not None}
    turn = end_of_turn(tokenizer, template_kwargs)
    if turn is not None and not turn.text and turn.token_ids[0] < vocabulary_size(model.config):
        ids |= {*turn.token_ids}
    if not ids and (turn is None or not turn.text):
        raise ValueError(
            f"model {model.config.name_or_path!r} has no end-of-sequence token, neither in its tokenizer nor in its "
            "generation configuration, and its chat template ends answers with none; set tokenizer_config.json's eos_token, "
            "or sampling.stop_token_ids"
        )
    return sorted(ids)


_LENGTHS = (  # names of the most tokens in configurations; the smallest counts
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "max_target_positions",
    "context_length",
)


def context_length(config: PretrainedConfig) -> int | None:
    """Most tokens of prompt and completion that the model was made for; None where its configuration does not say.

    RoPE scaling lengthens what it was trained with: "linear" by its factor, "yarn" to its factor times the original
    length, unless ``max_position_embeddings`` is that already. "dynamic" does not: above it, what a token computes depends
    on the longest row beside it.
    """
    text = config.get_text_config()
    lengths = [value for name in _LENGTHS if isinstance(value := getattr(text, name, None), int)]
    if not lengths:
        return None
    length = min(lengths)
    longest = float(length)
    for rope in _rope_parameters(text):
        kind, factor = rope.get("rope_type", rope.get("type")), rope.get("factor") or 1.0
        if kind == "linear" and "gemma3" not in text.model_type:  # whose length is the scaled one
            longest = max(longest, length * factor)
        elif kind == "yarn":
            original = rope.get("original_max_position_embeddings") or length
            longest = max(longest, original * factor)
    return int(longest)


def _rope_parameters(config: PretrainedConfig) -> list[dict[str, Any]]:
    """Those of RoPE, one for each kind of layer that has its own."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return nested or [parameters]


def check_vocabulary(name: str, rows: float, tokenizer: PreTrainedTokenizerBase) -> None:
    """Compares a tokenizer with a model's embedding, which may well be larger.

    Special tokens beyond it that no text has are let pass, such as Gemma 3's for images; `check_prompt` finds them where
    a chat template uses them.

    Args:
        name: As for `load_config`.
        rows: Of the model's embedding, as `vocabulary_size`.
        tokenizer: The model's.

    Raises:
        ValueError: If texts may have tokens that the embedding has no row for.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special -= {tokenizer.eos_token_id, tokenizer.pad_token_id}
    _refuse_beyond(name, rows, tokenizer, {*tokenizer.get_vocab().values()} - special)


def check_prompt(name: str, rows: float, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> None:
    """Compares a prompt's token ids with a model's embedding; as `check_vocabulary`."""
    if max(ids, default=0) >= rows:
        _refuse_beyond(name, rows, tokenizer, {*ids})


def vocabulary_size(config: PretrainedConfig) -> float:
    """Rows of a model's embedding; infinite where its configuration does not say."""
    return getattr(config.get_text_config(), "vocab_size", None) or math.inf


def _refuse_beyond(name: str, rows: float, tokenizer: PreTrainedTokenizerBase, ids: set[int]) -> None:
    beyond = sorted(i for i in ids if i >= rows)
    if beyond:
        some = ", ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} is {i}" for i in beyond[:3])
        raise ValueError(
            f"the tokenizer of model {name!r} gives {len(beyond)} tokens that the model's embedding of {rows} rows has no "
            f"row for ({some}); expected ids below {rows}. If tokens were added to the tokenizer, call "
            "model.resize_token_embeddings(len(tokenizer)), train the new rows, and save the model again; else take the "
            "tokenizer that the model came with"
        )
