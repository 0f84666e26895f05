"""The sandbox for programs that a model wrote, and the hub of models."""

from __future__ import annotations

import time
from collections.abc import Iterator
from threading import Thread
from typing import Final

from masa_lightning.doctor.check import Failed, Found

_TIMEOUT: Final = 3.0  # seconds
_SETTLED: Final = 30.0  # seconds
_PATIENCE: Final = 5.0  # seconds
_MODEL: Final = "Qwen/Qwen3-0.6B-Base"
_WITHOUT: Final = "models and data come from the cache and from folders"
_TESTS: Final = "assert f(2) == 4"
_PROGRAMS: Final = {  # what it does -> its code, and whether it is right
    "is right": ("return x * x", True),
    "loops without end": ("while True: pass", False),
    "takes 4 GB": ("return len(bytearray(4 * 10**9)) * 0 + 4", False),
    "opens a socket": ("import socket; socket.socket(); return 4", False),
    "reads a file of the machine": ("open('/etc/passwd').close(); return 4", False),
}


def sandbox() -> Iterator[Found]:
    """Runs programs as `CodeGrader` does: a right one, and some that must not get what they want.

    Having no sandbox is no failure: without one `CodeGrader` refuses to start, and nothing else needs it.
    """
    from masa_lightning.grading.code_grader import CodeGrader
    from masa_lightning.grading.sandbox.check import check_sandbox
    from masa_lightning.grading.sandbox.remedy import REMEDY
    from masa_lightning.types import CodeAnswer, Problem

    try:
        check_sandbox()
    except RuntimeError as error:
        yield Found(f"only CodeGrader needs it: {str(error).replace(REMEDY, '').strip()}", "note", REMEDY)
        return
    problem = Problem(id="doctor", problem="Square.", answer=CodeAnswer(_TESTS))
    texts = [f"```python\ndef f(x):\n    {code}\n```" for code, _ in _PROGRAMS.values()]
    start = time.monotonic()
    verdicts = CodeGrader(workers=len(texts), timeout=_TIMEOUT).grade([problem] * len(texts), texts)
    took = time.monotonic() - start
    wrong = [
        f"one that {what} is called {verdict}"
        for (what, (_, right)), verdict in zip(_PROGRAMS.items(), verdicts, strict=True)
        if verdict is not right
    ]
    if took > _SETTLED:
        wrong.append(f"{len(texts)} programs of at most {_TIMEOUT:g} s each took {took:.0f} s")
    if wrong:
        raise Failed(f"of the programs {'; '.join(wrong)}", "do not use CodeGrader here, and report this table")
    yield Found("it holds: time, memory, files, no network", facts={"programs": len(texts)})


def hub() -> Iterator[Found]:
    """Asks the hub for a model; having none is no failure."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        yield Found(f"offline by HF_HUB_OFFLINE: {_WITHOUT}", "note", facts={"reached": False})
        return
    answers: list[str] = []

    def ask() -> None:
        try:
            HfApi().model_info(_MODEL, timeout=_PATIENCE)
            answers.append("")
        except Exception as error:  # whatever a proxy, a firewall or a mirror does
            answers.append(type(error).__name__)

    start = time.monotonic()
    asking = Thread(target=ask, daemon=True)  # a name server may take longer than any limit of a request
    asking.start()
    asking.join(2 * _PATIENCE)
    error = answers[0] if answers else f"no answer within {2 * _PATIENCE:g} s"
    if error:
        yield Found(f"not reached ({error}): {_WITHOUT}", "note", facts={"reached": False})
    else:
        yield Found(f"reached in {time.monotonic() - start:.1f} s", facts={"reached": True})
