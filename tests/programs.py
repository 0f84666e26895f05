"""What tests of graded programs share."""

import textwrap
import warnings
from pathlib import Path

import pytest

from masa_lightning.grading.code_grader import CodeGrader
from masa_lightning.grading.sandbox.check import check_sandbox
from masa_lightning.types import CodeAnswer, Problem

try:
    check_sandbox()
    UNSAFE = ""
except RuntimeError as error:
    UNSAFE = str(error)

sandboxed = pytest.mark.skipif(bool(UNSAFE), reason=UNSAFE or "the sandbox holds")


def task(tests, preamble=None):
    answer = CodeAnswer(textwrap.dedent(tests), preamble=textwrap.dedent(preamble or ""))
    return Problem(id="", problem="?", answer=answer)


def block(program):
    return f"So:\n```python\n{textwrap.dedent(program)}\n```"


def grade(program, tests, preamble=None, timeout=10.0):
    """The verdict on one program; tests that are none are warned of, which is not looked at here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*has no verdicts", UserWarning)
        return CodeGrader(workers=1, timeout=timeout).grade([task(tests, preamble)], [block(program)])[0]


def grade_all(pairs, timeout=10.0):
    """Verdicts of many (program, tests), two at a time."""
    return CodeGrader(timeout=timeout).grade([task(t) for _, t in pairs], [block(p) for p, _ in pairs])


def alive(worker):
    """Process numbers of sandboxes; the first process in each carries the whole command line, and all end with it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(worker).encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found
