"""Threads of a command, and how idle ones wait: set before torch is imported, for OpenMP reads it once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping
from typing import Final

from masa_lightning.doctor.machine import cpu_quota, usable_cores

# How threads wait, by the words of libgomp (torch for Linux) and of LLVM's and Intel's libraries.
_WAITING: Final = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def thread_settings(environ: Mapping[str, str], usable: int, quota: float | None) -> dict[str, str]:
    """Returns the variables of OpenMP that a command sets; what the user has set stays.

    Threads that have nothing to do sleep. By default they spin for some milliseconds, which takes the cores from other
    programs, and from the thread that they wait for: beside two busy processes on two cores a step of SmolLM2-135M took
    more than twice as long. And there are no more threads than the quota of a container gives time to: OpenMP knows the
    cores, and not the quota.

    Args:
        environ: Of the process.
        usable: Cores that the process may run on.
        quota: Cores' worth of time that its control groups allow; None is no limit.
    """
    found = {}
    if not any(name in environ for name in _WAITING):
        found["OMP_WAIT_POLICY"] = "passive"
    if quota is not None and quota < usable and "OMP_NUM_THREADS" not in environ:
        found["OMP_NUM_THREADS"] = str(max(1, int(quota)))
    return found


def set_threads(environ: MutableMapping[str, str]) -> None:
    """Sets them in `environ`; does nothing where torch is imported already, for then they come too late."""
    if "torch" not in sys.modules:
        environ.update(thread_settings(environ, usable_cores(), cpu_quota()))
