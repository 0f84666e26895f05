"""What `masa predict` found, as one JSON line a problem, and what the controls saved."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from rich import box
from rich.table import Table
from rich.text import Text

from masa_lightning.distributed import collect
from masa_lightning.functional.boxes import last_box
from masa_lightning.functional.confidence import answer_text, stated_confidence
from masa_lightning.functional.controls import named_notions
from masa_lightning.functional.voting import ballot, most_common_answer
from masa_lightning.models.checkpoints import set_aside
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.run_folder import run_folder
from masa_lightning.types import MetaPrediction, Rollout, RolloutGroup

_SHOWN = 20  # problems in the table
_PAPER = ("pass_rate", "solution_length", "notions")  # which have members of their own in a line


class PredictionWriter(Callback):
    """Writes ``predictions.jsonl`` and, of problems that were solved, ``summary.json``; prints a table and the summary.

    A line has the problem and, of its parsed predictions, the mean and spread (population standard deviation) of the pass
    rate, the median and spread of the solution length in tokens, how many name each notion, and under ``quantities`` all
    else that is predicted. With `evaluation.solve` it also has what the controls did, and the answer that most solutions
    give; with `evaluation.compare` the same of the plain run. Lines are there when their batch is done; files of an earlier
    run are kept under other names.

    The summary compares tokens: those of solutions and predictions under the controls with those of the plain run's
    solutions and, where answers are known, how many votes are right.

    Args:
        dirpath: Folder; by default the run's.

    Raises:
        TypeError: If the module makes no predictions.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__()
        self.dirpath = dirpath
        self._folder = Path()
        self._lines: list[dict[str, Any]] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses modules without predictions."""
        if stage == "predict" and not isinstance(pl_module, MASALightningModule):
            raise TypeError(
                f"PredictionWriter writes predictions, and {type(pl_module).__name__} makes none; expected a "
                "MASALightningModule"
            )

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins a file."""
        self._lines = []
        self._folder = Path(self.dirpath or run_folder(trainer))  # a collective
        if trainer.is_global_zero:
            self._folder.mkdir(parents=True, exist_ok=True)
            for name in ("predictions.jsonl", "summary.json"):
                if (self._folder / name).exists():
                    earlier = set_aside(self._folder / name)
                    rank_zero_info(f"{self._folder / name} was an earlier run's: it is kept as {earlier.name}")
            (self._folder / "predictions.jsonl").write_text("")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the lines of a batch."""
        assert isinstance(pl_module, MASALightningModule)
        lines = [describe(group, pl_module.quantities.names) for group in outputs["groups"]]
        if pl_module.evaluation.solve:
            with pl_module.processes.together():  # collectives: texts are where solutions were graded
                for run, solve in (("groups", describe_solved), ("plain", describe_solutions)):
                    for line, told in zip(lines, collect(outputs[run], solve, pl_module.processes), strict=False):
                        line["solved" if run == "groups" else "plain"] = told
        if not trainer.is_global_zero:
            return
        lines += [
            {
                "id": p.id,
                "source": p.source,
                "problem": p.problem,
                "left_out": "its prompt is longer than max_prompt_length",
            }
            for p in outputs["left_out"]
        ]
        # A lone surrogate, which UTF-8 has no place for, becomes the escape that JSON has for it.
        with (self._folder / "predictions.jsonl").open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        for line in lines:  # texts may be many, and are not needed for the summary
            for run in ("solved", "plain"):
                line.get(run, {}).pop("texts", None)
        self._lines += lines

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Summarises what was solved."""
        if not trainer.is_global_zero:
            return
        from rich.console import Console

        console = Console()
        if self._lines:
            console.print(as_table(self._lines[:_SHOWN]))
        if len(self._lines) > _SHOWN:
            console.print(f"the first {_SHOWN} of {len(self._lines)} problems; all are in the file", markup=False)
        summary = summarise(self._lines)
        if summary:
            (self._folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
            console.print(saved_table(summary))
            console.print(_acted(summary), markup=False)
            console.print(f"all metrics: {self._folder / 'summary.json'}", markup=False)
        count = "1 problem" if len(self._lines) == 1 else f"{len(self._lines)} problems"
        console.print(f"{count}: {self._folder / 'predictions.jsonl'}", markup=False)


def describe(group: RolloutGroup, names: Sequence[str]) -> dict[str, Any]:
    """Describes in plain values what was predicted of a problem.

    Args:
        group: Of `MASALightningModule.predict_step`.
        names: Of the quantities that are predicted; of the paper's three, those that are not have no member.
    """
    problem = group.problem
    predictions = [r.prediction for r in group.metas if r.prediction is not None]
    rates = [p.rate for p in predictions if p.rate is not None]
    lengths = [p.solution_length for p in predictions if p.solution_length is not None]
    papers: dict[str, Any] = {
        "pass_rate": {"mean": _of(fmean, rates), "std": _of(pstdev, rates), "values": rates},
        "solution_length": {"median": _of(median, lengths), "std": _of(pstdev, lengths), "values": lengths},
        "notions": dict(named_notions(predictions)),
    }
    return {
        "id": problem.id,
        "source": problem.source,
        "problem": problem.problem,
        "predictions": len(predictions),
        "predictions_tokens": sum(r.length for r in group.metas),
        **{name: papers[name] for name in _PAPER if name in names},
        "quantities": _others(predictions),
        "failures": sorted(f"{key}: {reason}" for p in predictions for key, reason in p.failures.items()),
    }


def _others(predictions: Sequence[MetaPrediction]) -> dict[str, dict[str, Any]]:
    """What was predicted beside the paper's three: mean and spread of numbers, and of other values how many give each."""
    found: dict[str, list[Any]] = {}
    for prediction in predictions:
        for name, value in prediction.values.items():
            if name not in _PAPER:
                found.setdefault(name, []).append(value)
    return {name: _spread(values) for name, values in found.items()}


def _spread(values: Sequence[Any]) -> dict[str, Any]:
    if all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        return {"mean": _of(fmean, values), "std": _of(pstdev, values), "values": list(values)}
    return {"counts": dict(Counter(map(str, values)).most_common())}


def describe_solved(group: RolloutGroup) -> dict[str, Any]:
    """Describes how a problem was solved under controls."""
    gating = group.decisions.get("gating")
    return {
        "looks": None if gating is None else gating.gate,
        "skipped": group.gated,
        "token_limit": group.token_limit,
        "hint": list(group.hint),
        **describe_solutions(group),
    }


def as_table(lines: Sequence[dict[str, Any]]) -> Table:
    """A table to read of lines that `describe` made: what was predicted of each problem, and what it was answered."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("problem", overflow="fold", ratio=2)
    papers = [name for name in _PAPER if any(name in line for line in lines)]
    for name, column in (("pass_rate", "pass rate"), ("solution_length", "tokens")):
        if name in papers:
            table.add_column(column, justify="right", no_wrap=True)
    others = list(dict.fromkeys(name for line in lines for name in line.get("quantities", ())))
    for name in others:
        table.add_column(name.replace("_", " "), justify="right", overflow="fold")
    if "notions" in papers:
        table.add_column("notions", overflow="fold", ratio=1)
    solved = any("solved" in line for line in lines)
    if solved:
        table.add_column("answer", overflow="fold")
    for line in lines:
        cells = [_clipped(line["problem"], 200)]
        if "left_out" in line:
            cells += [""] * (len(papers) + len(others) - 1) + [line["left_out"]]
        else:
            if "pass_rate" in papers:
                cells.append(_with_spread(line["pass_rate"]["mean"], line["pass_rate"]["std"], "{:.2f}"))
            if "solution_length" in papers:
                length = line["solution_length"]
                cells.append(_with_spread(length["median"], length["std"], "{:.0f}"))
            cells += [_other(line["quantities"].get(name)) for name in others]
            if "notions" in papers:
                notions = sorted(line["notions"], key=line["notions"].get, reverse=True)
                cells.append(_clipped(", ".join(notions[:4]), 80))
        if solved:
            cells.append(_answered(line.get("solved")))
        table.add_row(*(Text(cell) for cell in cells))  # texts of models are no markup
    what = "pass rate and tokens of a solution as predicted" if {*_PAPER[:2]} <= {*papers} else "as predicted"
    table.caption = f"{what}: mean or median, and spread over the predictions"
    return table


def _with_spread(value: float | None, spread: float | None, form: str) -> str:
    return "-" if value is None or spread is None else f"{form.format(value)} ± {form.format(spread)}"


def _other(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    if "counts" in found:
        return _clipped(next(iter(found["counts"])), 40)
    return _with_spread(found["mean"], found["std"], "{:.3g}")


def _answered(run: dict[str, Any] | None) -> str:
    if run is None:
        return ""
    if run["skipped"]:
        return f"skipped: looks {run['looks']}" if run["looks"] else "skipped"
    if run["answer"] is None:
        return "none"
    verdict = {True: ", right", False: ", wrong", None: ""}[run["correct"]]
    return f"{_clipped(run['answer'], 80)} ({run['votes']} of {run['samples']}{verdict})"


def _clipped(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def summarise(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Adds up the lines of problems that were solved; empty if there are none."""
    solved = [line for line in lines if "solved" in line]
    if not solved:
        return {}
    summary: dict[str, Any] = {
        "problems": len(solved),
        "skipped": sum(line["solved"]["skipped"] for line in solved),
        "look_hopeless": sum(line["solved"]["looks"] == "hopeless" for line in solved),
        "look_trivial": sum(line["solved"]["looks"] == "trivial" for line in solved),
        "limited": sum(line["solved"]["token_limit"] is not None for line in solved),
        "hinted": sum(bool(line["solved"]["hint"]) for line in solved),
        "predictions_tokens": sum(line["predictions_tokens"] for line in solved),
    }
    runs = [run for run in ("solved", "plain") if run in solved[0]]
    for run in runs:
        known = [line[run]["correct"] for line in solved if line[run]["correct"] is not None]
        summary[run] = {
            "samples": sum(line[run]["samples"] for line in solved),
            "tokens": sum(line[run]["tokens"] for line in solved),
            "right_votes": sum(known) if known else None,
        }
    if "plain" in runs and summary["plain"]["tokens"]:
        tokens = summary["solved"]["tokens"]
        summary["tokens_against_plain"] = tokens / summary["plain"]["tokens"]
        with_predictions = tokens + summary["predictions_tokens"]
        summary["tokens_with_predictions_against_plain"] = with_predictions / summary["plain"]["tokens"]
    return summary


def saved_table(summary: dict[str, Any]) -> Table:
    """A table to read of what `summarise` gives: samples, tokens and right answers with controls, and without."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("solved")
    for column in ("samples", "tokens", "of plain", "right answers"):
        table.add_column(column, justify="right")
    against = {"solved": "tokens_against_plain", "predicted": "tokens_with_predictions_against_plain"}
    shares = {run: f"{summary[name]:.0%}" for run, name in against.items() if name in summary}
    for run, label in (("solved", "with controls"), ("plain", "plain, the same seeds")):
        if run in summary:
            right = "-" if (count := summary[run]["right_votes"]) is None else str(count)
            counts = [f"{summary[run][name]:,}" for name in ("samples", "tokens")]
            table.add_row(label, *counts, shares.get(run, ""), right)
            if run == "solved":
                tokens = f"{summary['solved']['tokens'] + summary['predictions_tokens']:,}"
                table.add_row("  and predictions", "", tokens, shares.get("predicted", ""), "")
    return table


def _acted(summary: dict[str, Any]) -> str:
    """What the controls did, in a line."""
    acted = {"limited": "with a limit", "hinted": "with a hint", "skipped": "skipped"}
    counts = [f"{summary[name]} {words}" for name, words in acted.items()]
    counts += [f"{summary[f'look_{name}']} look {name}" for name in ("hopeless", "trivial")]
    problems = "1 problem" if summary["problems"] == 1 else f"{summary['problems']} problems"
    return f"{problems}: {', '.join(counts)}"


def describe_solutions(group: RolloutGroup) -> dict[str, Any]:
    """Describes the solutions of a problem."""
    votes, answer = _vote(group)
    known = bool(group.problem.answer)
    right = [r for r in group.solutions if r.correct]
    told: dict[str, Any] = {
        "answer": None if answer is None else _answer(group, answer),
        "votes": votes,
        "samples": len(group.solutions),
        "tokens": sum(r.length for r in group.solutions),
        "cut_off": sum(r.completion.finish_reason == "length" for r in group.solutions),
        "pass_rate": len(right) / len(group.solutions) if known and group.solutions else None,
        "correct": (answer is not None and answer.correct) if known else None,
        "texts": [r.text for r in group.solutions],
    }
    if any(r.prediction is not None for r in group.solutions):
        told["confidences"] = [*map(stated_confidence, group.solutions)]
    return told


def _vote(group: RolloutGroup) -> tuple[int, Rollout | None]:
    """The first solution that gives the most common answer, and its votes; of programs, which have no vote, the first."""
    if group.problem.answer_type == "code":
        return min(1, len(group.solutions)), next(iter(group.solutions), None)
    boxes = [ballot(group.problem, answer_text(r)) for r in group.solutions]
    answer, votes = most_common_answer(boxes)
    return votes, None if answer is None else group.solutions[boxes.index(answer)]


def _answer(group: RolloutGroup, rollout: Rollout) -> str | None:
    text = answer_text(rollout)
    return text if group.problem.answer_type == "code" else last_box(text)


def _of(statistic: Any, values: Sequence[float]) -> float | None:
    return float(statistic(values)) if values else None
