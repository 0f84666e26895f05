"""Runs Python scripts that nobody trusts in a bubblewrap sandbox, which `check` probes before it is used. Linux only.

A script sees the system's libraries and this Python, read-only, and a small scratch folder; no other file, no process, no
socket, no variable of its parent. It cannot start processes or threads, and its memory, files and seconds are limited.

Bubblewrap makes the namespaces and the file system; a seccomp filter refuses what namespaces do not cover (sockets to the
hypervisor, memory that no limit counts, more namespaces); `inside.py` sets the limits before the script runs. They do not
bind root, so a sandbox that root starts becomes a user of its own first; with other users it is a user namespace.

What the kernel itself needs for a script is bounded by time alone: empty files without end took 0.1 GB a second here, and it
is given back with the sandbox.
"""

from __future__ import annotations

import json
import marshal
import math
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from masa_lightning.grading.sandbox.bubblewrap import SCRATCH, bubblewrap
from masa_lightning.grading.sandbox.seccomp import seccomp_filter

MEMORY: Final = 2**30  # bytes of address space
ENVIRONMENT: Final = {
    "HOME": "/tmp",
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # sets have one order, and programs one verdict
    "OPENBLAS_NUM_THREADS": "1",  # threads cannot be started
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_USER: Final = 65530  # in a range that neither Debian nor systemd gives out, and that containers map
_NONE: Final = marshal.dumps({})


def start(
    script: Path,
    message: str,
    *,
    seconds: float,
    stdin: int,
    stdout: int,
    stderr: int = subprocess.PIPE,
    modules: bytes = _NONE,
    forks: bool = False,
) -> subprocess.Popen[bytes]:
    """Starts a Python script in a sandbox of its own. Call `check_sandbox` before, and `kill` in the end.

    Args:
        script: File to run, with the standard library and the packages of this Python at hand. Not `__main__` guarded.
        message: What it finds as its global `message`.
        seconds: Processor time after which the system ends it, > 0. The caller looks after the wall clock.
        stdin: File descriptor, or one of `subprocess`'s constants. The script inherits these three alone.
        stdout: As `stdin`.
        stderr: As `stdin`; also takes bubblewrap's complaints.
        modules: What the script may import of this package, from `compiled`.
        forks: Whether it may start processes. It runs what nobody trusts in such ones alone, which give that up first.

    Returns:
        The process of bubblewrap, which ends with the script. When it or this thread dies, all in the sandbox does.

    Raises:
        RuntimeError: If this machine has no bubblewrap, or no filter is known for it.
    """
    order = {
        "user": _USER if os.geteuid() == 0 else None,
        "limits": {
            **({} if forks else {"RLIMIT_NPROC": 0}),
            "RLIMIT_AS": MEMORY,
            "RLIMIT_CPU": math.ceil(seconds),
            "RLIMIT_FSIZE": SCRATCH,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
            "RLIMIT_MSGQUEUE": 0,
        },
        "paths": [path for path in _packages() if os.path.isdir(path)],
        "message": message,
    }
    descriptors: list[int] = []
    try:
        descriptors.append(_sealed(seccomp_filter()))
        descriptors.append(_sealed(json.dumps(order).encode()))
        descriptors.append(_sealed(modules))
        inside = ["/inside.py", *map(str, descriptors[1:]), str(_life())]
        # -P -s -S: no folder of a user on the path, no start-up code of packages
        python = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-B", *inside]
        return subprocess.Popen(
            [*bubblewrap(script), "--seccomp", str(descriptors[0]), "--", *python],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=ENVIRONMENT,
            pass_fds=[*descriptors, _life()],
            start_new_session=True,  # Ctrl-C is for the parent, which then ends its sandboxes
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def compiled(names: Iterable[str]) -> bytes:
    """Compiles modules for `start`, which would else read and compile them for each script anew: it writes nothing."""
    loaders = {name: getattr(find_spec(name), "loader", None) for name in names}
    codes = {name: loader.get_code(name) for name, loader in loaders.items() if isinstance(loader, InspectLoader)}
    return marshal.dumps({name: marshal.dumps(code) for name, code in codes.items()})


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a sandbox and all that is in it."""
    if process.poll() is None:
        os.killpg(process.pid, 9)  # the group: bubblewrap may not have come to tie its child's life to its own
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


_LIFE: Final[list[tuple[int, int]]] = []
"""Both ends of the pipe of this process, once it has started a sandbox."""


def _life() -> int:
    """Returns a descriptor to read from, which is at its end once this process is gone, however it died.

    Bubblewrap takes a moment to tie its life to that of this process (`--die-with-parent`). A process that is killed in that
    moment would leave a sandbox behind; so `inside.py`, which comes later, looks here before it begins.
    """
    if not _LIFE:
        _forget_in_children()
        _LIFE.append(os.pipe())
    return _LIFE[0][0]


@cache
def _forget_in_children() -> None:
    """Closes the pipe in processes that are forked: they would hold it open, and are parents of sandboxes of their own."""
    os.register_at_fork(after_in_child=_forget)  # once for all generations, which inherit it


def _forget() -> None:
    while _LIFE:
        for end in _LIFE.pop():
            os.close(end)


@cache
def _packages() -> tuple[str, ...]:
    """Returns the folders of installed packages."""
    return tuple(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def _sealed(content: bytes) -> int:
    """Returns a descriptor to read from that cannot be written to."""
    import fcntl  # not everywhere, unlike this module

    descriptor = os.memfd_create("masa", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
