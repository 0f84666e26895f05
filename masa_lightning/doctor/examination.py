"""Which checks there are, in the order in which they are made."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from masa_lightning.doctor import runner
from masa_lightning.doctor.check import Check, Line
from masa_lightning.doctor.engine import DTYPES, engine
from masa_lightning.doctor.machine import cores, devices, disk, memory
from masa_lightning.doctor.packages import packages, transformers_model
from masa_lightning.doctor.surroundings import hub, sandbox
from masa_lightning.doctor.training import training

DEVICES = Check("devices", devices, seconds=120)
MACHINE = (
    Check("packages", packages),
    Check("transformers", transformers_model, seconds=180),
    DEVICES,
    Check("cores", cores),
    Check("memory", memory),
    Check("disk", disk),
    Check("sandbox for programs", sandbox, seconds=120),
    Check("hub", hub),
)
"""What needs no engine."""
_ENGINE: Final = ("start", "parity", "hand-over", "generation")
_SLEEP: Final = "sleep and wake"
_TWO: Final[dict[str, dict[str, Any]]] = {
    "training, DDP": {"strategy": "ddp"},
    "training, FSDP2": {"strategy": "fsdp2"},
    "training, tensor parallel 2": {"strategy": "ddp", "tensor_parallel": 2},
}


def trials(device: str) -> list[Check]:
    """Returns the checks that train or draw, in one process.

    Args:
        device: "cpu" or "cuda".
    """
    steps = (*_ENGINE, _SLEEP) if device == "cuda" else _ENGINE
    engines = [
        Check(f"engine, {precision}", engine, steps, {"device": device, "precision": precision}, seconds=300)
        for precision in DTYPES
    ]
    return [*engines, Check("training step", training, arguments={"device": device}, seconds=300)]


def trials_of_two(device: str) -> list[Check]:
    """Returns the checks of two processes.

    Args:
        device: "cuda", or "cpu" in tests.
    """
    return [
        Check(name, training, arguments={"device": device, **given}, seconds=300, processes=2)
        for name, given in _TWO.items()
    ]


def width() -> int:
    """Returns the length of the longest name of a line."""
    checks = [*MACHINE, *trials("cuda"), *trials_of_two("cuda")]
    return max(len(check.line(step)) for check in checks for step in check.steps)


def examine(starting: Callable[[str], None]) -> Iterator[Line]:
    """Makes all checks, one after the other.

    Args:
        starting: Told the name of each check before it runs.

    Yields:
        Lines as they come. What processes printed is kept in a temporary folder if something failed.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="masa-doctor-"))
    except OSError as error:
        yield Line("disk", "failed", f"no temporary folder: {error}", remedy="make room, or set TMPDIR to a folder")
        return
    kept = False

    def run(check: Check) -> Iterator[Line]:
        nonlocal kept
        starting(check.name)
        for line in runner.run(check, folder):
            kept |= line.state == "failed"
            yield line

    gpus = 0
    try:
        for check in MACHINE:
            for line in run(check):
                if check is DEVICES:
                    gpus = len(line.facts.get("gpus", ()))
                yield line
        device = "cuda" if gpus else "cpu"
        for check in [*trials(device), *(trials_of_two(device) if gpus > 1 else ())]:
            yield from run(check)
        if not gpus:
            yield Line(f"engine: {_SLEEP}", "not run", "needs a GPU")
        if gpus < 2:
            yield from (Line(name, "not run", f"needs two GPUs, found {gpus}") for name in _TWO)
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
