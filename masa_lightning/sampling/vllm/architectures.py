"""Which models vLLM runs here and how; the others are refused before they cost anything."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from masa_lightning.sampling.vllm.patches import (
    ensure_expert_group,
    leaves_out_bias,
    load_model_class,
    rotate_without_kernel,
)

_INSTEAD = "use TransformersSampler, which runs every causal language model of transformers"

# Types of models with experts that come out otherwise on CPU than in transformers, or not at all: docs/models.md.
_OTHER_EXPERTS = {
    "ernie4_5_moe": "its router leaves out the bias that corrects the choice of experts",
    "phimoe": "its router does not run",
    "jetmoe": "they differ by more than 1 nat a token; the cause was not found",
    "lfm2_moe": "they differ by more than 1 nat a token; the cause was not found",
}


def check_experts(model_path: str, config: Any) -> None:
    """Looks at a model for an engine on CPU, before any weights are loaded.

    Args:
        model_path: Its name, for the error.
        config: Of transformers.

    Raises:
        ValueError: It has experts, and vLLM would not compute it as the policy does.
    """
    for part in (config, config.get_text_config()):
        if why := _OTHER_EXPERTS.get(part.model_type):
            raise ValueError(
                f"vLLM on CPU does not compute model {model_path!r} (of type {part.model_type!r}, with experts) as the "
                f"policy does: {why}; expected the same log-probabilities: {_INSTEAD}"
            )


def adapt_to_model(options: dict[str, Any], config: Any, on_cpu: bool, look_first: str) -> None:
    """Fits an engine's options to its model.

    Args:
        options: Of vLLM's `LLM`; changed in place.
        config: The policy's, of transformers.
        on_cpu: Whether the engine runs there.
        look_first: A sentence on the options of the user's, if there are any.

    Raises:
        ValueError: vLLM does not run the model, or not as the policy computes it.
    """
    import vllm

    path, length = options["model"], options["max_model_len"]
    where = f"vLLM {vllm.__version__} on {'CPU' if on_cpu else 'CUDA'}"
    _complete_configuration(options, config.get_text_config())
    try:
        with _silent():
            model = vllm.EngineArgs(**options).create_model_config()
    except Exception as error:
        raise ValueError(
            f"{where} does not take model {path!r} with max_model_length {length}: {_said(error)}{_missing(config)}\n"
            f"{look_first}Expected an architecture and a length that it runs: {_INSTEAD}"
        ) from error
    architecture = model.architecture
    if model.quantization is not None:
        raise ValueError(
            f"model {path!r} is quantised ({model.quantization}), and weights that are trained are not; expected plain "
            "weights: give the path of a checkpoint without quantization_config"
        )
    if model.runner_type != "generate" or model.is_encoder_decoder:
        raise ValueError(
            f"{where} runs {architecture} ({path!r}) as a {model.runner_type} model that is no causal language model; "
            "expected one that generates text from its own tokens: choose another model"
        )
    if model.is_moe:
        ensure_expert_group(options["tensor_parallel_size"])
    if on_cpu and model.has_inner_state:  # cached prefixes of recurrent layers need prompts in parts
        options["enable_prefix_caching"] = False
    if on_cpu and model.use_mla:  # or vLLM packs latent attention once where the processor has AMX, and in 16 bits only
        options.setdefault("attention_backend", "CPU_MLA")


def _complete_configuration(options: dict[str, Any], config: Any) -> None:
    """Tells vLLM what transformers knows without being told, and vLLM does not."""
    length, made_for = options["max_model_len"], getattr(config, "max_position_embeddings", None)
    for rope in _ropes(config):
        scaled = rope.get("factor", 1) * (rope.get("original_max_position_embeddings") or 0)
        if rope.get("rope_type") == "yarn" and made_for is not None and made_for < length <= scaled:
            options["hf_overrides"]["max_position_embeddings"] = length
    known: dict[str, Any] = {}
    if config.model_type == "deepseek_v3":  # how it chooses experts
        known = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    options["hf_overrides"] |= {name: value for name, value in known.items() if not hasattr(config, name)}
    if config.model_type == "cohere2" and config.sliding_window is not None:
        options["hf_overrides"]["sliding_window"] = config.sliding_window - 1  # vLLM does not count the token itself


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the traceback that vLLM logs of an error before it raises another one."""
    log = logging.getLogger("vllm")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _missing(config: Any) -> str:
    """Why vLLM's code for a model does not import, such as a package that is not installed."""
    try:
        for name in config.architectures or []:
            load_model_class(name)
    except ImportError as error:
        return f" ({error})"
    except Exception:
        return ""
    return ""


def _ropes(config: Any) -> list[dict[str, Any]]:
    """Settings of rotary embeddings; several where they differ between layers."""
    parameters = getattr(config, "rope_parameters", None) or {}
    several = [value for value in parameters.values() if isinstance(value, dict)]
    return several or [parameters]


def _said(error: Exception) -> str:
    """What an error says, without what pydantic adds."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and "validation error" not in line and not line.startswith("For further")]
    text = " ".join(lines) or type(error).__name__
    return text.removeprefix("Value error, ").split(" [type=")[0].split(" Supported architectures:")[0]


def adapt_model(model: Any) -> None:
    """Mends two faults of vLLM's model on CPU, or refuses it.

    Raises:
        ValueError: It would choose experts otherwise than the policy.
    """
    if any(hasattr(module, "kv_lora_rank") for module in model.modules()):  # latent attention
        rotate_without_kernel(model)
    for name, module in model.named_modules():
        if leaves_out_bias(module):
            raise ValueError(
                f"vLLM's router on CPU leaves out the correction bias of {name} ({type(model).__name__}), and chooses other "
                f"experts than the policy; expected the same ones: {_INSTEAD}"
            )
