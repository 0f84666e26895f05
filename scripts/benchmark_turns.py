"""Trainings that take turns, step by step, each in a process of its own, for scripts/benchmark.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self


class Training:
    """A training that makes a step when it is told to, and waits in between.

    Args:
        command: Of its process, which has a `Turn`.
        environ: Of it.
        task: What it reads first, as a line of JSON; None: nothing.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], task: Any = None) -> None:
        self.process = subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if task is not None:
            self._say(json.dumps(task))

    def hear(self) -> Any:
        """What it tells next."""
        for line in self.process.stdout:  # type: ignore[union-attr]
            if line.startswith(_MARK):
                return json.loads(line.removeprefix(_MARK))
        raise SystemExit(f"{self.process.args} ended with status {self.process.wait()}")

    def step(self) -> Any:
        """What it tells of one more step."""
        self._say("step")
        return self.hear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()  # closes the pipes too

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()


_MARK = "benchmark_turns: "  # libraries print to standard output too


def tell(what: Any) -> None:
    """In the process of a `Training`: what the other one hears."""
    print(f"{_MARK}{json.dumps(what)}", flush=True)


class Turn:
    """In the process of a `Training`: waits for a turn, then takes the time of the step."""

    def begin(self) -> None:
        if not sys.stdin.readline():
            raise SystemExit
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def end(self, mean_length: float) -> None:
        tell(
            {
                "seconds": time.perf_counter() - self.wall,
                "cpu": time.process_time() - self.cpu,
                "mean_length": mean_length,
            }
        )


@contextmanager
def busy(processes: int) -> Iterator[list[int]]:
    """So many processes that do nothing but ask whether this one is still there; their ids."""
    asking = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    counting = [subprocess.Popen([sys.executable, "-c", asking]) for _ in range(processes)]
    try:
        yield [process.pid for process in counting]
    finally:
        for process in counting:
            process.kill()
            process.wait()
