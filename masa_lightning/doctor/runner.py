"""Runs a check in processes of its own, and makes lines of what they leave, however they end."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from masa_lightning.doctor import child
from masa_lightning.doctor.check import Check, Line

_POLL: Final = 0.05  # seconds
_MEMORY: Final = "free memory of this machine, or give the container more"


def run(check: Check, folder: Path) -> list[Line]:
    """Runs a check and waits for its end.

    Args:
        check: What to run.
        folder: For its files, of which `N.log` has all that process N printed.

    Returns:
        A line a step, and one more if the processes did not end well after the last.
    """
    try:
        return _run(check, folder / re.sub(r"\W+", "-", check.name).strip("-"))
    except OSError as error:  # a full disk, or no process to be had
        return [Line(check.name, "failed", f"it could not be started: {error}", remedy="make room on the disk")]


def _run(check: Check, place: Path) -> list[Line]:
    place.mkdir(parents=True)
    (place / child.CHECK).write_bytes(pickle.dumps(check))
    start = time.monotonic()
    processes = [_start(place, rank, environment) for rank, environment in enumerate(_environments(check.processes))]
    try:
        codes = _wait(processes, start + check.seconds)
    finally:
        for process in processes:
            _end(process)
    return _lines(check, place, codes, time.monotonic() - start)


def _environments(processes: int) -> list[dict[str, str]]:
    """Returns what a launcher such as torchrun would set for each process."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"TORCHELASTIC_RUN_ID": "masa-doctor"}  # by which Lightning knows that it need start no processes
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _start(place: Path, rank: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    # This Python's own path, which a notebook or script may have changed; "safe" keeps modules of this folder off it.
    path = os.pathsep.join(filter(None, sys.path))
    with open(place / f"{rank}.log", "wb") as log:
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", child.__name__, str(place), str(rank)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **environment},
            start_new_session=True,  # Ctrl-C is for this process, which then ends them
        )


def _wait(processes: Sequence[subprocess.Popen[bytes]], deadline: float) -> list[int | None]:
    """Waits until all ended, one failed, or time is up; returns exit statuses, None of what still runs."""
    while True:
        codes = [process.poll() for process in processes]
        if None not in codes or any(codes) or time.monotonic() >= deadline:
            return codes
        time.sleep(_POLL)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _lines(check: Check, place: Path, codes: Sequence[int | None], seconds: float) -> list[Line]:
    reports = [_told(place / f"{rank}.jsonl") for rank in range(check.processes)]
    lines = [
        Line(check.line(step), what["state"], what["text"], what["seconds"], what["remedy"], what["facts"])
        for step, what in zip(check.steps, (what for what in reports[0] if "error" not in what), strict=False)
    ]
    errors = [what for report in reports for what in report if "error" in what]
    done = len(lines)
    if done == len(check.steps) and not any(codes) and None not in codes:
        return lines
    text, remedy = (errors[0]["error"], errors[0]["remedy"]) if errors else _ending(check, place, codes)
    rest = seconds - sum(line.seconds for line in lines)
    name = check.line(check.steps[done]) if done < len(check.steps) else check.line("end")
    lines.append(Line(name, "failed", text, rest, remedy or _log(place)))
    return lines + [Line(check.line(step), "not run", f"after {name}") for step in check.steps[done + 1 :]]


def _ending(check: Check, place: Path, codes: Sequence[int | None]) -> tuple[str, str]:
    """Says how processes ended that left no word, and what to do."""
    rank, code = next(((rank, code) for rank, code in enumerate(codes) if code), (0, None))
    if code is None:
        return f"no end within {check.seconds:.0f} s", _log(place)
    if code == -signal.SIGALRM:
        return f"its process did not end within {child.END_SECONDS} s of the last step", _log(place)
    log = (place / f"{rank}.log").read_text(encoding="utf-8", errors="replace").strip()
    said = next((f": {line.strip()}" for line in reversed(log.splitlines()) if line.strip()), "")
    if code == -signal.SIGKILL:
        return "its process was killed (SIGKILL): memory ran out, most likely", f"{_MEMORY}; {_log(place)}"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}", _log(place)
    return f"its process ended with status {code}{said}", _log(place)


def _log(place: Path) -> str:
    return f"read the last lines of the logs in {place}; if they do not help, report them with this table"


def _told(report: Path) -> list[dict[str, Any]]:
    """Reads what a process told; the last line may be cut."""
    found = []
    if report.exists():
        for line in report.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
    return found
