"""Runs one check in this process: `python -m masa_lightning.doctor.child FOLDER RANK`; `runner` starts it."""

from __future__ import annotations

import ctypes
import json
import pickle
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from masa_lightning.doctor.check import Check, Failed

CHECK: Final = "check.pickle"
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG
END_SECONDS: Final = 30
"""That a process may take to end after its last step."""


def main(folder: Path, rank: int) -> int:
    """Writes a JSON line a step to `RANK.jsonl`, the last one with an error, if there was one.

    Args:
        folder: With the pickled check.
        rank: Of this process.

    Returns:
        The exit status, 1 after an error.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    check: Check = pickle.loads((folder / CHECK).read_bytes())
    with open(folder / f"{rank}.jsonl", "w", encoding="utf-8") as file:

        def tell(**what: Any) -> None:
            file.write(json.dumps(what, default=str) + "\n")
            file.flush()

        start = time.perf_counter()
        try:
            for _, found in zip(check.steps, check.run(**check.arguments), strict=True):
                tell(**asdict(found), seconds=time.perf_counter() - start)
                start = time.perf_counter()
        except Failed as error:
            tell(error=str(error), remedy=error.remedy, seconds=time.perf_counter() - start)
            return 1
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}", remedy="", seconds=time.perf_counter() - start)
            raise
    signal.alarm(END_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
