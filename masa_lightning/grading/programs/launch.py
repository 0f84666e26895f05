"""Starts the sides of grading a program in sandboxes, and asks a sandbox which tests are none."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final, NamedTuple

from masa_lightning.grading import programs
from masa_lightning.grading.programs.stdio import is_cases, read_cases
from masa_lightning.grading.sandbox.start import compiled, kill, start
from masa_lightning.types import CodeAnswer, Problem

WORKER: Final = Path(__file__).with_name("worker.py")
START_LIMIT: Final = 60.0  # seconds until a side runs; a busy machine and a cluster's file system are slow

_SECONDS: Final = 2.0  # that tests may take with a program that does nothing
_GRACE: Final = 10.0  # more, where they are deaf to the alarm
_BATCH: Final = 8 * 2**20  # characters of tests in a sandbox


class Tests(NamedTuple):
    """What a program has to pass."""

    preamble: str
    text: str

    @classmethod
    def of(cls, problem: Problem) -> Tests:
        """Returns the answer of a problem."""
        return cls(problem.answer.preamble if isinstance(problem.answer, CodeAnswer) else "", str(problem.answer))


def launch(seconds: float, stdin: int, stdout: int, stderr: int, **message: Any) -> subprocess.Popen[bytes]:
    """Starts one side in a sandbox; see `sandbox.start`, and `worker.main` for the message."""
    text, forks = json.dumps(message), message["role"] == "script"
    return start(
        WORKER, text, seconds=seconds, stdin=stdin, stdout=stdout, stderr=stderr, modules=_modules(), forks=forks
    )


@cache
def _modules() -> bytes:
    """Returns the modules of this package, for both sides."""
    return compiled(module.name for module in iter_modules(programs.__path__, f"{programs.__name__}."))


def why_unusable(tasks: Sequence[tuple[str, str]]) -> list[str]:
    """Runs tests against programs that do nothing; those that such a program passes are no tests.

    Call `sandbox.check_sandbox` before.

    Args:
        tasks: [N] preambles and tests, or "" and inputs with outputs, which are only read.

    Returns:
        [N] reasons why they are no tests; "" for those that are some, or where nothing could be said.
    """
    reasons = [""] * len(tasks)
    waiting = []
    for index, (_, text) in enumerate(tasks):
        if is_cases(text):
            try:
                read_cases(text)
            except ValueError as error:
                reasons[index] = str(error)
        else:
            waiting.append(index)
    while waiting:
        size, batch = 0, 0
        while batch < len(waiting) and size <= _BATCH:
            size += sum(map(len, tasks[waiting[batch]]))
            batch += 1
        started, found = _ask([tasks[index] for index in waiting[:batch]])
        if started and len(found) < batch:  # the others get a sandbox of their own
            found.append("its tests end the process that runs them")
        for index, reason in zip(waiting, found, strict=False):
            reasons[index] = reason
        if not started:
            break
        waiting = waiting[len(found) :]
    return reasons


def _ask(tasks: list[tuple[str, str]]) -> tuple[bool, list[str]]:
    """Returns whether a sandbox started, and a reason for each task, in order, as far as it came."""
    seconds = _SECONDS * len(tasks) + _GRACE
    nowhere = subprocess.DEVNULL
    process = launch(seconds, nowhere, nowhere, subprocess.PIPE, role="check", tasks=tasks, limit=_SECONDS)
    try:
        assert process.stderr is not None
        lines: list[str] = []
        deadline = time.monotonic() + START_LIMIT
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stderr, selectors.EVENT_READ)
            while len(lines) <= len(tasks) and selector.select(max(0.0, deadline - time.monotonic())):
                data = os.read(process.stderr.fileno(), 1 << 16)
                if not data:
                    break
                *complete, received = (received + data).split(b"\n")
                lines += [line.decode(errors="replace") for line in complete]
                if lines[:1] == ["ready"]:
                    deadline = time.monotonic() + _SECONDS + _GRACE
        return lines[:1] == ["ready"], [str(json.loads(line)) for line in lines[1 : len(tasks) + 1]]
    finally:
        kill(process)
