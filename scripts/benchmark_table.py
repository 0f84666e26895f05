"""Ratios of two sides that take turns, and the table of them, for scripts/benchmark.py."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]  # what, value, against, ratio, goal


def seconds(go: Callable[[], Any]) -> float:
    """How long a call takes."""
    begin = time.perf_counter()
    go()
    return time.perf_counter() - begin


def rate(go: Callable[..., int], *arguments: Any) -> float:
    """Tokens a second of a call that returns its tokens."""
    begin = time.perf_counter()
    return go(*arguments) / (time.perf_counter() - begin)


def median(values: list[float]) -> float:
    return statistics.median(values)


def rounds(
    args: argparse.Namespace, ours: Callable[[], float], theirs: Callable[[], float]
) -> list[tuple[float, float]]:
    """Both sides in turn, after one unmeasured turn."""
    return [(ours(), theirs()) for _ in range(args.rounds + 1)][1:]


def row(what: str, unit: str, pairs: list[tuple[float, float]], against: str, goal: str) -> Row:
    """A ratio: median over rounds, with its range."""
    ratios = sorted(a / b for a, b in pairs)
    return {
        "what": f"{what}, {unit}",
        "value": [median([a for a, _ in pairs]), median([b for _, b in pairs])],
        "against": against,
        "ratio": median(ratios),
        "range": [ratios[0], ratios[-1]],
        "goal": goal,
    }


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | measured | against | ratio | goal |", "|---|---|---|---|---|"]
    for r in rows:
        ratio = f"{r['ratio']:.3g}" if "ratio" in r else ""
        if "range" in r and len(set(r["range"])) > 1:
            ratio += " [{:.3g}, {:.3g}]".format(*r["range"])
        lines.append(
            f"| {r['what']} | {number(r.get('value', ''))} | {r.get('against', '')} | {ratio} | {r.get('goal', '')} |"
        )
    return "\n".join(lines)


def number(value: Any) -> str:
    """Numbers, short."""
    if isinstance(value, dict):
        return ", ".join(f"{k}: {number(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(number, value))
    return f"{value:.0f}" if isinstance(value, float) and abs(value) >= 1000 else f"{value:.3g}" if value != "" else ""
