"""What vLLM makes of an engine's weights once they are loaded: other layouts, and tensors that it computes from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch


class Layouts:
    """Parameters of an engine that are not what a checkpoint has, which is seen while the engine is made.

    Weights written over them later would be misread, or heeded only in part.
    """

    def __init__(self) -> None:
        self.derived: set[str] = set()
        """Names of those that vLLM computes from others."""
        self.changed: set[str] = set()
        """Names of those that it lays out anew."""
        self.derive_anew: list[Callable[[], None]] = []
        """Computes the derived ones, for weights that stand as a checkpoint has them."""

    def why_private(self) -> str:
        """Why weights cannot be written where they are; empty where they can."""
        names = sorted(self.changed | self.derived)
        return f"vLLM keeps {names[0]} in a layout of its own" if names else ""

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Compares parameters before and after vLLM works on them, while an engine is made."""
        from vllm.model_executor import model_loader

        base_loader: Any = model_loader.base_loader
        work = base_loader.process_weights_after_loading

        def work_watched(model: Any, model_config: Any, device: torch.device) -> None:
            before = {name: _looks(weight) for name, weight in model.named_parameters()}
            work(model, model_config, device)
            after = {name: _looks(weight) for name, weight in model.named_parameters()}
            storages = {look[0] for look in before.values()}  # a tied head takes the embedding's
            self.derived |= after.keys() - before.keys()
            self.changed |= {
                name
                for name in after.keys() & before.keys()
                if not (_same(after[name], before[name]) or after[name][0] in storages - {before[name][0]})
            }
            for owner in {name.rpartition(".")[0] for name in self.derived}:
                derive = model.get_submodule(owner).process_weights_after_loading
                self.derive_anew.append(partial(derive, model_config.dtype))

        base_loader.process_weights_after_loading = work_watched
        try:
            yield
        finally:
            base_loader.process_weights_after_loading = work


def _looks(weight: torch.Tensor) -> tuple[int, torch.Size, torch.Tensor]:
    """Where a parameter is, its shape, and about a thousand of its numbers."""
    flat = weight.detach().flatten()
    return weight.data_ptr(), weight.shape, flat[:: max(1, len(flat) // 1024)].clone()


def _same(one: tuple[int, torch.Size, torch.Tensor], other: tuple[int, torch.Size, torch.Tensor]) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2])
