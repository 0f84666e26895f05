"""What vLLM makes of an engine's weights once they are loaded: other layouts, and tensors that it computes from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
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
        self.more_state = ""
        """Name of some tensor of the model that is neither parameter nor buffer; empty where there is none."""

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
            self.more_state = next(state_beside(model), "")
            for owner in {name.rpartition(".")[0] for name in self.derived}:
                self.derive_anew.append(partial(lay_out_anew, model.get_submodule(owner), dtype))

        with layouts_watched(look, compare):
            yield


def state_beside(model: nn.Module) -> Iterator[str]:
    """Names of tensors that a model holds beside its parameters and buffers, which a sleep of level 2 would lose.

    Those of a single number are left out: vLLM has one in each attention layer, for caches of 8 bits.
    """
    weights = [*model.parameters(), *model.buffers()]
    known = {weight.untyped_storage().data_ptr() for weight in weights}
    seen: set[int] = set()
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            for tensor in _tensors(value, seen) if attribute not in ("_parameters", "_buffers", "_modules") else ():
                here = tensor.numel() > 1 and tensor.device in {weight.device for weight in weights}
                if here and tensor.untyped_storage().data_ptr() not in known:
                    yield f"{name}.{attribute}".removeprefix(".")


def _tensors(value: object, seen: set[int], depth: int = 3) -> Iterator[torch.Tensor]:
    """Those in a value, in what it lists, and in attributes of vLLM's objects, such as kernels of attention."""
    if id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    parts: Iterable[object] = ()
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    elif depth and type(value).__module__.startswith("vllm"):
        parts = getattr(value, "__dict__", {}).values()
    for part in parts:
        yield from _tensors(part, seen, depth - 1)


_Look = tuple[int, torch.Size, torch.Tensor]


def _looks(weight: torch.Tensor) -> _Look:
    """Where a parameter is, its shape, and about a thousand of its numbers."""
    flat = weight.detach().flatten()
    return weight.data_ptr(), weight.shape, flat[:: max(1, len(flat) // 1024)].clone()


def _same(one: _Look, other: _Look) -> bool:
    return one[:2] == other[:2] and torch.equal(one[2], other[2])
