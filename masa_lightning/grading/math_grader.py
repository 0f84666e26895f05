"""Grading in worker processes that can be killed: a hostile answer costs its own verdict and nothing else."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import masa_lightning.types
from masa_lightning.functional.boxes import last_box
from masa_lightning.functional.grading import quick_box_verdict
from masa_lightning.protocols import ProgressFn
from masa_lightning.types import Problem

_START_LIMIT: Final = 120.0  # seconds to import mpmath; cluster file systems are slow
_MAX_LOSSES: Final = 3  # workers in a row that are lost without having taken a task
_MAX_LINE: Final = 1 << 20  # bytes without a line end from a worker that has gone mad

Task = tuple[str, str]  # (box content, answer)


class MathGrader:
    """Grades completions: what numbers and words decide in this process, the rest in worker processes.

    The workers start when first needed, one answer at a time each. One that exceeds the limit or dies is replaced, and
    its answer gets no verdict (None). They are plain subprocesses: `multiprocessing` would import the user's script
    again, and forking is unsafe beside the threads of an inference engine. POSIX only. Copies and pickles leave the
    workers behind. One call at a time uses them; calls from several threads queue up.

    Args:
        workers: Number of processes, >= 1.
        timeout: Seconds an answer may take in a worker that is ready, > 0.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, workers: int = 2, timeout: float = 5.0) -> None:
        if workers < 1:
            raise ValueError(f"workers is {workers}; expected at least 1 grading process")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout is {timeout}; expected a finite number of seconds > 0")
        self.workers = workers
        self.timeout = timeout
        self._pool: _Pool | None = None
        self._lock = threading.Lock()

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion against the answer of the problem at the same place.

        Args:
            problems: [N] their answers are used, no more.
            completions: [N] decoded completions.
            on_progress: Told (done, total) as verdicts come in.

        Returns:
            [N] verdicts; None where a worker was lost on the answer.

        Raises:
            ValueError: If there is not one problem a completion.
            RuntimeError: If no worker can be started.
        """
        if len(problems) != len(completions):
            raise ValueError(f"got {len(problems)} problems and {len(completions)} completions; expected one each")
        total = len(completions)
        verdicts: list[bool | None] = [None] * total
        waiting: dict[Task, list[int]] = {}
        seen: dict[tuple[str | None, str], bool | None] = {}
        for index, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            box = last_box(completion)
            key = (box, problem.answer)
            if key not in seen:
                seen[key] = quick_box_verdict(box, problem.answer)
            verdicts[index] = seen[key]
            if verdicts[index] is None and box is not None:
                waiting.setdefault((box, problem.answer), []).append(index)

        tasks = list(waiting)
        done = total - sum(map(len, waiting.values()))
        if on_progress is not None and done:
            on_progress(done, total)

        def finished(task: int, verdict: bool | None) -> None:
            nonlocal done
            for index in waiting[tasks[task]]:
                verdicts[index] = verdict
            done += len(waiting[tasks[task]])
            if on_progress is not None:
                on_progress(done, total)

        if tasks:
            with self._lock:
                self._run(tasks, finished)
        return verdicts

    def close(self) -> None:
        """Ends the workers; `grade` starts new ones when it needs them."""
        with self._lock:
            self._close_pool()

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self.workers, "timeout": self.timeout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.workers, self.timeout = state["workers"], state["timeout"]
        self._pool, self._lock = None, threading.Lock()

    def _run(self, tasks: Sequence[Task], finished: Callable[[int, bool | None], None]) -> None:
        if self._pool is None or self._pool.owner != os.getpid():  # after a fork the workers are the parent's
            self._pool = _Pool()
        try:
            self._pool.run(tasks, self.workers, self.timeout, finished)
        except BaseException:  # an interrupt, say: workers in the middle of a task are of no more use
            self._close_pool()
            raise

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class _Worker:
    """One grading process and the task it has."""

    def __init__(self) -> None:
        # Python may find the package by a path that the parent set up itself; "safe" keeps the folder of the run off it.
        root = str(Path(masa_lightning.types.__file__).parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `kill`
        try:
            self.process = subprocess.Popen(
                worker_command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.errors,
                env=env,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its workers
            )
        except BaseException:
            self.errors.close()
            raise
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.stdin, False)
        os.set_blocking(self.stdout, False)
        self.ready = False
        self.task: int | None = None
        self.message_id = -1
        self.deadline = time.monotonic() + _START_LIMIT
        self._buffer = b""

    def send(self, task: int, message_id: int, content: Task, timeout: float) -> bool:
        """Gives the worker a task; False if it cannot take it."""
        message = {"id": message_id, "box": content[0], "answer": content[1], "limit": timeout}
        line = json.dumps(message).encode() + b"\n"
        try:
            sent = os.write(self.stdin, line) == len(line)  # the pipe is empty and holds far more than a line
        except OSError:
            return False
        self.task, self.message_id, self.deadline = task, message_id, time.monotonic() + timeout
        return sent

    def receive(self) -> list[dict[str, Any]] | None:
        """Returns the messages that have come in; None if the worker is gone. What is no message is passed over."""
        try:
            data = os.read(self.stdout, 1 << 16)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if not data or len(self._buffer) > _MAX_LINE:
            return None
        messages = []
        for line in lines:
            with suppress(ValueError, RecursionError):
                message = json.loads(line)
                if isinstance(message, dict):
                    messages.append(message)
        return messages

    def kill(self) -> None:
        """Ends the process and lets go of everything."""
        with suppress(OSError):
            self.process.kill()
        with suppress(OSError, subprocess.TimeoutExpired):
            self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def last_words(self) -> str:
        """Returns the end of what the process wrote to its standard error."""
        with suppress(OSError, ValueError):
            self.errors.seek(0, os.SEEK_END)
            self.errors.seek(max(0, self.errors.tell() - 2000))
            return self.errors.read().decode(errors="replace").strip()
        return ""


class _Pool:
    """The workers of one process, and the loop that feeds them."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.workers: list[_Worker] = []
        self._ids = count()
        self._losses = 0
        # At exit or when collected, without a reference to self.
        self.close = weakref.finalize(self, _kill_all, self.workers, self.owner)

    def run(
        self, tasks: Sequence[Task], limit: int, timeout: float, finished: Callable[[int, bool | None], None]
    ) -> None:
        """Grades all tasks. Every turn waits, resolves a task or counts a loss, so that it ends whatever workers do."""
        pending = deque(range(len(tasks)))
        self._losses = 0
        left = len(tasks)
        while left:
            self._fill(min(limit, left))
            for worker in list(self.workers):
                if worker.ready and worker.task is None and pending:
                    if worker.send(pending[0], next(self._ids), tasks[pending[0]], timeout):
                        pending.popleft()
                    else:  # died while idle: not the task's fault
                        self._lose(worker)
            readable = self._wait()
            for worker in list(self.workers):
                task = worker.task
                messages = worker.receive() if worker.stdout in readable else []
                verdict = self._handle(worker, messages or [])
                lost = messages is None or time.monotonic() >= worker.deadline
                if verdict is None and lost:
                    self._lose(worker)
                if task is not None and (verdict is not None or lost):
                    self._losses = 0
                    left -= 1
                    finished(task, verdict)

    def _handle(self, worker: _Worker, messages: Sequence[dict[str, Any]]) -> bool | None:
        """Takes in the messages of a worker; returns its verdict if that is among them."""
        verdict = None
        for message in messages:
            if message.get("ready") is True and not worker.ready:
                worker.ready, worker.deadline = True, float("inf")
                continue
            answers = worker.task is not None and message.get("id") == worker.message_id
            if answers and isinstance(message.get("correct"), bool):
                verdict = bool(message["correct"])
                worker.task, worker.deadline = None, float("inf")
        return verdict

    def _fill(self, size: int) -> None:
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


def worker_command() -> list[str]:
    """Returns the command line of a grading worker."""
    return [sys.executable, "-m", "masa_lightning.grading.math_worker"]


def _kill_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a forked child must not end its parent's workers
        for worker in workers:
            worker.kill()
    workers.clear()
