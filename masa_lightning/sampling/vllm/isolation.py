"""Keeping an engine in the trainer's process from changing the training around it."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping

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
