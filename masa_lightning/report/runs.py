"""A run's folder -> all that a report shows of it; and runs that are one experiment with several seeds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from masa_lightning.report.records import Evaluated, Stage, read_records, unlike
from masa_lightning.report.scalars import HUGE, Scalars, Series, read_scalars
from masa_lightning.report.settings import Flat, experiment, read_settings, seeds
from masa_lightning.report.text import shown

TOKENS: Final = ("tokens/solution", "tokens/meta")
SECONDS: Final = ("timing_s/step", "timing_s/sft")
"""What a training step generates, and what it takes."""
_ASKED: Final = {"solution_prompt": ("solution", "choice", "code", "system"), "meta_prompt": ("meta",)}
"""What rollouts say of prompts, a digest of those that were used, and the settings that these may come from."""
_LEFT: Final = ("events.out.tfevents*", "metrics.csv", "*rollouts.jsonl", "rollouts/*.jsonl", "results.json")


@dataclass(slots=True, kw_only=True)
class Run:
    """What one run left."""

    name: str
    scalars: Scalars
    settings: Flat
    settings_file: str
    evaluated: list[Evaluated]
    benchmarks: list[dict[str, Any]]
    """Of ``results.json``: name, problems, and metrics by name."""
    notes: list[str]
    """What is missing or broken."""

    def series(self, tag: str) -> Series:
        return self.scalars.get(tag, {})

    def last(self, tag: str) -> float | None:
        """The value of a scalar at its last step."""
        series = self.series(tag)
        return series[max(series)] if series else None

    @property
    def steps(self) -> int:
        """Training steps so far."""
        return max(self.series("reward"), default=0)

    def of_stage(self, stage: Stage) -> list[Evaluated]:
        """Evaluations whose rollouts were kept, by their steps."""
        return [each for each in self.evaluated if each.stage == stage]

    @property
    def unlike(self) -> str:
        """Why its first and its last validation tell nothing of training: what they measured otherwise; "" if alike."""
        validations = self.of_stage("validate")
        return unlike(validations[0], validations[-1]) if validations else ""

    def of_steps(self, tags: Sequence[str]) -> list[float]:
        """A sum of metrics, of each training step that was logged."""
        found = [self.series(tag) for tag in tags]
        return [sum(series.get(step, 0.0) for series in found) for step in sorted({s for each in found for s in each})]

    @property
    def generated(self) -> float | None:
        """Tokens of both kinds, in training."""
        parts = [value for tag in TOKENS if (value := self.last(tag.replace("tokens", "tokens_total"))) is not None]
        return sum(parts) if parts else None

    @property
    def seconds(self) -> float | None:
        """Of training, without validation; steps that were not logged took as long as the others."""
        logged = self.of_steps(SECONDS)
        return fmean(logged) * (self.steps or len(logged)) if logged else None


@dataclass(slots=True, kw_only=True)
class Arm:
    """Runs whose settings differ in the seed alone."""

    label: str
    runs: list[Run]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Finds the folders of runs.

    Args:
        paths: Folders of runs, or folders that hold them.

    Raises:
        FileNotFoundError: If there is no run at one of the paths.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            what = "a file" if path.exists() else "not there"
            raise FileNotFoundError(f"{path} is {what}; expected the folder of a run, as `masa fit` leaves it in runs/")
        inside = [path] if _is_run(path) else [f for f in _folders(path, 3) if _is_run(f)]
        if not inside:
            alone = next(path.glob("*config.yaml"), None)
            but = f"{path} has {alone.name} and nothing that a run measured" if alone else f"{path} holds no run"
            raise FileNotFoundError(
                f"{but}; expected a folder with events.out.tfevents*, metrics.csv, rollouts.jsonl or results.json, as `masa "
                "fit` and `masa test` leave it, or one with such folders in it. Of a run with W&B or MLflow alone add a "
                "TensorBoardLogger or CSVLogger"
            )
        for folder in inside:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """Reads runs.

    Args:
        folders: Of `find_runs`.
    """
    return [_load(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def arms(runs: Sequence[Run]) -> list[Arm]:
    """Puts runs together that are one experiment with several seeds, in the order of their first ones."""
    groups: dict[object, list[Run]] = {}
    for run in runs:
        members = groups.setdefault(experiment(run.settings, run.settings_file) or id(run), [])
        again = any(seeds(run.settings) == seeds(member.settings) for member in members)
        groups.setdefault(id(run), []).append(run) if again else members.append(run)
    labels: list[str] = []
    for members in groups.values():
        label = members[0].name if len(members) == 1 else f"{_common_name(members)} ({len(members)} seeds)"
        labels.append(label if label not in labels else f"{label}, {labels.count(label) + 1}")
    return [Arm(label=label, runs=members) for label, members in zip(labels, groups.values(), strict=True)]


def measured_unlike(runs: Sequence[Run], stage: Stage) -> str:
    """Says in which settings the last validations or tests of runs measured otherwise; "" if all did alike."""
    ends = [each for run in runs for each in run.of_stage(stage)[-1:]]
    return "; ".join(filter(None, dict.fromkeys(unlike(ends[0], each) for each in ends[1:])))


def asked_alike(runs: Sequence[Run]) -> set[str]:
    """Names of settings that are prompts of the same use: rollouts of all runs say so, whatever was given and not used.

    A model that brings its prompts is asked with these where the settings have the defaults.
    """
    found: set[str] = set()
    for digest, kinds in _ASKED.items():
        used = {each.settings.get(digest) for run in runs for each in run.evaluated[-1:]}
        if len(used) == 1 and None not in used and all(run.evaluated for run in runs):
            found |= {f"model.{part}prompts.{kind}" for part in ("", "init_args.") for kind in kinds}
    return found


def _common_name(runs: Sequence[Run]) -> str:
    last = {run.name.rpartition("/")[2] for run in runs}
    return last.pop() if len(last) == 1 else runs[0].name


def _load(folder: Path, name: str) -> Run:
    scalars, notes = read_scalars(folder)
    settings, file, of_settings = read_settings(folder)
    evaluated, of_records = read_records(folder)
    benchmarks, of_results = _results(folder / "results.json")
    notes += of_settings + of_records + of_results
    if not scalars:
        notes.append("no metrics: neither an event file of TensorBoard nor metrics.csv has any")
    if not settings:
        notes.append(
            "no settings: neither config.yaml nor another file has any, so that seeds cannot be told from arms"
        )
    if not evaluated:
        notes.append("no rollouts: neither RolloutTable nor BenchmarkReport wrote any here, so there are no problems")
    elif any(tag.startswith("val/") for tag in scalars) and not any(e.stage == "validate" for e in evaluated):
        notes.append(
            "no rollouts of validations: RolloutTable writes them to rollouts/; predictions before and after, and "
            "reliability, need them"
        )
    if scalars and "reward" in scalars and not any(tag.startswith("val/") for tag in scalars):
        notes.append("no validation was logged: what is held out is not known")
    run = Run(
        name=shown(name, 200),
        scalars=scalars,
        settings=settings,
        settings_file=file,
        evaluated=evaluated,
        benchmarks=benchmarks,
        notes=[],
    )
    if run.unlike:
        notes.insert(0, f"its first and last validation were not measured alike ({run.unlike}): no change is shown")
    run.notes += [shown(note, 500) for note in notes[:20]]
    return run


def _results(file: Path) -> tuple[list[dict[str, Any]], list[str]]:
    if not file.is_file():
        return [], []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
        rows = [
            {
                "name": shown(row["name"], 100) or "-",
                "problems": int(row["problems"]),
                "metrics": {str(n): float(v) for n, v in row["metrics"].items() if v is not None and abs(v) < HUGE},
            }
            for row in found[:200]
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        return [], [f"results.json is none of BenchmarkReport's: {type(error).__name__}"]
    return rows, []


def _is_run(folder: Path) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in _LEFT)


def _folders(path: Path, depth: int) -> Iterator[Path]:
    for each in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if _is_run(each):
            yield each
        elif depth > 1:
            yield from _folders(each, depth - 1)


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart, and where these are of different depths, what they share above."""
    whole = [folder.resolve() for folder in folders]
    shared = Path(os.path.commonpath(whole)) if len(whole) > 1 else whole[0]
    return [folder.relative_to(shared).as_posix() if folder != shared else folder.name for folder in whole]
