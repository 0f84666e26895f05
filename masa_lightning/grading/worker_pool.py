"""Processes that grade mathematics and can be killed, and the loop that gives them tasks."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import masa_lightning.types

_START_LIMIT: Final = 120.0  # seconds to import mpmath; cluster file systems are slow
_MAX_LOSSES: Final = 3  # workers in a row that are lost without having taken a task
_MAX_LINE: Final = 1 << 20  # bytes without a line end from a worker that has gone mad


class Task(NamedTuple):
    """What decides a verdict."""

    box: str
    """What the last box of a completion holds."""
    answer: str


class WorkerPool:
    """The workers of one process. They end with it, or when nothing refers to the pool any more.

    Attributes:
        owner: Number of the process whose workers they are; after a fork the child has none.
        close: Ends the workers.
    """

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.workers: list[_Worker] = []
        self._losses = 0
        # At exit or when collected, without a reference to self.
        self.close = weakref.finalize(self, _kill_all, self.workers, self.owner)

    def run(
        self, tasks: Sequence[Task], size: int, timeout: float, on_verdict: Callable[[Task, bool | None], None]
    ) -> None:
        """Grades all tasks. Every turn waits, decides a task or counts a loss, so that it ends whatever workers do.

        Args:
            tasks: Different ones.
            size: Number of workers, at most.
            timeout: Seconds that a task may take.
            on_verdict: Told each task's verdict; None where a worker was lost on it.

        Raises:
            RuntimeError: If no worker can be kept running.
        """
        pending = deque(tasks)
        self._losses = 0
        left = len(tasks)
        while left:
            self._start(min(size, left))
            for worker in list(self.workers):
                if worker.ready and worker.task is None and pending:
                    if worker.send(pending[0], timeout):
                        pending.popleft()
                    else:  # died while idle: not the task's fault
                        self._lose(worker)
            readable = self._wait()
            for worker in list(self.workers):
                task = worker.task
                verdict, gone = worker.receive() if worker.stdout in readable else (None, False)
                lost = gone or time.monotonic() >= worker.deadline
                if verdict is None and lost:
                    self._lose(worker)
                if task is not None and (verdict is not None or lost):
                    self._losses = 0
                    left -= 1
                    on_verdict(task, verdict)

    def _start(self, size: int) -> None:
        while len(self.workers) < size:
            try:
                self.workers.append(_Worker())
            except OSError as error:
                self._count_loss(str(error))

    def _lose(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        words = worker.last_words()
        late = not worker.ready and time.monotonic() >= worker.deadline
        worker.kill()
        if worker.task is None:
            code = worker.process.returncode
            self._count_loss(words or (f"not ready after {_START_LIMIT:g} s" if late else f"exit status {code}"))

    def _count_loss(self, reason: str) -> None:
        self._losses += 1
        if self._losses >= _MAX_LOSSES:
            raise RuntimeError(
                f"{self._losses} grading workers in a row could not be kept running with {sys.executable}; "
                f"the last one said: {reason or 'nothing'}\n"
                f"Run `{' '.join(worker_command())}` to see why (it should print a line and wait); if mpmath is "
                f"missing there, `{sys.executable} -m pip install mpmath`."
            )

    def _wait(self) -> set[int]:
        """Waits for news or for the first deadline; returns the descriptors with news."""
        if not self.workers:
            return set()
        first = min(worker.deadline for worker in self.workers)
        with selectors.DefaultSelector() as selector:
            for worker in self.workers:
                selector.register(worker.stdout, selectors.EVENT_READ)
            limit = None if first == float("inf") else max(0.0, first - time.monotonic())
            return {key.fd for key, _ in selector.select(limit)}


class _Worker:
    """One process, and the task that it has.

    Attributes:
        ready: Whether it has started.
        task: What it grades now.
        deadline: When it is lost, by `time.monotonic`.
        stdout: Descriptor of its replies.
    """

    def __init__(self) -> None:
        # Python may find the package by a path that the parent set up itself; "safe" keeps the folder of the run off it.
        root = str(Path(masa_lightning.types.__file__).parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `kill`
        try:
            self.process = subprocess.Popen(
                worker_command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=env,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        except BaseException:
            self._errors.close()
            raise
        assert self.process.stdin is not None and self.process.stdout is not None
        self._stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._stdin, False)
        os.set_blocking(self.stdout, False)
        self.ready = False
        self.task: Task | None = None
        self.deadline = time.monotonic() + _START_LIMIT
        self._sent = 0  # tasks so far, which number them
        self._received = b""  # of a line that has not ended

    def send(self, task: Task, timeout: float) -> bool:
        """Gives it a task; returns whether it could take it."""
        message = {"id": self._sent + 1, "box": task.box, "answer": task.answer, "limit": timeout}
        line = json.dumps(message).encode() + b"\n"
        try:
            sent = os.write(self._stdin, line) == len(line)  # the pipe is empty and holds far more than a line
        except OSError:
            return False
        self._sent += 1
        self.task, self.deadline = task, time.monotonic() + timeout
        return sent

    def receive(self) -> tuple[bool | None, bool]:
        """Takes in what it has written; returns the verdict on its task, if that is there, and whether it is gone."""
        try:
            data = os.read(self.stdout, 1 << 16)
        except BlockingIOError:
            return None, False
        except OSError:
            return None, True
        *lines, self._received = (self._received + data).split(b"\n")
        if not data or len(self._received) > _MAX_LINE:
            return None, True
        verdict = None
        for line in lines:
            with suppress(ValueError, RecursionError):  # what is no message is passed over
                verdict = verdict if (found := self._take(json.loads(line))) is None else found
        return verdict, False

    def _take(self, message: object) -> bool | None:
        """Takes in a message; returns the verdict on its task, if it is that."""
        if not isinstance(message, dict):
            return None
        if message.get("ready") is True and not self.ready:
            self.ready, self.deadline = True, float("inf")
        elif self.task is not None and message.get("id") == self._sent and isinstance(message.get("correct"), bool):
            self.task, self.deadline = None, float("inf")
            return bool(message["correct"])
        return None

    def kill(self) -> None:
        """Ends the process and lets go of everything."""
        with suppress(OSError):
            self.process.kill()
        with suppress(OSError, subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout, self._errors):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def last_words(self) -> str:
        """Returns the end of what the process wrote to its standard error."""
        with suppress(OSError, ValueError):
            self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, self._errors.tell() - 2000))
            return self._errors.read().decode(errors="replace").strip()
        return ""


def worker_command() -> list[str]:
    """Returns the command line of a worker."""
    return [sys.executable, "-m", "masa_lightning.grading.math_worker"]


def _kill_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not end its parent's workers
        for worker in workers:
            worker.kill()
    workers.clear()
