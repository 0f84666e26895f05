"""Keeping an engine in the trainer's process from changing the training around it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import random
import sys
from collections.abc import Iterator, Mapping
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


class _Settings:
    """Those of torch, as they are now, that hold for the whole process and that vLLM makes for itself.

    Its CPU build turns `torch.set_num_threads` off, so that threads are of CUDA alone.

    Args:
        cuda: Whether there are any of CUDA.
    """

    def __init__(self, cuda: bool) -> None:
        try:
            self._precision: str | None = torch.get_float32_matmul_precision()
        except RuntimeError:  # set for some backends alone, where torch will not say it of all
            self._precision = None
        self._of_backends = [backend.fp32_precision for backend in _multipliers()]
        self._cuda = (
            (torch.get_num_threads(), _backends.cuda.cudnn_sdp_enabled(), torch.cuda.current_stream()) if cuda else None
        )

    def put(self) -> None:
        """Makes them hold again."""
        if self._precision is not None:
            torch.set_float32_matmul_precision(self._precision)
        for backend, precision in zip(_multipliers(), self._of_backends, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision
        if self._cuda is None:
            return
        threads, cudnn_attention, stream = self._cuda
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
        _go_on(stream)


def _go_on(stream: torch.cuda.Stream) -> None:
    """Works on in another stream, after all that the present one was given: what one side writes, the other one reads."""
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_stream(stream)


_backends: Any = torch.backends  # for which torch has types of some names alone


def _multipliers() -> tuple[Any, Any]:
    return _backends.cuda.matmul, _backends.mkldnn.matmul


_of_engines: _Settings | None = None  # as the engines of this process left them, once there were any


@contextlib.contextmanager
def apart_from_training() -> Iterator[None]:
    """Lets vLLM work as if it had the process to itself, and leaves no trace of that in the training around it.

    The trainer's autocast, gradients, inference mode and default dtype are off inside: tensors that vLLM keeps for later
    must be plain ones. Random states are put back: vLLM seeds the global generators when it starts, and draws from torch's
    even where every request has a seed of its own. So are torch's settings for the process, such as the precision of
    float32 products, which vLLM finds inside as it left them.
    """
    import numpy as np

    global _of_engines
    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002 - vLLM seeds the old generator
    cuda_state = torch.cuda.get_rng_state() if cuda else None
    dtype, settings = torch.get_default_dtype(), _Settings(cuda)
    try:
        torch.set_default_dtype(torch.float32)
        if _of_engines is not None:
            _of_engines.put()
        if cuda and torch.cuda.current_stream() == torch.cuda.default_stream():  # where vLLM captures no graphs
            _go_on(torch.cuda.Stream())  # type: ignore[no-untyped-call]
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast("cpu", enabled=False),
            # Of one dtype, whatever the Trainer's, or functions that vLLM compiled once would be compiled anew.
            torch.autocast("cuda", dtype=torch.bfloat16, enabled=False) if cuda else contextlib.nullcontext(),
        ):
            yield
    finally:
        _of_engines = _Settings(cuda)
        settings.put()
        torch.set_default_dtype(dtype)
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        if cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state)


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Shows no bars of tqdm: of some, such as that of CUDA graphs, vLLM asks no setting."""
    from tqdm.std import tqdm

    bar: Any = tqdm
    make = bar.__init__

    def make_silent(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs | {"disable": True})

    bar.__init__ = make_silent
    try:
        yield
    finally:
        bar.__init__ = make


@contextlib.contextmanager
def garbage_looked_for_once() -> Iterator[None]:
    """Looks for garbage now, and not five times while an engine is made inside: that is most of the time it takes on CPU.

    vLLM freezes Python's heap when an engine is ready, and thaws it when it ends: here it is frozen from the start.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    except BaseException:
        gc.unfreeze()
        raise


def give_memory_back() -> None:
    """Gives what nobody holds any more to the system: freed tensors stay with Python, torch and the C library else."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)


def let_frames_go(package: str) -> None:
    """Takes the tracebacks off errors that modules of a package keep.

    A module that tries an import, as vLLM's of audio tries torchcodec, may keep the error. That holds all frames which were
    under way, and so, to the end of the process, the policy and the Trainer for which vLLM was imported.

    Args:
        package: Its name.
    """
    for name, module in [*sys.modules.items()]:
        if name.partition(".")[0] == package:
            for value in [*getattr(module, "__dict__", {}).values()]:
                error = value if isinstance(value, BaseException) else None
                while error is not None and error.__traceback__ is not None:
                    error.__traceback__ = None
                    error = error.__cause__ or error.__context__


@contextlib.contextmanager
def no_compilation() -> Iterator[None]:
    """On CPU vLLM would compile one small function, which counts tokens likelier than the drawn one, for 10 s."""
    with torch.compiler.set_stance("force_eager"):
        yield
