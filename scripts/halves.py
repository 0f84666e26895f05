"""All tests, in two halves beside each other: nearly all of them keep one core busy.

What the first half prints comes behind what the second one does. The exit status is 0 if both passed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

FIRST = ("tests/callbacks", "tests/doctor", "tests/grading", "tests/modules", "tests/sampling")
SECOND = (
    "tests",
    "masa_lightning",
    *(f"--ignore={folder}" for folder in FIRST),
)  # so that a new folder is in one of them


def main() -> None:
    # Both would write which tests failed last.
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    with tempfile.TemporaryFile() as printed:
        first = subprocess.Popen([*command, *FIRST], stdout=printed, stderr=printed)
        try:
            codes = [subprocess.run([*command, *SECOND], check=False).returncode, first.wait()]
        finally:
            first.kill()
            first.wait()
            printed.seek(0)
            sys.stdout.buffer.write(printed.read())
            sys.stdout.flush()
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
