"""Keeping an engine in the trainer's process from changing the training around it."""

from __future__ import annotations

import contextlib
import os
import random
import uuid
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch


@contextlib.contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Sets environment variables inside, and unsets those that are None."""
    before = {name: os.environ.get(name) for name in changes}

    def put(values: Mapping[str, str | None]) -> None:
        for name, value in values.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    put(changes)
    try:
        yield
    finally:
        put(before)


@contextlib.contextmanager
def apart_from_training() -> Iterator[None]:
    """Lets vLLM work as if it had the process to itself, and leaves no trace of that in the training around it.

    The trainer's autocast, gradients and inference mode are off inside: tensors that vLLM keeps for later must be plain
    ones. Random states are put back: vLLM seeds the global generators when it starts, and draws from torch's even where
    every request has a seed of its own.
    """
    import numpy as np

    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002 - vLLM seeds the old generator
    cuda_state = torch.cuda.get_rng_state() if cuda else None
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False) if cuda else contextlib.nullcontext(),
        ):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)


@contextlib.contextmanager
def no_compilation() -> Iterator[None]:
    """On CPU vLLM would compile one small function, which counts tokens likelier than the drawn one, for 10 s."""
    with torch.compiler.set_stance("force_eager"):
        yield


@contextlib.contextmanager
def own_shared_memory(processes: int) -> Iterator[None]:
    """Keeps the shared memory of tensor-parallel engines on CPU apart from that of other jobs, and of killed ones.

    vLLM gives it the same name in every job, and cannot start where a killed job left it behind.

    Args:
        processes: Number of those that make engines now; a collective.
    """
    operators: Any = torch.ops._C
    if processes == 1 or not hasattr(operators, "init_shm_manager"):
        yield
        return
    token = [uuid.uuid4().hex]
    torch.distributed.broadcast_object_list(token, src=0)
    init, join = operators.init_shm_manager, operators.join_shm_manager
    files: list[Path] = []

    def init_own(name: str, size: int, rank: int, threads: int) -> Any:
        files.append(Path(f"/dev/shm/{name}-{token[0]}_{rank}"))
        return init(f"{name}-{token[0]}", size, rank, threads)

    operators.init_shm_manager = init_own
    operators.join_shm_manager = lambda handle, name: join(handle, f"{name}-{token[0]}")
    try:
        yield
    finally:
        operators.init_shm_manager, operators.join_shm_manager = init, join
        for file in files:
            file.unlink(missing_ok=True)  # all processes have it open by now


def outlive_engine(llm: Any) -> None:
    """Lets an engine be dropped without the process groups of the trainer and of other engines, which vLLM would end."""
    client = llm.llm_engine.engine_core
    client._finalizer.detach()  # else it runs EngineCore.shutdown, which destroys all groups
    weakref.finalize(client, _free_memory, client.engine_core)


def _free_memory(engine_core: Any) -> None:
    engine_core.model_executor.shutdown()
    engine_core.scheduler.shutdown()
