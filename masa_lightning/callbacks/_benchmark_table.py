"""The metrics of several benchmarks as one table, for files and loggers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final

from masa_lightning.quantities import ShownQuantity

Metrics = dict[str, float]

Column = tuple[str, str, int]  # head, name of the metric, digits

SAMPLED: Final = {"pass": "pass@{}", "maj": "majority of {}", "maj_predicted": "by predicted rate"}
"""What metrics "kind@count" are called where there is room."""
_SOLUTIONS: Final[tuple[Column, ...]] = (
    ("tokens", "completions/mean_length", 0),
    ("cut off", "completions/clipped_ratio", 3),
    ("ungraded", "completions/ungraded_ratio", 3),
)
_ONLY_IF_ANY: Final = ("left_out", "completions/ungraded_ratio")  # columns that are left out where all is well


def table_columns(
    rows: Mapping[str, Metrics], quantities: Iterable[ShownQuantity]
) -> tuple[list[Column], list[Column]]:
    """Finds what there is to show of solutions and of predictions.

    Args:
        rows: Metrics of each benchmark, by their names in ``results.json``.
        quantities: What is predicted.
    """
    present = {name for metrics in rows.values() for name, value in metrics.items() if value == value}
    present -= {name for name in _ONLY_IF_ANY if not any(metrics.get(name, 0) > 0 for metrics in rows.values())}
    samples = sorted((n for n in present if "@" in n and n.split("@")[1].isdigit()), key=sample_order)
    counts: list[Column] = [("problems", "problems", 0), ("left out", "left_out", 0)]
    solutions = [*counts, *((name, name, 3) for name in samples), *_SOLUTIONS]
    predictions: list[Column] = [("parsed", "meta/parse_rate", 3)]
    for quantity in quantities:
        columns = [(head, name, digits) for name, _, head, digits in quantity.rows() if name in present]
        predictions += [(f"{quantity.words}: {head}", name, digits) for head, name, digits in columns[:1]] + columns[1:]
    return [c for c in solutions if c[1] in present], [c for c in predictions if c[1] in present]


def table_cells(rows: Mapping[str, Metrics], columns: Sequence[Column]) -> list[list[str]]:
    """Lays out a table: a head, a line a benchmark and, of several, one of their means.

    Args:
        rows: Metrics of each benchmark, by their names in ``results.json``.
        columns: Of `table_columns`.
    """
    lines = [["benchmark", *(head for head, _, _ in columns)]]
    lines += [[name or "-", *(_cell(metrics, n, digits) for _, n, digits in columns)] for name, metrics in rows.items()]
    if len(rows) > 1:
        averaged = [n for _, n, _ in columns if n not in ("problems", "left_out")]
        means = {n: _mean([metrics[n] for metrics in rows.values() if n in metrics]) for n in averaged}
        lines.append(["mean", *(_cell(means, n, digits) for _, n, digits in columns)])
    return lines


def markdown_table(rows: Mapping[str, Metrics], quantities: Iterable[ShownQuantity]) -> str:
    """Writes all columns in markdown; arguments are those of `table_columns`."""
    solutions, predictions = table_columns(rows, quantities)
    head, *lines = table_cells(rows, [*solutions, *predictions])
    marks = [":---"] + ["---:"] * (len(head) - 1)
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in [head, marks, *lines]
    )


def sample_order(name: str) -> tuple[int, int]:
    """Sorts metrics "kind@count" by kind, in the order of `SAMPLED`, and by count."""
    kind, _, count = name.partition("@")
    kinds = list(SAMPLED)
    return kinds.index(kind) if kind in kinds else len(kinds), int(count)


def _cell(metrics: Metrics, name: str, digits: int) -> str:
    value = metrics.get(name, math.nan)
    if value != value:
        return "-"
    text = f"{value:.{digits}f}"
    if f"{name}_low" in metrics:
        text += f" [{metrics[f'{name}_low']:.{digits}f}, {metrics[f'{name}_high']:.{digits}f}]"
    return text


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else math.nan
