#!/usr/bin/env python3
"""Print what a training run changed: one table from the TensorBoard files of two tests and the fit between them.

    python scripts/summary.py --before RUN --fit RUN --after RUN [--seconds install=170 fit=300 ...]

RUN is the folder of a TensorBoard logger. Figures that were not logged show as a dash.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

DASH = "-"
# Rows of the table: label and tag; None begins a new part.
ROWS: tuple[tuple[str, str] | None, ...] = (
    ("pass@1 [95% interval]", "pass@1"),
    None,
    ("predictions that parse", "meta/parse_rate"),
    ("pass rate: absolute error", "calibration/pass_rate/mae"),
    ("pass rate: correlation", "calibration/pass_rate/pearson"),
    ("pass rate: spread", "calibration/pass_rate/predicted_std"),
    ("length: relative error", "calibration/length/abs_rel_error"),
    ("length: correlation", "calibration/length/pearson"),
    None,
    ("meta reward", "meta/reward"),
    ("  of length", "meta/rewards/length/mean"),
    ("  of difficulty", "meta/rewards/difficulty/mean"),
    ("  of notions", "meta/rewards/notion/mean"),
)

Scalars = dict[str, dict[int, float]]  # tag -> step -> value


def read_scalars(folder: Path) -> Scalars:
    """Reads all scalars of a run; a step logged twice keeps its last value.

    Raises:
        SystemExit: If there are no TensorBoard files.
    """
    if not any(folder.glob("events.out.tfevents.*")):
        raise SystemExit(f"{folder} has no TensorBoard files (events.out.tfevents.*); expected the folder of a run")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def last(scalars: Scalars, tag: str, prefix: str = "test/") -> float | None:
    """The value of a tag at its last step; None if it was not logged or is no number."""
    steps = scalars.get(prefix + tag)
    value = steps[max(steps)] if steps else math.nan
    return None if math.isnan(value) else value


def cell(scalars: Scalars, tag: str) -> str:
    """A figure as text, with its interval if there is one."""
    value, low, high = (last(scalars, tag + end) for end in ("", "_low", "_high"))
    if value is None:
        return DASH
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def figures(before: Scalars, after: Scalars) -> Table:
    """Figures of both tests side by side."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("held-out problems")
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after", justify="right", no_wrap=True, style="bold")
    for row in ROWS:
        if row is None:
            table.add_row()
        else:
            table.add_row(row[0], cell(before, row[1]), cell(after, row[1]))
    return table


def total(scalars: Scalars, tag: str) -> float:
    """Sum of a tag over all steps; 0 if it was not logged."""
    return math.fsum(scalars.get(tag, {}).values())


def run_facts(fit: Scalars, seconds: dict[str, float], folders: Iterable[Path]) -> Table:
    """What the training run cost, and where its pictures are."""
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column()
    table.add_column(overflow="fold")
    kinds = {kind: total(fit, f"tokens/{kind}") for kind in ("solution", "meta")}
    parts = ", ".join(f"{kind} {count:,.0f}" for kind, count in kinds.items() if count)
    table.add_row("tokens generated", f"{sum(kinds.values()):,.0f} ({parts})" if parts else DASH)
    phases = {tag.removeprefix("timing_s/"): total(fit, tag) for tag in fit if tag.startswith("timing_s/")}
    steps = phases.pop("step", 0.0)
    longest = sorted((item for item in phases.items() if item[1] >= 0.5), key=lambda item: -item[1])
    table.add_row(
        "seconds in steps", ", ".join(f"{n} {s:.0f}" for n, s in [("all", steps), *longest]) if steps else DASH
    )
    if seconds:
        table.add_row("seconds", ", ".join(f"{name} {s:.0f}" for name, s in seconds.items()))
    for folder in folders:
        count = len([*folder.glob("*.png")])
        table.add_row("pictures", f"{folder} ({count} PNG files)" if count else f"{DASH} (none in {folder})")
    return table


def parse_seconds(text: str) -> tuple[str, float]:
    """Reads "name=seconds"."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form name=seconds") from None


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("before", "fit", "after"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="RUN")
    parser.add_argument("--seconds", type=parse_seconds, nargs="*", default=[], metavar="NAME=SECONDS")
    args = parser.parse_args()

    before, fit, after = (read_scalars(folder) for folder in (args.before, args.fit, args.after))
    seconds = dict(args.seconds)
    if seconds:
        seconds["total"] = math.fsum(seconds.values())
    facts = run_facts(fit, seconds, [args.fit / "pictures", args.after / "pictures"])
    logs = os.path.commonpath([args.before, args.fit, args.after]) or os.curdir
    tensorboard = os.path.relpath(Path(sys.executable).with_name("tensorboard"))
    facts.add_row("TensorBoard", f"{tensorboard} --logdir {logs}")
    panel = Panel(Group(figures(before, after), "", facts), title="before and after training", expand=False)
    console = Console()
    console.print(panel, width=max(console.width, 80))


if __name__ == "__main__":
    main()
