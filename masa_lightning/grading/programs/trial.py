"""A program and its tests, each in a sandbox, and what comes of it."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack
from typing import Final, NamedTuple

from masa_lightning.grading.programs.launch import START_LIMIT, Tests, launch
from masa_lightning.grading.programs.stdio import is_cases, read_cases
from masa_lightning.grading.sandbox.start import kill

_MAX_REPORT: Final = 1 << 16  # bytes


class Task(NamedTuple):
    """What decides a verdict."""

    tests: Tests
    program: str


class Trial:
    """A program that is being tested.

    Args:
        task: The program and its tests.
        timeout: Seconds that it may take, from when both sides run.
        apart: Whether the program has but copies of what the tests give it.

    Attributes:
        deadline: When it is over, by `time.monotonic`.
        reports: Descriptor of what the tests report.
    """

    def __init__(self, task: Task, timeout: float, *, apart: bool = False) -> None:
        self.task = task
        self.apart = apart
        self.deadline = time.monotonic() + START_LIMIT
        self._timeout = timeout
        self._received = b""
        self._processes: list[subprocess.Popen[bytes]] = []
        with ExitStack() as ends:

            def pipe() -> tuple[int, int]:
                reading, writing = os.pipe()
                ends.callback(os.close, reading)
                ends.callback(os.close, writing)
                return reading, writing

            (requested, request), (replied, reply) = pipe(), pipe()
            has_cases = is_cases(task.tests.text)
            is_script = has_cases and not read_cases(task.tests.text).function
            nowhere, told = subprocess.DEVNULL, subprocess.PIPE
            sides = (
                ("script" if is_script else "program", task.program, requested, reply, nowhere),
                ("cases" if has_cases else "tests", task.tests.text, replied, request, told),
            )
            message = {"preamble": task.tests.preamble, "apart": apart}
            try:
                for role, text, stdin, stdout, stderr in sides:
                    self._processes.append(launch(timeout + 1, stdin, stdout, stderr, role=role, text=text, **message))
            except BaseException:
                self.close()
                raise
        channel = self._processes[1].stderr
        assert channel is not None
        self.reports = channel.fileno()

    def read(self) -> bool:
        """Takes in what the tests report; returns whether that was all."""
        data = os.read(self.reports, 1 << 12)
        waiting = not self._ready
        self._received += data
        if waiting and self._ready:  # the time to start is not the program's
            self.deadline = time.monotonic() + self._timeout
        return not data or len(self._received) > _MAX_REPORT

    @property
    def leans_on_changes(self) -> bool:
        """Whether the program passed and changed what the tests gave it: it may have changed what it is compared with."""
        return self._words == b"changed\n" and not self.apart

    @property
    def verdict(self) -> bool | None:
        """What the reports so far come to; a program that passes only if it is not held apart has none."""
        if not self._ready or self._words in (b"broken\n", b"unclear\n", b"nothing\n"):
            return None
        return self._words in (b"pass\n", b"changed\n") or (None if self.apart else False)

    def close(self) -> None:
        """Ends all processes."""
        for process in self._processes:
            kill(process)

    @property
    def _words(self) -> bytes:
        return self._received.partition(b"ready\n")[2]

    @property
    def _ready(self) -> bool:
        return b"ready\n" in self._received
