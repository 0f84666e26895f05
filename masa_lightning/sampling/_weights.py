"""How the policy's weights reach an engine: one storage for both, or copied at each hand-over."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

_log = logging.getLogger(__name__)

_WRAPPER_PARTS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


class HandOver:
    """Gives the weights of a policy to a vLLM engine, at once and at every call.

    Args:
        llm: The engine, of the policy's architecture.
        policy: The trainer's model.
    """

    def __init__(self, llm: Any, policy: nn.Module) -> None:
        self.policy = policy
        self._llm = llm
        self._slices: dict[str, torch.Tensor] | None = None
        self._copy()

    def __call__(self) -> None:
        """Makes the engine's weights the policy's; with shared storage, checks and mends the sharing."""
        if self._slices is None or not self._check_sharing(self._slices):
            self._copy()

    @property
    def shared(self) -> bool:
        """Whether policy and engine have one storage."""
        return self._slices is not None

    def share(self, level: int) -> None:
        """Points the policy's parameters at the engine's storage, all of them or none; says at `level` why none."""
        slices, reason = self._llm.apply_model(lambda model: match(model, self.policy))[0]
        if reason:
            _log.log(level, "weights are copied to vLLM at each hand-over and not shared with it: %s", reason)
            return
        for name, weight in named_weights(self.policy):
            weight.data = slices[name]
        self._slices = slices

    def _check_sharing(self, slices: Mapping[str, torch.Tensor]) -> bool:
        """Mends what no longer shares; where that is impossible, gives sharing up for good and returns False."""
        for name, weight in named_weights(self.policy):
            part = slices.get(name)
            if part is not None and weight.data_ptr() == part.data_ptr() and weight.dtype == part.dtype:
                continue
            if part is None or (weight.shape, weight.dtype, weight.device) != (part.shape, part.dtype, part.device):
                self._slices = None
                for _, shared in named_weights(self.policy):  # else the engine's weights would change under the policy
                    shared.data = shared.data.clone()
                _log.warning("%s no longer fits the storage it shared with vLLM; from now on weights are copied", name)
                return False
            part.copy_(weight.data)
            weight.data = part
        return True

    def _copy(self) -> None:
        """Streams all weights, one at a time, into the engine's model."""

        def load(model: Any) -> set[str]:
            loaded = model.load_weights((name, full(weight)) for name, weight in named_weights(self.policy))
            names = {name for name, _ in model.named_parameters()}
            return names - loaded if loaded is not None else set()

        for missing in self._llm.apply_model(load):
            if missing:
                some = ", ".join(sorted(missing)[:3])
                raise RuntimeError(
                    f"{len(missing)} of the engine's parameters got no weights from the policy ({some}, ...); expected "
                    "the policy to be the transformers model of model_path, without adapters left unmerged: "
                    "pass that model, or use TransformersSampler"
                )


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
