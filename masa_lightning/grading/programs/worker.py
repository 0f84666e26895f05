"""What a sandbox runs: one side of grading a program, over the standard streams.

The tests reach what the program defined over pipes and see values, never its objects, and they alone hold the channel
for the verdict. So a program can say what its functions return, which is what is tested, and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, NoReturn


def main(
    role: str, preamble: str = "", text: str = "", tasks: Any = (), limit: float = 0.0, apart: bool = False
) -> None:
    """Runs one side: in and out to the other side; the tests report on standard error."""
    channels = [os.dup(number) for number in range(3)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # what a program reads and prints is nobody's
        os.dup2(nowhere, number)
    incoming, outgoing = os.fdopen(channels[0], "rb"), os.fdopen(channels[1], "wb")

    def report(word: str) -> None:
        os.write(channels[2], f"{word}\n".encode())

    if role in ("program", "script"):
        os.close(channels[2])
        if role == "program":
            from masa_lightning.grading.programs.program_side import run_program

            run_program(preamble, text, incoming, outgoing)
        else:
            from masa_lightning.grading.programs.script_side import run_script

            run_script(f"{preamble}\n{text}", incoming, outgoing)
        return
    from masa_lightning.grading.programs import tests_side

    match role:
        case "tests":
            tests_side.run_tests(preamble, text, outgoing, incoming, report, apart=apart)
        case "cases":
            tests_side.run_cases(text, outgoing, incoming, report)
        case "check":
            _check(tasks, limit, report)


def _check(tasks: list[tuple[str, str]], limit: float, report: Callable[[str], None]) -> None:
    """Reports of each task's tests why they are none, "" if they are some."""
    import signal  # slow, and the others do without

    from masa_lightning.grading.programs.ledger import ExpiredError, Ledger
    from masa_lightning.grading.programs.tests_side import check_tests

    def expire(*args: object) -> NoReturn:
        raise ExpiredError

    ledger = Ledger()
    signal.signal(signal.SIGALRM, expire)
    report("ready")
    for preamble, text in tasks:
        try:
            signal.setitimer(signal.ITIMER_REAL, limit)
            reason = check_tests(preamble, text, ledger)
        except ExpiredError:
            reason = ""  # a program that does nothing has not passed them
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        report(json.dumps(reason[:500]))


if __name__ == "__main__":
    main(**json.loads(message))  # type: ignore[name-defined]  # noqa: F821  # what `sandbox.inside` gives to scripts
