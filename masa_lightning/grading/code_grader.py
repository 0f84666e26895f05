"""Grading programs by the tests of a data set, in sandboxes: a hostile program costs its own verdict and nothing else."""

from __future__ import annotations

import selectors
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256

from masa_lightning.checks import check_number
from masa_lightning.grading.programs.blocks import program_of
from masa_lightning.grading.programs.launch import Tests, why_unusable
from masa_lightning.grading.programs.names import tested_names
from masa_lightning.grading.programs.stdio import is_cases
from masa_lightning.grading.programs.trial import Task, Trial
from masa_lightning.grading.sandbox.check import check_sandbox
from masa_lightning.grading.verdicts import Verdicts
from masa_lightning.protocols import ProgressFn
from masa_lightning.types import Problem


class CodeGrader:
    """Grades completions by running their programs against the tests that are a problem's answer.

    The program is the last block of Python code that defines what is tested (`grading.programs.blocks`). It runs in one
    sandbox and the tests in another, which calls the program's functions over pipes: a program can decide what its
    functions return, not what the verdict is. Collections are one object on both sides (`grading.programs.shared`); where
    a program passes and has changed one of the tests, these run again with copies, and if it fails then there is no
    verdict. A program that takes too long, dies or has no closed block
    of code is wrong. All that tests need but a program does not define, such as helpers, comes from
    the `preamble` of its `CodeAnswer`, on which programs build; its functions without a body are for programs to define.

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
        check_number("workers", workers, ">= 1", whole=True, note="completion at a time")
        check_number("timeout", timeout, "> 0", note="seconds")
        self.workers = workers
        self.timeout = timeout
        self._unusable: dict[bytes, str] = {}  # by a digest of tests: why they are none, "" if they are some

    def grade(
        self, problems: Sequence[Problem], completions: Sequence[str], on_progress: ProgressFn | None = None
    ) -> list[bool | None]:
        """Grades each completion by the tests of the problem at the same index; equal programs are run once.

        Args:
            problems: [N] their answers are used, no more.
            completions: [N] decoded completions.
            on_progress: Told (done, total) as verdicts come in.

        Returns:
            [N] verdicts; None where there is none.

        Raises:
            ValueError: If there is not one problem a completion.
            RuntimeError: If this machine has no safe sandbox; the message names the remedy.
        """
        verdicts = Verdicts[Task](problems, completions, on_progress)
        tasks: dict[int, Task] = {}
        for index, (problem, completion) in enumerate(zip(problems, completions, strict=True)):
            tests = Tests.of(problem)
            program = program_of(completion, tested_names(*tests), prints=is_cases(tests.text))
            if program is None:
                verdicts.found[index] = False
            else:
                tasks[index] = Task(tests, program)
        if tasks:
            check_sandbox()
            self._check({task.tests: problems[index].id for index, task in tasks.items()})
        for index, task in tasks.items():
            if not self._unusable[_digest(task.tests)]:
                verdicts.wait(index, task)
        verdicts.tell()
        self._run([*verdicts.waiting], verdicts.settle)
        return verdicts.found

    def close(self) -> None:
        """Does nothing: no process outlives a call of `grade`."""

    def _check(self, names: Mapping[Tests, str]) -> None:
        """Finds out which tests are none, once, and warns of them with the problem's id."""
        new = {digest: tests for tests in names if (digest := _digest(tests)) not in self._unusable}
        self._unusable.update(zip(new, why_unusable([*new.values()]), strict=True))
        for digest, tests in new.items():
            if reason := self._unusable[digest]:
                warnings.warn(  # in each process: it grades problems of its own
                    f"problem {names[tests]!r} has no verdicts: {reason}. Expected are assertions about what the program "
                    "defines, or inputs and outputs; mend them, or leave the problem out",
                    stacklevel=3,
                )

    def _run(self, tasks: Iterable[Task], on_verdict: Callable[[Task, bool | None], None]) -> None:
        pending = deque((task, False) for task in tasks)
        running: list[Trial] = []
        try:
            while pending or running:
                while pending and len(running) < self.workers:
                    task, apart = pending.popleft()
                    running.append(Trial(task, self.timeout, apart=apart))
                readable = _wait(running)
                for trial in list(running):
                    if (trial.reports in readable and trial.read()) or time.monotonic() >= trial.deadline:
                        running.remove(trial)
                        trial.close()
                        if trial.leans_on_changes:
                            pending.appendleft((trial.task, True))
                        else:
                            on_verdict(trial.task, trial.verdict)
        finally:  # an interrupt, say
            for trial in running:
                trial.close()


def _wait(trials: Sequence[Trial]) -> set[int]:
    """Waits for news or for the first deadline; returns the descriptors with news."""
    first = min(trial.deadline for trial in trials)
    with selectors.DefaultSelector() as selector:
        for trial in trials:
            selector.register(trial.reports, selectors.EVENT_READ)
        return {key.fd for key, _ in selector.select(max(0.0, first - time.monotonic()))}


def _digest(tests: Tests) -> bytes:
    return sha256("\0".join(tests).encode("utf-8", "surrogatepass")).digest()
