"""Metrics as one reads them: before and after, one evaluation, several benchmarks. Fits 80 columns, needs no colours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Final

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table

from masa_lightning.callbacks._benchmark_table import SAMPLED, sample_order
from masa_lightning.functional.intervals import Interval, correlation_interval, mean_interval, overlap
from masa_lightning.quantities import ShownQuantity

Metrics = Mapping[str, float]
Row = tuple[str, str, int]  # label, name of the metric, digits

PASS: Final[Row] = ("pass@1", "pass@1", 3)
_META: Final[Row] = ("meta reward", "meta/reward", 3)
_LEFT_OUT, _UNGRADED = "left_out", "completions/ungraded_ratio"
_BRIEF: Final = ("pearson", "mae")
"""What the briefest table has of a quantity."""
_MORE: Final = (*_BRIEF, "abs_rel_error")
_HEADS: Final = {  # of a table of benchmarks, by metric
    _LEFT_OUT: "left out",
    "completions/mean_length": "tokens",
    "completions/clipped_ratio": "cut",
    _UNGRADED: "ungraded",
}
CHANCE: Final = "Where 95% intervals overlap, the difference may be chance."
_PAIRED: Final = "pass@1 of the same problems: {:+.3f} [{:+.3f}, {:+.3f}], {}."
_ALIKE: Final = "pass@1 of the same problems: {:+.3f}; all differ by as much, so that no interval is known."


def screen() -> Console:
    """Where to print: 80 columns where it is no terminal."""
    return Console(highlight=False)


def brief_rows(quantities: Iterable[ShownQuantity]) -> list[Row]:
    """What one looks at first: solutions, and what was predicted of each quantity."""
    return [PASS, *_labelled(quantities, _BRIEF), _META]


def _labelled(quantities: Iterable[ShownQuantity], metrics: Sequence[str]) -> list[Row]:
    wanted = [(q, [q.tag(metric) for metric in metrics]) for q in quantities]
    return [
        (f"{q.words}: {label}", name, digits)
        for q, names in wanted
        for name, label, _, digits in q.rows()
        if name in names
    ]


def rows_of(metrics: Metrics, quantities: Iterable[ShownQuantity]) -> list[Row]:
    """All rows of one evaluation that say something."""
    samples = sorted((name for name in metrics if _is_sampled(name)), key=sample_order)
    rows: list[Row] = [
        PASS,
        *((_sample_label(name), name, 3) for name in samples),
        ("predictions that parse", "meta/parse_rate", 3),
        *_labelled(quantities, _MORE),
        _META,
        ("tokens a solution", "completions/mean_length", 0),
        ("cut off at the limit", "completions/clipped_ratio", 3),
        ("no verdict", _UNGRADED, 3),
        ("prompts too long", _LEFT_OUT, 0),
    ]
    return [row for row in rows if _says(metrics, row[1])]


def interval(metrics: Metrics, name: str) -> Interval:
    """The 95% interval of a metric; NaN where there is none."""
    if f"{name}_low" in metrics:
        return metrics[f"{name}_low"], metrics[f"{name}_high"]
    group, _, kind = name.rpartition("/")
    if kind == "pearson" and f"{group}/count" in metrics:
        return correlation_interval(metrics.get(name, math.nan), metrics[f"{group}/count"])
    return math.nan, math.nan


def cell(metrics: Metrics, name: str, digits: int) -> str:
    """A metric with its interval."""
    value, (low, high) = metrics.get(name, math.nan), interval(metrics, name)
    if math.isnan(value):
        return "-"
    text = f"{value:.{digits}f}"
    return text if math.isnan(low) else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def measured(head: str, columns: Mapping[str, Metrics], rows: Sequence[Row], paired: Sequence[float] = ()) -> Table:
    """A table with a line a metric and a column a measurement.

    Args:
        head: What was measured.
        columns: Metrics by the column's name. Where there are two, their intervals are compared.
        rows: Of `brief_rows` or `rows_of`.
        paired: As `differences`, which says more of pass@1 than two intervals.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(head)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    if len(columns) == 2:
        table.add_column("intervals", no_wrap=True)
    for label, name, digits in rows:
        if any(_says(metrics, name) for metrics in columns.values()):
            cells = [escape(cell(metrics, name, digits)) for metrics in columns.values()]
            table.add_row(label, *cells, *([compared(columns, name, paired)] if len(columns) == 2 else []))
    return table


def compared(columns: Mapping[str, Metrics], name: str, paired: Sequence[float] = ()) -> str:
    """Says whether the intervals of a metric overlap: "overlap", "apart", or nothing where there are none."""
    if name == PASS[1] and len(paired) > 1:
        return ""
    first, second = columns.values()
    verdict = overlap(interval(first, name), interval(second, name))
    return "" if verdict is None else "overlap" if verdict else "apart"


def differences(columns: Mapping[str, Metrics], rows: Sequence[Row], paired: Sequence[float] = ()) -> list[str]:
    """Sentences on what two columns differ in, and on what of it may be chance.

    Args:
        columns: As of `measured`, as `rows` are.
        rows: What is compared.
        paired: Differences of the pass rates of problems that both columns have.
    """
    if len(columns) != 2:
        return []
    said = []
    if len(paired) > 1:
        low, high = mean_interval(paired)
        chance = "which may be chance" if low <= 0 <= high else "more than chance"
        said = [_PAIRED.format(fmean(paired), low, high, chance) if low < high else _ALIKE.format(fmean(paired))]
    return said + [CHANCE] * any(compared(columns, name, paired) == "overlap" for _, name, _ in rows)


def evaluated(rows: Mapping[str, Metrics], width: int, quantities: Sequence[ShownQuantity]) -> list[RenderableType]:
    """What an evaluation found: a line a metric of one benchmark, a line a benchmark of several.

    Args:
        rows: Metrics of each, ``problems`` among them.
        width: Columns of the terminal.
        quantities: What is predicted.
    """
    if len(rows) > 1:
        return benchmarks(rows, width, quantities)
    return [
        measured(f"{metrics['problems']:.0f} problems", {name or "test": metrics}, rows_of(metrics, quantities))
        for name, metrics in rows.items()
    ]


def benchmarks(rows: Mapping[str, Metrics], width: int, quantities: Sequence[ShownQuantity]) -> list[RenderableType]:
    """Tables with a line a benchmark, of solutions and of predictions; columns for which there is no room are left out.

    Args:
        rows: Metrics of each.
        width: Columns of the terminal.
        quantities: What is predicted.
    """
    names = list(dict.fromkeys(n for metrics in rows.values() for n in metrics))
    samples = sorted(filter(_is_sampled, names), key=sample_order)
    solutions: list[Row] = [("n", "problems", 0), PASS, *((n, n, 3) for n in samples)]
    more = ((_LEFT_OUT, 0), (_UNGRADED, 3), ("completions/clipped_ratio", 3), ("completions/mean_length", 0))
    solutions += [(_HEADS[name], name, digits) for name, digits in more]
    predictions = [*_headed(quantities[:1]), ("parse", "meta/parse_rate", 3), ("meta", "meta/reward", 3)]
    predictions += _headed(quantities[1:])
    tables: list[RenderableType] = []
    for columns in (solutions, predictions):
        lines = _fitting(rows, [c for c in columns if any(_says(f, c[1]) for f in rows.values())], width)
        if len(lines[0]) > 1:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
            table.add_column(lines[0][0], overflow="fold")
            for head in lines[0][1:]:
                table.add_column(head, justify="right", no_wrap=True)
            for line in lines[1:]:
                table.add_row(*map(escape, line))
            tables.append(table)
    return tables


def _headed(quantities: Iterable[ShownQuantity]) -> list[Row]:
    """Columns with heads as short as they can be understood."""
    columns: list[Row] = []
    for q in quantities:
        named = [q.tag(metric) for metric in _MORE]
        columns += [(head, name, digits) for name, _, head, digits in q.rows() if name in named]
        columns = [(f"{q.words.split()[-1]} r" if n == q.tag("pearson") else h, n, d) for h, n, d in columns]
        columns = [("error" if n == q.tag("abs_rel_error") else h, n, d) for h, n, d in columns]
    return columns


def _fitting(rows: Mapping[str, Metrics], columns: Sequence[Row], width: int) -> list[list[str]]:
    """Head and lines with as many of the columns as there is room for, the first ones."""
    lines = [["benchmark"], *([name or "-"] for name in rows)]
    room = width - max(min(len(line[0]), 20) for line in lines)
    for head, name, digits in columns:
        cells = [head, *(cell(metrics, name, digits) for metrics in rows.values())]
        room -= max(map(len, cells)) + 2
        if room < 0:
            break
        for line, text in zip(lines, cells, strict=True):
            line.append(text)
    return lines


def _says(metrics: Metrics, name: str) -> bool:
    value = metrics.get(name, math.nan)
    return not math.isnan(value) and (value > 0 or name not in (_LEFT_OUT, _UNGRADED))


def _is_sampled(name: str) -> bool:
    kind, _, count = name.partition("@")
    return kind in SAMPLED and count.isdigit() and name != "pass@1"


def _sample_label(name: str) -> str:
    kind, _, count = name.partition("@")
    return SAMPLED[kind].format(count)
