"""How the policy's weights reach an engine: one storage for both, or copied at each hand-over."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from posixpath import commonpath
from typing import Any

import torch
from torch import nn

_log = logging.getLogger(__name__)

_WRAPPER_PARTS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


class MissingWeightsError(RuntimeError):
    """The engine's model has parameters that the policy has no weights for."""


class HandOver:
    """Gives the weights of a policy to a vLLM engine, at once and at every call.

    The first time they go through the engine's own `load_weights`. That shows which rows of which of its parameters hold
    which weight; from then on they are copied there, or live there. Where no such rows exist, as in tensor parallel or with
    weights that vLLM rearranges, every time is as the first.

    Args:
        llm: The engine, of the policy's architecture.
        policy: The trainer's model.
        derived: Names of engine parameters that vLLM computes from others.
        private: Why the engine cannot take weights as they are but only through vLLM's own reload, which lays them out
            as its kernels want them; empty where it can.
    """

    def __init__(self, llm: Any, policy: nn.Module, derived: Collection[str] = (), private: str = "") -> None:
        self.policy = policy
        self.shared = False
        """Whether policy and engine have one storage."""
        self._places: dict[str, torch.Tensor] = {}  # goes before the engine does, whose memory these are
        self._llm = llm
        self._derived = frozenset(derived)
        self._private = private
        self._reason = private
        self._load()
        if not private:
            self._places, self._reason = llm.apply_model(lambda model: match(model, policy, self._derived))[0]

    def __call__(self) -> None:
        """Makes the engine's weights the policy's; with shared storage, checks and mends the sharing."""
        if not self.shared or not self._check_sharing():
            self._copy()

    def share(self, level: int) -> None:
        """Points the policy's parameters at the engine's storage, all of them or none; says at `level` why none."""
        reason = self._reason
        for name, weight in named_weights(self.policy):
            if reason:
                break
            place = self._places[name]
            if isinstance(weight, Merged):
                reason = f"{name} has an adapter, and the engine gets the sum of both"
            elif hasattr(weight, "full_tensor"):
                reason = f"{name} is spread over processes"
            elif (place.dtype, place.device) != (weight.dtype, weight.device):
                reason = f"{name} is {weight.dtype} on {weight.device}, vLLM's {place.dtype} on {place.device}"
        if reason:
            _log.log(level, "weights are copied to vLLM at each hand-over and not shared with it: %s", reason)
            return
        for name, weight in named_weights(self.policy):
            weight.data = self._places[name]
        self.shared = True

    def _check_sharing(self) -> bool:
        """Mends what no longer shares; where that is impossible, gives sharing up for good and returns False."""
        for name, weight in named_weights(self.policy):
            place = self._places.get(name)
            if place is not None and weight.data_ptr() == place.data_ptr() and weight.dtype == place.dtype:
                continue
            if place is None or (weight.shape, weight.dtype, weight.device) != (place.shape, place.dtype, place.device):
                self.shared = False
                for _, shared in named_weights(self.policy):  # else the engine's weights would change under the policy
                    shared.data = shared.data.clone()
                _log.warning("%s no longer fits the storage it shared with vLLM; from now on weights are copied", name)
                return False
            place.copy_(weight.data)
            weight.data = place
        return True

    def _copy(self) -> None:
        """Copies all weights to where the engine keeps them, one at a time."""
        weights = dict(named_weights(self.policy))
        if {name: place.shape for name, place in self._places.items()} != {n: w.shape for n, w in weights.items()}:
            self._load()
            return
        for name, weight in weights.items():
            self._places[name].copy_(full(weight))

    def _load(self) -> None:
        """Streams all weights, a layer at a time, into the engine's model."""
        for loaded, names in self._loaded():
            # vLLM 0.31 tells names of experts without the part of the module that holds them.
            also = [{*every, *(name.replace(".routed_experts.", ".") for name in every)} for every in names]
            known = zip(names, also, strict=True)
            missing = [every[0] for every, called in known if loaded is not None and not loaded & called]
            missing = sorted({*missing} - self._derived)
            if missing:
                some = ", ".join(missing[:3])
                raise MissingWeightsError(
                    f"{len(missing)} of the engine's parameters got no weights from the policy ({some}, ...); expected "
                    "the policy to be the transformers model of model_path, with adapters of plain LoRA at most: "
                    "pass that model, or use TransformersSampler"
                )

    def _loaded(self) -> list[tuple[set[str] | None, list[list[str]]]]:
        """Loads; of each part of the engine, names of the parameters it has loaded and all names of each that it has."""

        def names(model: Any) -> list[list[str]]:
            every: dict[int, list[str]] = {}
            for name, weight in model.named_parameters(remove_duplicate=False):
                every.setdefault(id(weight), []).append(name)
            return [*every.values()]

        if not self._private:
            every: list[tuple[set[str] | None, list[list[str]]]] = self._llm.apply_model(
                lambda model: (model.load_weights(checkpoint_weights(self.policy)), names(model))
            )
            return every
        loaded: list[set[str] | None] = []

        def listen(model: Any) -> list[list[str]]:
            load = model.load_weights

            def load_and_tell(weights: Any) -> Any:
                loaded.append(load(weights))
                return loaded[-1]

            model.load_weights = load_and_tell
            return names(model)

        every_name = self._llm.apply_model(listen)
        try:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": checkpoint_weights(self.policy)})
        finally:
            self._llm.apply_model(lambda model: delattr(model, "load_weights"))
        return [*zip(loaded, every_name, strict=True)]


@dataclass(frozen=True)
class Merged:
    """A weight and its LoRA adapter, which are added where the whole is asked for, as `DTensor` is put together there.

    Neither is changed, so that nothing drifts, and one sum at a time is held.

    Args:
        weight: [out, in], or [in, out] if transposed.
        down: [rank, in].
        up: [out, rank].
        scale: Of the adapter.
        transposed: Whether the layer keeps its weight the other way round.
    """

    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor
    scale: float
    transposed: bool

    @property
    def shape(self) -> torch.Size:
        return self.weight.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.weight.dtype

    def __len__(self) -> int:
        return len(self.weight)

    def full_tensor(self) -> torch.Tensor:
        """The sum; a collective where FSDP2 spreads its parts over processes."""
        weight, down, up = full(self.weight), full(self.down), full(self.up)
        left, right = (down.T, up.T) if self.transposed else (up, down)
        return torch.addmm(weight.to(up.dtype), left, right, alpha=self.scale).to(weight.dtype)


def is_tied(policy: nn.Module) -> bool:
    """Whether the head has no weights of its own."""
    model: Any = policy
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def named_weights(policy: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a model learns or loads: parameters, `Merged` where they have a LoRA adapter, and buffers of the checkpoint.

    A tied one comes once, as the embedding. Names are those of a model without wrappers.

    Raises:
        ValueError: If a layer has several adapters.
    """
    merged: dict[str, Merged] = {}
    adapters: set[nn.Parameter] = set()
    for name, module in policy.named_modules():
        if getattr(module, "base_layer", None) is None or not getattr(module, "lora_A", None):  # peft's
            continue
        layer: Any = module
        if len(layer.lora_A) > 1:
            raise ValueError(
                f"{name} has {len(layer.lora_A)} adapters, {[*layer.lora_A]}; expected one: delete the others"
            )
        ((key, down),) = layer.lora_A.items()
        weight, up, transposed = layer.base_layer.weight, layer.lora_B[key].weight, bool(layer.fan_in_fan_out)
        merged[f"{name}.base_layer.weight"] = Merged(weight, down.weight, up, layer.scaling[key], transposed)
        adapters |= {down.weight, up}
    temporary = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, module in policy.named_modules()
        for name in module._non_persistent_buffers_set
    }
    buffers = [(name, buffer) for name, buffer in policy.named_buffers() if name not in temporary]
    for name, parameter in (*policy.named_parameters(), *buffers):
        if parameter in adapters:
            continue
        weight = merged.get(name, parameter)
        for part in (*_WRAPPER_PARTS, "base_layer."):
            name = name.replace(part, "")
        yield name, weight


def checkpoint_weights(policy: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole weights under the names and in the shapes of a checkpoint, as transformers would save them.

    In memory transformers may keep them otherwise, such as all experts of a layer in one tensor. A layer at a time is put
    together and taken apart.
    """
    for _, layer in groupby(named_weights(policy), key=lambda named: _layer(named[0])):
        yield from _converted(policy, {name: full(weight) for name, weight in layer}).items()


def _layer(name: str) -> str:
    found = re.match(r".*?\.\d+\.", name)
    return found[0] if found else name


def _converted(policy: nn.Module, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion

    if not isinstance(policy, PreTrainedModel):
        return weights
    converted: dict[str, torch.Tensor] = revert_weight_conversion(policy, weights)
    return converted


def full(weight: torch.Tensor) -> torch.Tensor:
    """The whole of a weight that FSDP2 may have spread over processes."""
    gather: Callable[[], torch.Tensor] | None = getattr(weight, "full_tensor", None)
    return weight.detach() if gather is None else gather().detach()


def match(model: Any, policy: nn.Module, derived: Collection[str] = ()) -> tuple[dict[str, torch.Tensor], str]:
    """Finds the row slice of the engine's weights that holds each of the policy's, or says why that fails.

    Weights that FSDP2 spreads over processes are gathered: call it in all of them.

    Args:
        model: vLLM's model, its weights loaded from `policy`.
        policy: The trainer's model.
        derived: Names of engine parameters that vLLM computes from others.

    Returns:
        Slices by the policy's names and an empty string; or none, and the reason why some weight has none.
    """
    engine = {n: weight for n, weight in model.named_parameters(remove_duplicate=False) if n not in derived}
    weights = dict(named_weights(policy))
    saved_as = {name: _saved_as(policy, name, weight) for name, weight in weights.items()}
    lengths = {
        saved[0]: len(weights[name]) for name, saved in saved_as.items() if len(saved) == 1 and weights[name].shape
    }
    packed = getattr(model, "packed_modules_mapping", None) or {}
    fused_into = {part: (fused, parts) for fused, parts in packed.items() for part in parts}
    slices: dict[str, torch.Tensor] = {}
    claimed: dict[int, int] = {}  # by parameter, which may have several names
    for name, weight in weights.items():
        target, row = saved_as[name][0], 0
        if len(saved_as[name]) > 1:  # such as the experts of a layer
            parent = commonpath(saved.replace(".", "/") for saved in saved_as[name]).replace("/", ".")
            alike = {id(w): n for n, w in engine.items() if n.startswith(f"{parent}.") and w.shape == weight.shape}
            if len(alike) != 1:
                return {}, f"vLLM has no {name}"
            (target,) = alike.values()
        elif target not in engine:
            module, _, leaf = target.rpartition(".")
            parent, _, part = module.rpartition(".")
            if part not in fused_into:
                return {}, f"vLLM has no {target}"
            fused, parts = fused_into[part]
            target = f"{parent}.{fused}.{leaf}"
            siblings = [lengths.get(f"{parent}.{sibling}.{leaf}") for sibling in parts[: parts.index(part)]]
            if target not in engine or any(sibling is None for sibling in siblings):
                return {}, f"vLLM has no {target}"
            row = sum(sibling for sibling in siblings if sibling is not None)
        whole = engine[target].data
        if whole.is_inference():
            return {}, f"vLLM's {target} is an inference tensor, which cannot be trained"
        if whole.dim() == 0 or whole.shape[1:] != weight.shape[1:] or row + len(weight) > len(whole):
            return {}, f"{name} has shape {tuple(weight.shape)}, vLLM's {target} {tuple(whole.shape)}"
        slices[name] = whole[row : row + len(weight)]
        if not slices[name].is_contiguous():
            return {}, f"vLLM keeps {name} in another layout"
        key = id(engine[target])
        claimed[key] = claimed.get(key, 0) + math.prod(weight.shape)
    for target, whole in engine.items():
        if id(whole) not in claimed:
            return {}, f"vLLM's {target} is filled by no weight of the policy alone"
        if claimed[id(whole)] > whole.numel():
            return {}, f"several weights of the policy claim the same rows of {target}"
    # All of them, whatever comes of it: gathering is a collective.
    strange = [name for name, weight in weights.items() if not torch.equal(slices[name], full(weight).to(slices[name]))]
    return ({}, f"vLLM keeps {strange[0]} in another layout") if strange else (slices, "")


def _saved_as(policy: nn.Module, name: str, weight: torch.Tensor) -> list[str]:
    """Names that a weight has in a checkpoint; several where it is saved in parts."""
    return [*_converted(policy, {name: torch.empty(weight.shape, dtype=weight.dtype, device="meta")})]
