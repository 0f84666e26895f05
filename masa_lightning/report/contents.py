"""Runs -> the data of a page: plain lists and dictionaries, as large as the page may be and no larger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from zlib import crc32

from masa_lightning import __version__
from masa_lightning.report import curves, predictions, tables
from masa_lightning.report.costs import costs
from masa_lightning.report.records import ProblemRecord, Stage
from masa_lightning.report.runs import Arm, Run, arms, measured_unlike
from masa_lightning.report.text import shown, span, to_json

LARGEST: Final = 4_600_000
"""Bytes of a page's data."""
MOST_PROBLEMS: Final = 3000
"""Rows of the table."""
_ENOUGH: Final = 20_000  # bytes that may be left of a page
_SETS: Final[dict[Stage, str]] = {"validate": "validation", "test": "test", "train": "training"}


@dataclass(slots=True)
class _Row:
    run: int
    arm: int
    stage: Stage
    seen: list[tuple[int | None, ProblemRecord]]  # by step


def contents(runs: Sequence[Run]) -> dict[str, Any]:
    """Returns all that a page shows of runs.

    Problems are sampled evenly, and their rollouts left out by chance, the same ones of all runs, where a page would become
    too large; the page says how many there are.
    """
    grouped = arms(runs)
    names = tables.controls(grouped)
    charts = [curves.draw(chart, grouped) for chart in [*curves.charts(grouped), *curves.control_charts(names)]]
    charts.append(curves.held_out_against_tokens(grouped))
    rows = _rows(runs, [next(n for n, arm in enumerate(grouped) if run in arm.runs) for run in runs])
    kept = rows[:: 1 + (len(rows) - 1) // MOST_PROBLEMS] if rows else []
    data: dict[str, Any] = {
        "version": __version__,
        "arms": [{"label": arm.label, "runs": [run.name for run in arm.runs]} for arm in grouped],
        "runs": [run.name for run in runs],
        "notes": [*_mixed(grouped), *([run.name, note] for run in runs for note in run.notes)][:200],
        "overview": tables.overview(grouped),
        "costs": costs(grouped),
        "charts": [chart for chart in charts if chart is not None],
        "predictions": predictions.panels(grouped),
        "controls": tables.control_table(grouped),
        "tokens": tables.token_table(grouped),
        "bars": tables.token_bars(grouped),
        "benchmarks": tables.benchmark_table(grouped),
        "settings": tables.settings_tables(grouped),
        "problems": [_shown(row) for row in kept],
        "all_problems": len(rows),
    }
    left = LARGEST - len(to_json(data))
    while left < 0 and data["problems"]:
        kept = kept[::2]
        data["problems"] = data["problems"][::2]
        left = LARGEST - len(to_json(data))
    data["rollouts"] = _rollouts(kept, left)
    return data


def _mixed(grouped: Sequence[Arm]) -> list[list[str]]:
    """Notes of arms whose means are over seeds that were measured in several ways."""
    found = [(arm, stage, measured_unlike(arm.runs, stage)) for arm in grouped for stage in _SETS]
    sizes = [
        (arm, stage, span([len(e.problems) for run in arm.runs for e in run.of_stage(stage)[-1:]]))
        for arm in grouped
        for stage in _SETS
        if stage != "train"  # of which some rollouts are kept
    ]
    return [
        *([a.label, f"its seeds' last {_SETS[s]}s were not measured alike ({why})"] for a, s, why in found if why),
        *([a.label, f"its seeds' last {_SETS[s]}s are of {many} problems"] for a, s, many in sizes if " to " in many),
    ]


def _rows(runs: Sequence[Run], owners: Sequence[int]) -> list[_Row]:
    rows: dict[tuple[int, str, str, str], _Row] = {}
    for number, run in enumerate(runs):
        for stage in _SETS:  # what is held out comes first
            kept = run.of_stage(stage)
            for evaluated in kept[-1:] if stage == "validate" and run.unlike else kept:
                for record in evaluated.problems:
                    key = (number, stage, record.source, record.id)
                    row = rows.setdefault(key, _Row(number, owners[number], stage, []))
                    row.seen.append((evaluated.step, record))
    return list(rows.values())


def _shown(row: _Row) -> dict[str, Any]:
    first, last = row.seen[0][1], row.seen[-1][1]
    return {
        "run": row.run,
        "arm": row.arm,
        "set": _SETS[row.stage],
        "source": last.source,
        "id": last.id,
        "problem": shown(last.problem, 240),
        "answer": shown(last.answer, 80),
        "before": None if first is last else _rounded(first.actual),
        "predicted_before": None if first is last else _rounded(first.predicted),
        "actual": _rounded(last.actual),
        "predicted": _rounded(last.predicted),
        "length": _rounded(last.length),
        "predicted_length": _rounded(last.predicted_length),
        "meta_reward": _rounded(sum(last.meta_rewards) / len(last.meta_rewards) if last.meta_rewards else None),
    }


def _rollouts(rows: Sequence[_Row], left: int) -> dict[str, Any]:
    """What a row opens to, by its number, of as many rows as there is room for."""
    opened: dict[str, Any] = {}
    order = sorted(
        range(len(rows)), key=lambda n: crc32(repr((rows[n].seen[-1][1].source, rows[n].seen[-1][1].id)).encode())
    )
    for number in order:
        seen = rows[number].seen
        moments = seen if len(seen) < 3 else [seen[0], seen[-1]]
        entry = {
            "problem": seen[-1][1].problem,
            "answer": seen[-1][1].answer,
            "moments": [{"step": step, "rate": _rounded(r.actual), "rollouts": r.rollouts} for step, r in moments],
        }
        size = len(to_json(entry)) + 12
        if size <= left:
            left -= size
            opened[str(number)] = entry
        elif left < _ENOUGH:
            break
    return opened


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
