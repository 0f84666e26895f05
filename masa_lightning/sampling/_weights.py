"""The policy's weights as an engine sees them: by the names of a checkpoint, and as slices of fused weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_WRAPPER_PARTS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


def is_tied(policy: nn.Module) -> bool:
    """Whether the head has no weights of its own."""
    names = [name for name, _ in named_weights(policy)]
    return "lm_head.weight" not in names


def named_weights(policy: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters under the names of a checkpoint; a tied one comes once, as the embedding."""
    for name, weight in policy.named_parameters():
        for part in _WRAPPER_PARTS:
            name = name.replace(part, "")
        yield name, weight


def full(weight: torch.Tensor) -> torch.Tensor:
    """The whole of a weight that FSDP2 may have spread over processes."""
    gather: Callable[[], torch.Tensor] | None = getattr(weight, "full_tensor", None)
    return weight.detach() if gather is None else gather().detach()


def match(model: Any, policy: nn.Module) -> tuple[dict[str, torch.Tensor], str]:
    """Finds the row slice of the engine's weights that holds each of the policy's, or says why that fails.

    Args:
        model: vLLM's model, its weights loaded from `policy`.
        policy: The trainer's model.

    Returns:
        Slices by the policy's names, and an empty string or the reason why some weight has none.
    """
    engine = dict(model.named_parameters())
    weights = dict(named_weights(policy))
    fused_into = {part: (fused, parts) for fused, parts in model.packed_modules_mapping.items() for part in parts}
    slices: dict[str, torch.Tensor] = {}
    claimed: dict[str, int] = {}
    for name, weight in weights.items():
        if hasattr(weight, "full_tensor"):
            return {}, f"{name} is spread over processes"
        target, row = name, 0
        if name not in engine:
            module, _, leaf = name.rpartition(".")
            parent, _, part = module.rpartition(".")
            if part not in fused_into:
                return {}, f"vLLM has no {name}"
            fused, parts = fused_into[part]
            target = f"{parent}.{fused}.{leaf}"
            siblings = [weights.get(f"{parent}.{sibling}.{leaf}") for sibling in parts[: parts.index(part)]]
            if target not in engine or any(sibling is None for sibling in siblings):
                return {}, f"vLLM has no {target}"
            row = sum(len(sibling) for sibling in siblings if sibling is not None)
        whole = engine[target].data
        if (whole.dtype, whole.device) != (weight.dtype, weight.device):
            return {}, f"{name} is {weight.dtype} on {weight.device}, vLLM's {whole.dtype} on {whole.device}"
        if whole.is_inference():
            return {}, f"vLLM's {target} is an inference tensor, which cannot be trained"
        if whole.dim() == 0 or whole.shape[1:] != weight.shape[1:] or row + len(weight) > len(whole):
            return {}, f"{name} has shape {tuple(weight.shape)}, vLLM's {target} {tuple(whole.shape)}"
        part_of_whole = whole[row : row + len(weight)]
        if not part_of_whole.is_contiguous() or not torch.equal(part_of_whole, weight.data):
            return {}, f"vLLM keeps {name} in another layout"
        slices[name] = part_of_whole
        claimed[target] = claimed.get(target, 0) + math.prod(weight.shape)
    for target, count in claimed.items():
        if count > engine[target].numel():
            return {}, f"several weights of the policy claim the same rows of {target}"
    return slices, ""
