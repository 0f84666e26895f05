"""Grading programs by the tests of a data set, in sandboxes: a hostile program costs its own verdict and nothing else."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from typing import Final, NamedTuple

from masa_lightning.grading.programs.blocks import program_of
from masa_lightning.grading.programs.launch import START_LIMIT, launch, why_unusable
from masa_lightning.grading.programs.names import tested_names
from masa_lightning.grading.programs.stdio import is_cases, read_cases
from masa_lightning.grading.sandbox.start import check_sandbox, kill
from masa_lightning.protocols import ProgressFn
from masa_lightning.types import Problem

_MAX_REPORT: Final = 1 << 16  # bytes


class Tests(NamedTuple):
    """What a program has to pass."""

    preamble: str
    text: str


class Task(NamedTuple):
    """What decides a verdict."""

    tests: Tests
    program: str


class CodeGrader:
    """Grades completions by running their programs against the tests that are a problem's answer.

    The program is the last block of Python code that defines what is tested (`grading.programs.blocks`). It runs in one
    sandbox and the tests in another, which calls the program's functions over pipes: a program can decide what its
    functions return, not what the verdict is. Values travel as copies, so tests see that a function changes its arguments
    in place only where they call it and leave its result alone. A program that takes too long, dies or has no closed block
    of code is wrong. All that tests need but a program does not define, such as helpers, comes from
    ``metadata["preamble"]``, on which programs build; its functions without a body are for programs to define.

    Tests are Python that asserts, also in functions and classes as `pytest` and `unittest` run them; or inputs and outputs
    (`grading.programs.stdio`). A program passes if nothing fails and at least one assertion about it held. Tests that a
    program passes which does nothing are no tests: a warning names the problem, and there is no verdict (None). Nor is
    there one where the sandbox fails, or where it would rest on the program's own word, such as its `__eq__`.

    Nothing is run without a sandbox, which needs Linux and bubblewrap (`grading.sandbox`). One that ends takes all its
    processes with it, and no process outlives a call of `grade`.

    Args:
        workers: Number of completions that are graded at a time, >= 1.
        timeout: Seconds that a program may take for all its tests, > 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, workers: int = 2, timeout: float = 10.0) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1 completion at a time")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout is {timeout}; expected a finite number of seconds > 0")
        self.workers = workers
        self.timeout = timeout
        self._unusable: dict[bytes, str] = {}  # by a digest of tests: why they are none, "" if they are some

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion by the tests of the problem at the same place; equal programs are run once.

        Args:
            problems: [N] their answers and preambles are used, no more.
            completions: [N] decoded completions.
            on_progress: Told (done, total) as verdicts come in.

        Returns:
            [N] verdicts; None where there is none.

        Raises:
            ValueError: If there is not one problem a completion.
            RuntimeError: If this machine has no safe sandbox; the message names the remedy.
        """
        if len(problems) != len(completions):
            raise ValueError(f"got {len(problems)} problems and {len(completions)} completions; expected one each")
        total = len(completions)
        verdicts: list[bool | None] = [False] * total
        waiting: dict[Task, list[int]] = {}
        for index, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            tests = Tests(str(problem.metadata.get("preamble", "")), problem.answer)
            program = program_of(completion, tested_names(*tests), prints=is_cases(tests.text))
            if program is not None:
                waiting.setdefault(Task(tests, program), []).append(index)
        if waiting:
            check_sandbox()
            self._check([(task.tests, problems[places[0]].id) for task, places in waiting.items()])
        for task in [task for task in waiting if self._unusable.get(_digest(task.tests))]:
            for index in waiting.pop(task):
                verdicts[index] = None
        done = total - sum(map(len, waiting.values()))
        if on_progress is not None and done:
            on_progress(done, total)

        def finished(task: Task, verdict: bool | None) -> None:
            nonlocal done
            for index in waiting[task]:
                verdicts[index] = verdict
            done += len(waiting[task])
            if on_progress is not None:
                on_progress(done, total)

        self._run(waiting, finished)
        return verdicts

    def close(self) -> None:
        """Does nothing: no process outlives a call of `grade`."""

    def _check(self, tests: Sequence[tuple[Tests, str]]) -> None:
        """Finds out which tests are none, once, and warns of them with the problems' ids."""
        new = {digest: pair for pair in tests if (digest := _digest(pair[0])) not in self._unusable}
        reasons = why_unusable([pair[0] for pair in new.values()])
        self._unusable.update(zip(new, reasons, strict=True))
        for (_, name), reason in zip(new.values(), reasons, strict=True):
            if reason:
                warnings.warn(  # in each process: it grades problems of its own
                    f"problem {name!r} has no verdicts: {reason}. Expected are assertions about what the program "
                    "defines, or inputs and outputs; mend them, or leave the problem out",
                    stacklevel=3,
                )

    def _run(self, tasks: Iterable[Task], finished: Callable[[Task, bool | None], None]) -> None:
        pending = deque(tasks)
        running: list[_Trial] = []
        try:
            while pending or running:
                while pending and len(running) < self.workers:
                    running.append(_Trial(pending.popleft(), self.timeout))
                readable = _wait(running)
                for trial in list(running):
                    if (trial.reports in readable and trial.read()) or time.monotonic() >= trial.deadline:
                        running.remove(trial)
                        trial.close()
                        finished(trial.task, trial.verdict)
        finally:  # an interrupt, say
            for trial in running:
                trial.close()


class _Trial:
    """A program and its tests in their two sandboxes."""

    def __init__(self, task: Task, timeout: float) -> None:
        self.task = task
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
            roles = (
                "script" if _is_script(task.tests.text) else "program",
                "cases" if is_cases(task.tests.text) else "tests",
            )
            nowhere, told = subprocess.DEVNULL, subprocess.PIPE
            sides = (
                (roles[0], task.program, requested, reply, nowhere),
                (roles[1], task.tests.text, replied, request, told),
            )
            try:
                for role, text, stdin, stdout, stderr in sides:
                    self._processes.append(
                        launch(timeout + 1, stdin, stdout, stderr, role=role, preamble=task.tests.preamble, text=text)
                    )
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
    def verdict(self) -> bool | None:
        """What the reports so far come to."""
        words = self._received.partition(b"ready\n")[2]
        return None if not self._ready or words in (b"broken\n", b"unclear\n") else words == b"pass\n"

    def close(self) -> None:
        """Ends all processes."""
        for process in self._processes:
            kill(process)

    @property
    def _ready(self) -> bool:
        return b"ready\n" in self._received


def _wait(trials: Sequence[_Trial]) -> set[int]:
    """Waits for news or for the first deadline; returns the descriptors with news."""
    first = min(trial.deadline for trial in trials)
    with selectors.DefaultSelector() as selector:
        for trial in trials:
            selector.register(trial.reports, selectors.EVENT_READ)
        return {key.fd for key, _ in selector.select(max(0.0, first - time.monotonic()))}


def _digest(tests: Tests) -> bytes:
    return sha256("\0".join(tests).encode("utf-8", "surrogatepass")).digest()


def _is_script(text: str) -> bool:
    return is_cases(text) and not read_cases(text).function
