#!/usr/bin/env python3
"""Train and test every variant of the method on the embedded model, with several seeds, and make a page of it.

    python scripts/compare.py run OUT [--seeds 0 1 2] [--arms grpo masa ...] [--jobs 2] [--minutes 25] [-- words for masa]
    python scripts/compare.py page OUT docs/results/embedded_model.md [--timed grpo masa ...]
    python scripts/compare.py arms

The arms are in scripts/comparison/arms.yaml. Each run is `masa fit` and `masa test` in OUT/seed<n>/<arm>, on the real vLLM.
What is finished is not run again, and what was cut off goes on from its last checkpoint, so it can be stopped and started
at any time. An arm that fails is named, and the others go on. `masa report OUT` shows the same runs as one HTML page.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from comparison.runs import Comparison, read_arms


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    words = list(sys.argv[1:] if words is None else words)
    split = words.index("--") if "--" in words else len(words)
    own, extra = words[:split], words[split + 1 :]
    arms = read_arms()
    args = _parser(list(arms)).parse_args(own)
    if args.command == "arms":
        for arm in arms.values():
            print(f"{arm.name:<20}{arm.says}")
        return 0
    if args.command == "run":
        return _run(args, [arms[name] for name in dict.fromkeys(args.arms or arms)], extra)
    from comparison.metrics import read_results  # torch and matplotlib are slow to import
    from comparison.page import write_page

    results = read_results(args.out, arms.values(), timed=args.timed)
    if not results:
        print(f"{args.out} has no finished run; expected the folder of `scripts/compare.py run`", file=sys.stderr)
        return 1
    write_page(results, arms, args.page, _commands(results, arms, args))
    print(f"{args.page}: {sum(map(len, results.values()))} runs of {len(results)} arms")
    return 0


def _commands(results: Mapping[str, Mapping[int, Any]], arms: Collection[str], args: argparse.Namespace) -> str:
    """What makes the same runs, arms of the same seeds at once, and the page; a line each."""
    by_seeds: dict[tuple[int, ...], list[str]] = {}
    for arm, runs in results.items():
        by_seeds.setdefault(tuple(sorted(runs)), []).append(arm)
    lines = []
    for seeds, names in by_seeds.items():
        some = [] if set(names) == set(arms) else ["--arms", *names]
        lines.append(" ".join(["run runs/compare --seeds", *map(str, seeds), *some]))
    timed = [] if args.timed is None else ["--timed", *args.timed]
    lines.append(" ".join(["page runs/compare", shlex.quote(str(args.page)), *timed]))
    return "\n".join(f"python scripts/compare.py {line}" for line in lines)


def _run(args: argparse.Namespace, arms: list, extra: list[str]) -> int:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if args.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the runs too
    comparison = Comparison(args.out, extra)
    try:
        comparison.run(arms, args.seeds, args.jobs, args.minutes)
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on: {shlex.join(sys.argv)}", file=sys.stderr)
        return 130
    if comparison.failed:
        print(f"failed: {'; '.join(comparison.failed)}", file=sys.stderr)
    return 1 if comparison.failed else 0


def _parser(arms: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{run,page,arms}")
    run = commands.add_parser("run", help="train and test what is not there")
    run.add_argument("out", type=Path, help="folder of the runs")
    run.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run.add_argument("--arms", choices=arms, nargs="+", help="all by default")
    run.add_argument("--jobs", type=int, default=1, help="runs at a time; seconds compare best with 1")
    run.add_argument("--minutes", type=float, help="after which no run begins any more")
    page = commands.add_parser("page", help="write tables and pictures")
    page.add_argument("out", type=Path, help="folder of the runs")
    page.add_argument("page", type=Path, help="markdown file to write")
    timed = "arms that had the machine to themselves: seconds of others are left out; all by default"
    page.add_argument("--timed", choices=arms, nargs="+", help=timed)
    commands.add_parser("arms", help="list the arms")
    return parser


if __name__ == "__main__":
    sys.exit(main())
