"""`masa doctor`: whether this machine is ready, and how fast it is."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence


def main(args: Sequence[str]) -> None:
    """Runs `masa doctor` with its arguments.

    Raises:
        SystemExit: With status 1 if a line failed, or it was interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="masa doctor",
        allow_abbrev=False,
        description="Look whether this machine is ready to train, and how fast it is: versions and builds, devices, memory, "
        "disk, the sandbox for programs, the hub; then, on the embedded model, engines, hand-over and training steps. It "
        "prints a table to paste into an issue, and ends with status 1 and remedies where something fails.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    given = parser.parse_args(args)
    from masa_lightning.doctor.examination import examine, width
    from masa_lightning.doctor.report import as_json, closing, head, row

    lines, columns = [], width()
    if not given.json:
        print(head(columns), flush=True)
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)  # by `timeout`, say: told as Ctrl-C is
    interrupted = False
    try:
        for line in examine(_starting):
            lines.append(line)
            if not given.json:
                print(row(line, columns), flush=True)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        signal.signal(signal.SIGTERM, terminated)
    print(as_json(lines, interrupted) if given.json else f"\n{closing(lines, interrupted)}")
    if interrupted or any(line.state == "failed" for line in lines):
        sys.exit(1)


def _starting(name: str) -> None:
    """Shows on a terminal what is being looked at."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{name} ...\r")
        sys.stderr.flush()
