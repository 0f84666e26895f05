"""What vLLM makes of an engine's weights once they are loaded: other layouts, and tensors that it computes from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

from masa_lightning.sampling.vllm.patches import lay_out_anew, layouts_watched


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
        before: dict[str, _Look] = {}

        def look(model: nn.Module) -> None:
            before.update({name: _looks(weight) for name, weight in model.named_parameters()})

        def compare(model: nn.Module, dtype: torch.dtype) -> None:
            after = {name: _looks(weight) for name, weight in model.named_parameters()}
            storages = {look[0] for look in before.values()}  # a tied head takes the embedding's
            self.derived |= after.keys() - before.keys()
            self.changed |= {
                name
                for name in after.keys() & before.keys()
                if not (_same(after[name], before[name]) or after[name][0] in storages - {before[name][0]})
            }
            for owner in {name.rpartition(".")[0] for name in self.derived}:
                self.derive_anew.append(partial(lay_out_anew, model.get_submodule(owner), dtype))

        with layouts_watched(look, compare):
            yield


_Look = tuple[int, torch.Size, torch.Tensor]


def _looks(weight: torch.Tensor) -> _Look:
    """Where a parameter is, its shape, and about a thousand of its numbers."""
    flat = weight.detach().flatten()
    return weight.data_ptr(), weight.shape, flat[:: max(1, len(flat) // 1024)].clone()


def _same(one: _Look, other: _Look) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2])
