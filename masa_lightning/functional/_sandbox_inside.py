"""The first step in a sandbox: sets limits on itself, then runs the script that nobody trusts. `sandbox` starts it.

It reads its order from a file descriptor, `{"user": int | null, "limits": {name: int}, "modules": str,
"paths": [str], "message": str}`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Final

SCRIPT: Final = "/script.py"


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
    sys.path.insert(0, order["modules"])
    sys.path += order["paths"]
    sys.argv = [SCRIPT]
    return str(order["message"])


if __name__ == "__main__":
    message = enter()
    with open(SCRIPT, "rb") as file:
        script = compile(file.read(), SCRIPT, "exec", dont_inherit=True)
    exec(script, {"__name__": "__main__", "message": message})
