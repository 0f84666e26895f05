"""Grading programs by the tests of a data set, in sandboxes: a hostile program costs its own verdict and nothing else."""

from __future__ import annotations

import json
import os
import re
import selectors
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from masa_lightning.functional import code_worker
from masa_lightning.functional.sandbox import check_sandbox, kill, start
from masa_lightning.types import Problem, ProgressFn

_START_LIMIT: Final = 60.0  # seconds until both sides run; a busy machine and a cluster's file system are slow
_MAX_REPORT: Final = 1 << 16  # bytes
_WORKER: Final = Path(code_worker.__file__)

_FENCE: Final = re.compile(r"([ \t]*)(`{3,})([^`]*)")
_LABELS: Final = ("", "py", "python", "python3")


class Task(NamedTuple):
    """What decides a verdict."""

    preamble: str
    program: str
    tests: str


class CodeGrader:
    """Grades completions by running their last block of Python code against the tests that are a problem's answer.

    The program runs in one sandbox and the tests in another, which calls the program's functions over pipes
    (`functional.code_worker`): a program can decide what its functions return, not what the verdict is. Values travel as
    copies, so tests cannot see that a function changes its arguments in place. A program that takes too long, dies or has
    no closed block of code is wrong; there is no verdict (None) where the sandbox fails or tests are no tests of a
    program. All that tests need but a program does not define, such as helpers, comes from ``metadata["preamble"]``, on
    which programs build; its functions without a body are for programs to define.

    Nothing is run without a sandbox, which needs Linux and bubblewrap (`functional.sandbox`). One that ends takes all its
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

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion by the tests of the problem at the same place; equal programs are run once.

        Args:
            problems: [N] their answers and preambles are used, no more.
            completions: [N] decoded completions.
            on_progress: Told (done, total) as verdicts come in.

        Returns:
            [N] verdicts; None where the sandbox failed, or the tests are broken.

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
            program = last_code_block(completion)
            if program is not None:
                task = Task(str(problem.metadata.get("preamble", "")), program, problem.answer)
                waiting.setdefault(task, []).append(index)
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

        if waiting:
            check_sandbox()
            self._run(waiting, finished)
        return verdicts

    def close(self) -> None:
        """Does nothing: no process outlives a call of `grade`."""

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


def last_code_block(completion: str) -> str | None:
    r"""Returns the last closed block of Python code, or of code without a label; None if there is none.

    >>> last_code_block("So:\n```python\nx = 1\n```\nand\n```bash\nls\n```")
    'x = 1\n'
    """
    found = None
    indent, fence, label, lines = "", "", "", [""]
    for line in completion.replace("\r\n", "\n").split("\n"):
        match = _FENCE.fullmatch(line)
        if match and not fence:
            indent, fence, label, lines = match[1], match[2], match[3].strip().lower(), []
        elif match and len(match[2]) >= len(fence) and not match[3].strip():
            if label in _LABELS:
                found = "".join(f"{text}\n" for text in lines)
            fence = ""
        else:
            lines.append(line.removeprefix(indent))  # a block in a list is indented with it
    return found


class _Trial:
    """A program and its tests in their two sandboxes."""

    def __init__(self, task: Task, timeout: float) -> None:
        self.task = task
        self.deadline = time.monotonic() + _START_LIMIT
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
            sides = (
                ("program", task.program, requested, reply, subprocess.DEVNULL),
                ("tests", task.tests, replied, request, subprocess.PIPE),
            )
            try:
                for role, text, stdin, stdout, stderr in sides:
                    message = json.dumps({"role": role, "preamble": task.preamble, "text": text})
                    self._processes.append(
                        start(_WORKER, message, seconds=timeout + 1, stdin=stdin, stdout=stdout, stderr=stderr)
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
        return None if not self._ready or words == b"broken\n" else words == b"pass\n"

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
