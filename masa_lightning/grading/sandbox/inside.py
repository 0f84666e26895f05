"""The first step in a sandbox: sets limits on itself, then runs the script that nobody trusts. `sandbox` starts it.

It reads its order from a file descriptor, `{"user": int | null, "limits": {name: int}, "paths": [str], "message": str}`,
from a second one what the script may import beside, `sandbox.compiled`, and a third one tells whether the process that
wants it is still there.
"""

from __future__ import annotations

import json
import marshal
import os
import resource
import select
import sys
from typing import Any, Final

SCRIPT: Final = "/script.py"


class Modules:
    """Imports modules that were compiled outside; the packages they are in are empty."""

    def __init__(self, codes: dict[str, bytes]) -> None:
        self._codes = codes
        self._packages = {name[:index] for name in codes for index, sign in enumerate(name) if sign == "."}

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name in self._codes or name in self._packages:
            spec: Any = type(sys.__spec__)
            return spec(name, self, is_package=name in self._packages)
        return None

    def create_module(self, spec: Any) -> None:
        """Leaves that to Python."""

    def exec_module(self, module: Any) -> None:
        name = module.__name__
        if name in self._codes:
            exec(marshal.loads(self._codes[name]), module.__dict__)


def is_orphan(life: int) -> bool:
    """Returns whether the other end of a pipe is gone: nobody wants this sandbox, and nobody would end it."""
    poll = select.poll()
    poll.register(life, 0)  # its end is told unasked
    gone = bool(poll.poll(0))
    os.close(life)
    return gone


def enter() -> str:
    """Gives up what the script must not have, for good, and returns the message for it."""
    with open(int(sys.argv[1]), "rb") as file:
        order = json.load(file)
    if (user := order["user"]) is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)  # the capabilities go with it
    for name, limit in order["limits"].items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
    with open(int(sys.argv[2]), "rb") as file:
        sys.meta_path.insert(0, Modules(marshal.load(file)))
    sys.path += order["paths"]
    sys.argv = [SCRIPT]
    return str(order["message"])


if __name__ == "__main__":
    if is_orphan(int(sys.argv[3])):
        raise SystemExit
    message = enter()
    with open(SCRIPT, "rb") as file:
        script = compile(file.read(), SCRIPT, "exec", dont_inherit=True)
    exec(script, {"__name__": "__main__", "message": message})
