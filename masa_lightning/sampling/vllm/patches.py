"""Keeps what vLLM changes for its own models from every other user of the same classes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def classes_of_transformers_kept() -> Iterator[Callable[[Any], None]]:
    """Leaves the classes of transformers as they are, although vLLM's transformers backend changes them in place.

    It makes the decoder's class compilable: with another base, `__init__` and `__call__`, which older models of the class,
    such as the policy, cannot be called with, and later ones cannot be made with.

    Yields:
        A function that takes vLLM's model, and gives those parts of it that have such a class a subclass with the changes.
    """
    from vllm.model_executor.models import transformers

    base: Any = transformers.base
    decorator = base.support_torch_compile
    before: dict[type, tuple[tuple[type, ...], dict[str, Any]]] = {}
    twins: dict[type, type] = {}

    def decorate(**options: Any) -> Callable[[type], type]:
        def apply(cls: type) -> type:
            before.setdefault(cls, (cls.__bases__, dict(cls.__dict__)))
            decorated: type = decorator(**options)(cls)
            return decorated

        return apply

    def restore() -> None:
        for cls, (bases, members) in before.items():
            changed = {name: value for name, value in cls.__dict__.items() if members.get(name) is not value}
            changed = {name: value for name, value in changed.items() if name not in ("__dict__", "__weakref__")}
            added = tuple(base for base in cls.__bases__ if base not in bases)
            for name in changed:
                if name in members:
                    setattr(cls, name, members[name])
                else:
                    delattr(cls, name)
            cls.__bases__ = bases
            names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
            twins[cls] = type(cls.__name__, (cls, *added), names | changed)

    def give_twins(model: Any) -> None:
        for module in model.modules():
            if type(module) in twins:
                module.__class__ = twins[type(module)]

    base.support_torch_compile = decorate
    try:
        yield give_twins
    finally:
        base.support_torch_compile = decorator
        restore()


def ensure_expert_group(tensor_parallel_size: int) -> None:
    """Makes the process group of experts where an earlier engine of this process, with a dense model, made the others only.

    Args:
        tensor_parallel_size: Processes that share one engine.
    """
    from vllm.distributed import parallel_state as state

    parallel_state: Any = state
    if not parallel_state.model_parallel_is_initialized() or parallel_state._EP is not None:
        return
    world = parallel_state.get_world_group()
    starts = range(0, world.world_size, tensor_parallel_size)
    parallel_state._EP = parallel_state.init_model_parallel_group(
        [[*range(start, start + tensor_parallel_size)] for start in starts],
        world.local_rank,
        torch.distributed.get_backend(world.device_group),
        group_name="ep",
    )
