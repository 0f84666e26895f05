"""Tries in a sandbox all that it has to prevent, and prints a JSON list of what is possible. `sandbox` runs it."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any


def attempts(facts: dict[str, Any]) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields what must not be possible, in words and as code that raises if it is not."""
    yield "read files of the host", lambda: open(facts["file"]).close()
    yield "read /etc/passwd", lambda: open("/etc/passwd").close()
    yield "look at processes", lambda: os.listdir("/proc/self")
    above = os.path.dirname(os.path.dirname(facts["file"]))  # /tmp is the sandbox's own
    for folder in ("/", "/usr", "/dev", "/home", sys.prefix, *({above} - {"/", "/tmp"})):
        yield f"write to {folder}", partial(open, f"{folder}/masa-probe", "w")
    yield "write more than its scratch folder holds", lambda: _write(facts["scratch"])
    yield "start processes", _fork
    yield "start threads", lambda: threading.Thread(target=int).start()
    yield "allocate without limit", lambda: bytearray(facts["memory"])
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_VSOCK):
        yield f"make sockets of family {family.name}", partial(socket.socket, family)
    yield "connect to the host", lambda: socket.create_connection(("127.0.0.1", facts["port"]), timeout=5)
    yield "be root", lambda: os.setuid(0)
    yield "see the environment of its parent", lambda: _expect(bool(os.environ.keys() & {*facts["variables"]}))
    yield "see process numbers of the host", lambda: _expect(os.getppid() != 1)
    yield "use descriptors of its parent", lambda: _expect(any(map(_is_open, range(3, 64))))


def breaches(facts: dict[str, Any]) -> Iterator[str]:
    """Yields what was possible, in words; raises if something is not that has to be."""
    for path in (os.devnull, "/tmp/masa-probe"):
        open(path, "w").close()
    for words, attempt in attempts(facts):
        try:
            attempt()
        except (OSError, MemoryError, RuntimeError):
            continue
        yield words


def _expect(possible: bool) -> None:
    if not possible:
        raise OSError


def _write(size: int) -> None:
    for number in range(2):
        with open(f"/tmp/{number}", "wb") as file:
            file.write(bytes(size))


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print(json.dumps([*breaches(json.loads(message))]))  # type: ignore[name-defined]  # noqa: F821  # what `sandbox.inside` gives to scripts
