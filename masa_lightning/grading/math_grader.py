"""Grading of mathematics: a hostile answer costs its own verdict and nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from masa_lightning.checks import check_number
from masa_lightning.functional.boxes import last_box
from masa_lightning.functional.grading import quick_box_verdict
from masa_lightning.grading.verdicts import Verdicts
from masa_lightning.grading.worker_pool import Task, WorkerPool
from masa_lightning.protocols import ProgressFn
from masa_lightning.types import Problem


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
        check_number("workers", workers, ">= 1", whole=True, note="grading process")
        check_number("timeout", timeout, "> 0", note="seconds")
        self.workers = workers
        self.timeout = timeout
        self._pool: WorkerPool | None = None
        self._lock = threading.Lock()

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion against the answer of the problem at the same index.

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
        verdicts = Verdicts[Task](problems, completions, on_progress)
        seen: dict[tuple[str | None, str], bool | None] = {}
        for index, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            box, answer = last_box(completion), str(problem.answer)
            if (box, answer) not in seen:
                seen[box, answer] = quick_box_verdict(box, answer)
            verdicts.found[index] = seen[box, answer]
            if verdicts.found[index] is None and box is not None:
                verdicts.wait(index, Task(box, answer))
        verdicts.tell()
        if verdicts.waiting:
            with self._lock:
                self._run([*verdicts.waiting], verdicts.settle)
        return verdicts.found

    def close(self) -> None:
        """Ends the workers; `grade` starts new ones when it needs them."""
        with self._lock:
            self._close_pool()

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self.workers, "timeout": self.timeout}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.workers, self.timeout = state["workers"], state["timeout"]
        self._pool, self._lock = None, threading.Lock()

    def _run(self, tasks: Sequence[Task], on_verdict: Callable[[Task, bool | None], None]) -> None:
        if self._pool is None or self._pool.owner != os.getpid():  # after a fork the workers are the parent's
            self._pool = WorkerPool()
        try:
            self._pool.run(tasks, self.workers, self.timeout, on_verdict)
        except BaseException:  # an interrupt, say: workers in the middle of a task are of no more use
            self._close_pool()
            raise

    def _close_pool(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
