"""What vLLM does otherwise on CPU, so that it suits a process that trains as well."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from masa_lightning.sampling._draws import Draws
from masa_lightning.sampling._isolation import own_shared_memory


class PackedLayers:
    """Layers of an engine that compute with copies of their weights, which have another layout.

    vLLM makes the copies once, for weights that never change, and drops the weights; then weights written over a copy are
    misread. Here the weights stay what they are, and `pack` makes the copies anew.
    """

    def __init__(self) -> None:
        self.linears: list[Any] = []
        self.experts: list[_PackedExperts] = []
        self.derived: list[Callable[[], None]] = []
        """What computes other tensors from the weights, such as the parts of latent attention."""

    @contextlib.contextmanager
    def of_new_engine(self, processes: int) -> Iterator[None]:
        """Replaces three habits of vLLM while an engine is made, whose layers come here.

        It lays weights out anew; it binds the memory of the whole process to one NUMA node; and it looks at model classes in
        a subprocess, to spare a GPU, which takes 9 s.

        Args:
            processes: Number of those that make engines now.
        """
        from vllm.model_executor.layers import utils
        from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts
        from vllm.model_executor.models import registry

        lay_out_experts = CPUUnquantizedExperts.process_weights_after_loading

        def use_plain_linear(layer: Any, remove_weight: bool) -> None:
            layer.cpu_linear = F.linear
            if layer.weight.dim() == 2:  # else it is the layer of a convolution
                self.linears.append(layer)

        def use_copied_experts(kernel: Any, layer: nn.Module) -> None:
            self.experts.append(_PackedExperts(kernel, layer, lay_out_experts))

        replacements: list[tuple[Any, str, Any]] = [
            (utils, "dispatch_cpu_unquantized_gemm", use_plain_linear),
            (CPUUnquantizedExperts, "process_weights_after_loading", use_copied_experts),
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

    def pack(self) -> None:
        """Makes the copies anew, of the weights as they are now."""
        if self.linears:
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
        for layer in self.linears:
            # In bfloat16 vLLM may put another bias in the place of the one that it shares with the policy.
            if layer.weight.dtype == torch.float32 or getattr(layer, "bias", None) is None:
                dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
        for experts in self.experts:
            experts.pack()
        for derive in self.derived:
            derive()


class _PackedExperts:
    """The experts of one layer, which vLLM's kernel on CPU reads in a layout of its own.

    Args:
        kernel: vLLM's, which from now on reads the copies.
        layer: vLLM's, which has the weights.
        lay_out: Replaces the weights of a layer by those that the kernel reads.
    """

    def __init__(self, kernel: Any, layer: nn.Module, lay_out: Callable[[Any, nn.Module], None]) -> None:
        self._kernel, self._layer, self._lay_out = kernel, layer, lay_out
        self._copies = nn.Module()
        self.pack()
        compute = kernel.apply

        def apply(*, w1: torch.Tensor, w2: torch.Tensor, **options: Any) -> Any:
            return compute(w1=self._copies.w13_weight, w2=self._copies.w2_weight, **options)

        kernel.apply = apply

    def pack(self) -> None:
        self._copies = nn.Module()
        for name, weight in self._layer.named_parameters(recurse=False):
            self._copies.register_parameter(name, nn.Parameter(weight.detach(), requires_grad=False))
        self._lay_out(self._kernel, self._copies)


def draw_with_less_python(llm: Any) -> Draws:
    """Puts `Draws` in the place of what draws the engine's tokens."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    runner = llm.llm_engine.model_executor.driver_worker.worker.model_runner
    draws = runner.sampler.topk_topp_sampler = Draws(runner, apply_top_k_top_p)
    return draws
