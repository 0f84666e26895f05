"""What a module does without being told: its sampler, and prompts and lengths of the embedded model."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.util import find_spec
from typing import cast

from lightning.pytorch.utilities import rank_zero_info

import masa_lightning
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.models import tiny
from masa_lightning.models.loading import TINY
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
    """Limits of prompt and completion in tokens, where they are not given: 512 each, and 64 and 192 of the embedded model.

    Args:
        model: As of the module.
        prompt: The limit that was given, if one was.
        completion: Likewise.
    """
    own = (tiny.MAX_PROMPT_LENGTH, tiny.MAX_COMPLETION_LENGTH) if model == TINY else (_LENGTH, _LENGTH)
    return own[0] if prompt is None else prompt, own[1] if completion is None else completion


def default_meta_length(model: str, completion: int) -> int:
    """The limit of a meta completion in tokens, where none is given: that of all, and 64 of the embedded model."""
    return min(tiny.MAX_META_LENGTH, completion) if model == TINY else completion


def fitting_prompts(model: str, prompts: PromptTemplates) -> PromptTemplates:
    """Puts the prompts that the embedded model was trained on in place of those that were left at their defaults."""
    if model != TINY:
        return prompts
    default = PromptTemplates()
    given = {f.name: getattr(prompts, f.name) for f in fields(prompts)}
    return replace(tiny.PROMPTS, **{name: text for name, text in given.items() if text != getattr(default, name)})
