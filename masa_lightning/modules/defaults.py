"""What a module does without being told: its sampler, and the prompts, lengths and scale that its model was trained with."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

import masa_lightning
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models.loading import TINY, load_config, model_path
from masa_lightning.models.trained_with import ENTRY, TrainedWith, trained_with
from masa_lightning.modules.meta import MetaSettings
from masa_lightning.protocols import Sampler

_LENGTH = 512


def default_sampler() -> Sampler:
    """A `VLLMSampler` where vLLM is installed, else a `TransformersSampler`, and says so."""
    if find_spec("vllm") is not None:
        return cast("Sampler", masa_lightning.VLLMSampler())
    rank_zero_info(
        "sampler: TransformersSampler, for vLLM is not installed; with it rollouts take a fraction of the time"
    )
    return cast("Sampler", masa_lightning.TransformersSampler())


def default_lengths(model: str, prompt: int | None, completion: int | None) -> tuple[int, int]:
    """Limits of prompt and completion in tokens, where they are not given: those of the model's training, else 512 each.

    Args:
        model: As of the module.
        prompt: The limit that was given, if one was.
        completion: The limit that was given, if one was.
    """
    own = trained_with(model)
    known = (own.max_prompt_length, own.max_completion_length) if own is not None else (None, None)
    return (
        (known[0] or _LENGTH) if prompt is None else prompt,
        (known[1] or _LENGTH) if completion is None else completion,
    )


def default_meta_length(model: str, completion: int) -> int:
    """The limit of a meta completion in tokens, where none is given: that of the model's training, at most that of all."""
    own = trained_with(model)
    return min((own.max_meta_length if own is not None else None) or completion, completion)


def fitting_scale(model: str, meta: MetaSettings) -> MetaSettings:
    """Puts the scale of pass rates that a model was trained with where none is given.

    Args:
        model: As of the module.
        meta: The settings that were given.
    """
    own = trained_with(model)
    if own is None or meta.pass_rate_scale is not None:
        return meta
    return replace(meta, pass_rate_scale=own.pass_rate_scale)


def fitting_prompts(model: str, prompts: PromptTemplates) -> PromptTemplates:
    """Puts the prompts that a model was trained with in place of those that were left at their defaults, and says so.

    Args:
        model: As of the module; its folder says them (`models.trained_with`).
        prompts: Those that were given.
    """
    own, default = trained_with(model), PromptTemplates()
    if own is None:
        return prompts
    given = {f.name: getattr(prompts, f.name) for f in fields(prompts)}
    fitting = replace(own.prompts, **{name: text for name, text in given.items() if text != getattr(default, name)})
    if fitting != prompts and model != TINY:
        rank_zero_info(
            f"model {model!r}: prompts, lengths and the scale of pass rates that are not given are those that it was "
            "trained with"
        )
    return fitting


def warn_of_hub(model: str, prompts: PromptTemplates, *, trust_remote_code: bool = False) -> None:
    """Warns where a model of the hub was trained with prompts that a module does not have: names are not looked up there.

    Args:
        model: As of the module; for a folder nothing is done.
        prompts: Of the module.
        trust_remote_code: Of the module.
    """
    if Path(model_path(model)).is_dir():
        return
    config = load_config(model, trust_remote_code=trust_remote_code)
    known = TrainedWith.of(getattr(config, ENTRY, None), f"config.json of {model!r}")
    if known is not None and known.prompts != prompts:
        rank_zero_warn(
            f"model {model!r} was trained with other prompts than those of the module: {known.prompts}. Expected the same; "
            f"download it (hf download {model} --local-dir FOLDER) and give the folder as `model`, which brings them, or "
            "give them as `prompts`"
        )
