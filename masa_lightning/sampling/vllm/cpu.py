"""What vLLM does otherwise on CPU, so that it suits a process that trains as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from masa_lightning.sampling._draws import Draws
from masa_lightning.sampling._isolation import own_shared_memory


@contextlib.contextmanager
def adapted_to_a_trainer(linears: list[nn.Module], processes: int) -> Iterator[None]:
    """Replaces three habits of vLLM on CPU while an engine is made, which do not suit a process that trains as well.

    It packs linear weights, which empties the originals and breaks `load_weights`; it binds the memory of the whole
    process to one NUMA node; and it looks at model classes in a subprocess, to spare a GPU, which takes 9 s.

    Args:
        linears: Gets the layers that it would have packed, for `pack`.
        processes: Number of those that make engines now.
    """
    from vllm.model_executor.layers import utils
    from vllm.model_executor.models import registry

    def use_plain_linear(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = F.linear
        linears.append(layer)

    replacements: list[tuple[Any, str, Any]] = [
        (utils, "dispatch_cpu_unquantized_gemm", use_plain_linear),
        (torch.ops._C, "init_cpu_memory_env", lambda nodes: None),
        (registry, "_run_in_subprocess", lambda look: look()),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements]
    try:
        for owner, name, value in replacements:
            setattr(owner, name, value)
        with own_shared_memory(processes):
            yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def draw_with_less_python(llm: Any) -> Draws:
    """Puts `Draws` in the place of what draws the engine's tokens."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    draws = runner.sampler.topk_topp_sampler = Draws(runner, apply_top_k_top_p)
    return draws


def pack(linears: Sequence[Any]) -> None:
    """Makes anew the packed copies that vLLM's linear layers on CPU compute with, and keeps the originals."""
    if not linears:
        return
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for layer in linears:
        # In bfloat16 vLLM may put another bias in the place of the one that it shares with the policy.
        if layer.weight.dtype == torch.float32 or getattr(layer, "bias", None) is None:
            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
