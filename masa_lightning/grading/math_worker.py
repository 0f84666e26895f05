"""Grades answers one at a time over pipes: `python -m masa_lightning.grading.math_worker`.

Reads one JSON object a line, `{"id": int, "box": str, "answer": str, "limit": float}`, and answers
`{"id": int, "correct": bool}`, after a first `{"ready": true}`. Ends when its input does. `grading.math_grader` starts it.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from contextlib import suppress
from importlib import import_module
from typing import Final

from masa_lightning.functional.grading import checked_box_verdict

MEMORY_LIMIT: Final = 4 * 2**30  # bytes of address space; work is counted before it is done, and this is the net below


def main() -> None:
    """Runs until the end of standard input."""
    limit_memory()
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as replies:
        silence(sys.stdout.fileno())  # what a library prints is no reply
        import_module("mpmath")  # says so if it is missing
        if not checked_box_verdict(r"\sqrt{2}\sqrt{2}", "2"):
            raise RuntimeError("the square root of 2, squared, is not 2 here; reinstall mpmath")
        silence(sys.stderr.fileno())
        print(json.dumps({"ready": True}), file=replies, flush=True)
        for line in sys.stdin.buffer:
            task = json.loads(line)
            # If the parent is gone and cannot kill this process, the system does.
            arm(math.ceil(2 * task["limit"]) + 10)
            correct = checked_box_verdict(task["box"], task["answer"])
            arm(0)
            print(json.dumps({"id": task["id"], "correct": correct}), file=replies, flush=True)


def limit_memory() -> None:
    """Bounds the address space of this process, where the system can."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def arm(seconds: int) -> None:
    """Has the system end this process after some seconds; 0 calls it off."""
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)


def silence(descriptor: int) -> None:
    """Sends what is written to a file descriptor nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        main()
