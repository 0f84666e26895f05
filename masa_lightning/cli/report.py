"""`masa report RUN [RUN ...]`: what runs left in their folders, as one HTML page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from masa_lightning.cli.errors import stop


def main(args: Sequence[str]) -> None:
    """Runs `masa report` with its arguments."""
    parser = argparse.ArgumentParser(
        prog="masa report",
        allow_abbrev=False,
        description="Write one HTML page of runs, from their files alone: curves with intervals, predictions before and "
        "after, controls, tokens, settings that differ, and each problem with its rollouts. Runs whose settings differ in "
        "the seed alone are shown as means with 95% intervals. The page needs no network.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or one with runs in it")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file to write; default: report.html in the run's folder, or in this one for several",
    )
    given = parser.parse_args(args)
    from masa_lightning.report.contents import contents
    from masa_lightning.report.costs import costs, lines
    from masa_lightning.report.page import MARK, page
    from masa_lightning.report.runs import arms, find_runs, load_runs

    try:
        folders = find_runs(given.runs)
        target: Path = given.output or (folders[0] if len(folders) == 1 else Path()) / "report.html"
        if target.is_dir() or not target.parent.is_dir():
            raise ValueError(
                f"{target} {'is a folder' if target.is_dir() else 'is in no folder that exists'}; expected -o FILE, such as "
                "-o report.html"
            )
        if target.exists() and MARK.encode() not in target.read_bytes()[:4096]:
            raise ValueError(f"{target} is there and no page of `masa report`; give another file: -o FILE")
        loaded = load_runs(folders)
        target.write_text(page(contents(loaded)), encoding="utf-8")
    except (OSError, ValueError) as error:
        stop(error)
    runs = "1 run" if len(folders) == 1 else f"{len(folders)} runs"
    for table in costs(arms(loaded)):
        print("\n".join(lines(table)), end="\n\n")
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB of {runs}; open it in a browser")
