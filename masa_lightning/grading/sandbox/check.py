"""Tries in a sandbox all that it has to prevent, before anything is run in one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from masa_lightning.grading.sandbox.bubblewrap import SCRATCH
from masa_lightning.grading.sandbox.remedy import REMEDY
from masa_lightning.grading.sandbox.start import ENVIRONMENT, MEMORY, kill, start

_PROBE_SECONDS: Final = 60.0


@cache
def check_sandbox() -> None:
    """Tries in a sandbox all that it has to prevent; once a process, if it holds.

    Raises:
        RuntimeError: If the sandbox does not start, or something that it has to prevent is possible.
    """
    with tempfile.NamedTemporaryFile() as file, socket.socket() as listener:
        os.chmod(file.name, 0o644)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        message = {
            "file": file.name,
            "port": listener.getsockname()[1],
            "memory": MEMORY,
            "scratch": SCRATCH,
            "variables": sorted(os.environ.keys() - ENVIRONMENT.keys() - {"PWD"}),
        }
        probe = Path(__file__).with_name("probe.py")
        process = start(
            probe, json.dumps(message), seconds=_PROBE_SECONDS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        try:
            output, errors = process.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            output, errors = b"", f"no answer within {_PROBE_SECONDS:g} s".encode()
        finally:
            kill(process)
    try:
        breaches = json.loads(output)
    except ValueError:
        words = errors.decode(errors="replace").strip()[-2000:]
        raise RuntimeError(
            f"the sandbox for programs does not start; it says: {words or f'exit status {process.returncode}'}\n{REMEDY}"
        ) from None
    if breaches:
        raise RuntimeError(
            f"the sandbox for programs does not hold here; a program in it can {', '.join(breaches)}.\n{REMEDY}"
        )
