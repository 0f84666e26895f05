"""What a test found, as one table over benchmarks; and the test goes on where it was interrupted."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.distributed.tensor import DTensor

from masa_lightning.callbacks._rollout_file import Name, RolloutFile
from masa_lightning.callbacks._screen import evaluated, screen
from masa_lightning.loggers.media import log_figure, log_table
from masa_lightning.metrics.calibration import LengthCalibration, PassRateCalibration
from masa_lightning.metrics.figures import calibration_figures, save_figure
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.run_folder import run_folder
from masa_lightning.types import Problem, Rollout, RolloutGroup

Figures = dict[str, float]

Column = tuple[str, str, int]  # head, name of the figure, digits

_SOLUTIONS: tuple[Column, ...] = (
    ("tokens", "completions/mean_length", 0),
    ("cut off", "completions/clipped_ratio", 3),
    ("ungraded", "completions/ungraded_ratio", 3),
)
_PREDICTIONS: tuple[Column, ...] = (
    ("parsed", "meta/parse_rate", 3),
    ("pass rate: r", "calibration/pass_rate/pearson", 2),
    ("rho", "calibration/pass_rate/spearman", 2),
    ("error", "calibration/pass_rate/mae", 3),
    ("bias", "calibration/pass_rate/bias", 3),
    ("ECE", "calibration/pass_rate/ece", 3),
    ("length: r", "calibration/length/pearson", 2),
    ("rel. error", "calibration/length/abs_rel_error", 2),
    ("in range", "calibration/length/in_range", 2),
)
_ONLY_IF_ANY = ("left_out", "completions/ungraded_ratio")  # columns that are left out where all is well
_NOTE = """\
pass@1: mean over the samples of a problem, with a 95% interval over problems (Wilson's); pass@k: unbiased; maj@n: the
answer that most samples give; maj_predicted@n: votes weighted by the predicted pass rate. Of predictions against what
happened: r and rho are correlations (Pearson, Spearman), error and bias means, ECE the expected calibration error, in range
the share of predicted lengths within those of the right solutions. Problems whose prompt is too long are left out.
"""


class BenchmarkReport(Callback):
    """Reports a test by benchmark (`Problem.source`): ``results.json``, ``results.md``, pictures, and a table on the screen.

    Every rollout goes to ``rollouts.jsonl`` after its batch, and is not drawn again: the same command goes on after an
    interruption, and gives what an undisturbed one would have given. The folder belongs to one set of weights and settings
    of the rollouts (``settings.json``).

    Metrics of each benchmark go to the loggers as ``test/<benchmark>/<metric>``, the table and the pictures to those that
    take them; the metrics of all problems are logged by the module.

    Args:
        dirpath: Folder; by default the run's.

    Raises:
        TypeError: If the module is none of this package's.
        ValueError: If the folder has rollouts of other weights or settings, or two problems have the same source and id.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__()
        self.dirpath = dirpath
        self._folder = Path()
        self._settings: dict[str, Any] = {}
        self._checkpoint: str | None = None
        self._file: RolloutFile | None = None  # of the first process
        self._seen: set[Name] = set()
        self._restored: set[Name] = set()
        self._left_out: list[Problem] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses modules without rollouts."""
        if stage == "test" and not isinstance(pl_module, GRPOLightningModule):
            raise TypeError(
                f"BenchmarkReport reports rollouts, and {type(pl_module).__name__} makes none; expected a GRPO or MASA "
                "Lightning module"
            )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks for the rollouts of an interrupted test."""
        assert isinstance(pl_module, GRPOLightningModule)
        self._seen, self._restored, self._left_out = set(), set(), []
        # Collectives: every process asks.
        self._folder = Path(self.dirpath or run_folder(trainer))
        self._settings = settings = _settings(pl_module)
        self._checkpoint = Path(str(trainer.ckpt_path)).name if trainer.ckpt_path else None
        if not trainer.is_global_zero:
            return
        self._file = RolloutFile(self._folder / "rollouts.jsonl")
        file = self._folder / "settings.json"
        if len(self._file):
            _compare(json.loads(file.read_text()) if file.exists() else {}, settings, self._folder)
            rank_zero_info(f"{self._folder} has the rollouts of {len(self._file)} problems: they are not drawn again")
        _write(file, json.dumps(settings, indent=2) + "\n")

    def restore(self, group: RolloutGroup) -> list[Rollout]:
        """`protocols.RolloutStore`."""
        problem = group.problem
        name = (problem.source, problem.id)
        if name in self._seen:
            raise ValueError(
                f"two problems of {name[0]!r} have the id {name[1]!r}; expected ids that tell them apart and, in several "
                "processes, a loader that repeats none, as those of this package's datamodules do and torch's do not"
            )
        self._seen.add(name)
        rollouts = [] if self._file is None else self._file.read(problem)
        if rollouts:
            self._restored.add(name)
        return rollouts

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the rollouts of a batch."""
        self._left_out += outputs["left_out"]
        if self._file is not None:
            groups = [g for g in outputs["groups"] if (g.problem.source, g.problem.id) not in self._restored]
            self._file.append(groups)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports."""
        assert isinstance(pl_module, GRPOLightningModule)
        if not trainer.is_global_zero:
            return
        rows: dict[str, Figures] = {}
        step = int(getattr(pl_module, "rollout_steps", 0)) or trainer.global_step  # which no test restores
        for name in dict.fromkeys(p.source for p in [*(g.problem for g in pl_module.evaluated), *self._left_out]):
            groups = [g for g in pl_module.evaluated if g.problem.source == name]
            rows[name] = {
                "problems": float(len(groups)),
                "left_out": float(sum(p.source == name for p in self._left_out)),
                **pl_module.evaluation_metrics(groups),
            }
            self._draw(trainer, name, groups, pl_module.max_completion_length, step)
            for logger in trainer.loggers:
                logger.log_metrics({f"test/{name or '-'}/{f}": v for f, v in rows[name].items()}, step=step)
        _write(
            self._folder / "results.json",
            json.dumps(_results(self._settings, self._checkpoint, rows), indent=2, allow_nan=False) + "\n",
        )
        head, *lines = table_cells(rows, [column for columns in table_columns(rows) for column in columns])
        log_table(trainer.loggers, "test", head, lines, step)
        table = markdown_table(rows)
        _write(self._folder / "results.md", _page(self._settings, self._checkpoint, table))
        _show(rows, self._folder)

    def _draw(self, trainer: pl.Trainer, name: str, groups: Sequence[RolloutGroup], longest: int, step: int) -> None:
        rates, lengths = PassRateCalibration(sync_on_compute=False), LengthCalibration(sync_on_compute=False)
        rates.add_groups(groups)
        lengths.add_groups(groups, longest)
        where = f"{self._folder.name} \u00b7 test on {name or 'problems'} \u00b7 step {step}"
        for picture, figure in calibration_figures(rates.points(), lengths.points(), where).items():
            log_figure(trainer.loggers, f"test/{name}/{picture}" if name else f"test/{picture}", figure, step)
            save_figure(figure, self._folder / "pictures" / f"{_file_name(name)}_{picture}.png")


def table_columns(rows: dict[str, Figures]) -> tuple[list[Column], list[Column]]:
    """Finds what there is to show of solutions and of predictions."""
    present = {name for figures in rows.values() for name, value in figures.items() if value == value}
    present -= {name for name in _ONLY_IF_ANY if not any(figures.get(name, 0) > 0 for figures in rows.values())}
    samples = sorted((n for n in present if "@" in n and n.split("@")[1].isdigit()), key=_sample_order)
    counts: list[Column] = [("problems", "problems", 0), ("left out", "left_out", 0)]
    solutions = [*counts, *((name, name, 3) for name in samples), *_SOLUTIONS]
    return [c for c in solutions if c[1] in present], [c for c in _PREDICTIONS if c[1] in present]


def table_cells(rows: dict[str, Figures], columns: Sequence[Column]) -> list[list[str]]:
    """Lays out a table: a head, a line a benchmark and, of several, one of their means.

    Args:
        rows: Figures of each benchmark, by their names in ``results.json``.
        columns: Of `table_columns`.
    """
    lines = [["benchmark", *(head for head, _, _ in columns)]]
    lines += [[name or "-", *(_cell(figures, n, digits) for _, n, digits in columns)] for name, figures in rows.items()]
    if len(rows) > 1:
        averaged = [n for _, n, _ in columns if n not in ("problems", "left_out")]
        means = {n: _mean([figures[n] for figures in rows.values() if n in figures]) for n in averaged}
        lines.append(["mean", *(_cell(means, n, digits) for _, n, digits in columns)])
    return lines


def markdown_table(rows: dict[str, Figures]) -> str:
    """Writes all columns in markdown."""
    solutions, predictions = table_columns(rows)
    head, *lines = table_cells(rows, [*solutions, *predictions])
    marks = [":---"] + ["---:"] * (len(head) - 1)
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in [head, marks, *lines]
    )


def _sample_order(name: str) -> tuple[int, int]:
    kind, k = name.split("@")
    return ("pass", "maj", "maj_predicted").index(kind) if kind in ("pass", "maj", "maj_predicted") else 3, int(k)


def _cell(figures: Figures, name: str, digits: int) -> str:
    value = figures.get(name, math.nan)
    if value != value:
        return "-"
    text = f"{value:.{digits}f}"
    if f"{name}_low" in figures:
        text += f" [{figures[f'{name}_low']:.{digits}f}, {figures[f'{name}_high']:.{digits}f}]"
    return text


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return fmean(known) if known else math.nan


def _results(settings: dict[str, Any], checkpoint: str | None, rows: dict[str, Figures]) -> dict[str, Any]:
    return {
        "model": settings["model"],
        "checkpoint": checkpoint,
        "settings": settings,
        "benchmarks": [
            {
                "name": name,
                "problems": int(figures["problems"]),
                "left_out": int(figures["left_out"]),
                "metrics": {
                    n: value if math.isfinite(value) else None
                    for n, value in figures.items()
                    if n not in ("problems", "left_out")
                },
            }
            for name, figures in rows.items()
        ],
    }


def _page(settings: dict[str, Any], checkpoint: str | None, table: str) -> str:
    evaluation = settings["evaluation"]
    how = (
        f"{evaluation['num_generations']} samples a problem at temperature {evaluation['temperature']}, top_p "
        f"{evaluation['top_p']}, at most {settings['max_completion_length']} tokens; "
        f"{evaluation['num_meta_generations']} predictions."
    )
    name = settings["model"] if checkpoint is None else f"{settings['model']}, checkpoint {checkpoint}"
    return f"# {name}\n\n{how}\n\n{table}\n\n{_NOTE}"


def _show(rows: dict[str, Figures], folder: Path) -> None:
    console = screen()
    for table in evaluated(rows, console.width):
        console.print(table)
    console.print(f"results.md, results.json and rollouts.jsonl are in {folder}", soft_wrap=True, markup=False)


def _settings(module: GRPOLightningModule) -> dict[str, Any]:
    """What the rollouts depend on, as plain values. A collective."""
    assert module.policy is not None
    evaluation = asdict(module.evaluation)
    del evaluation["pass_at"]
    evaluation["num_meta_generations"] = module.evaluation_counts().get("meta", 0)  # a GRPO module makes none
    return {
        "model": module.model_name,
        # Processes that have all of the weights say the same, however many they are.
        "weights": "-".join(dict.fromkeys(module.processes.gather(_fingerprint(module.policy)))),
        "dtype": module.dtype_name,
        "sampler": [type(module.sampler).__name__, getattr(module.sampler, "dtype", None)],
        "seed": module._run_seed(),
        "grader": type(module.grader).__name__,
        "reward_parts": module.scorer.parts,
        "evaluation": evaluation,
        "max_prompt_length": module.max_prompt_length,
        "max_completion_length": module.max_completion_length,
        "max_meta_length": module.completion_limit("meta"),
        "prompts": asdict(module.prompts),
        "pass_rate_scale": getattr(module, "pass_rate_scale", None),  # which the meta prompt asks for
        "chat_template": module.tokenizer.chat_template,
        "chat_template_kwargs": module.chat_template_kwargs,
        "stops": [*module.stops.token_ids, *module.stops.texts],
    }


def _fingerprint(policy: nn.Module) -> str:
    """Tells weights apart, those of a checkpoint that was overwritten too, by up to 64 values of each parameter."""
    digest = blake2b(digest_size=8)
    for name, parameter in policy.named_parameters():
        local = (parameter.to_local() if isinstance(parameter, DTensor) else parameter).detach().flatten()
        digest.update(f"{name}{tuple(parameter.shape)}{local[:: 1 + len(local) // 64].float().tolist()}".encode())
    return digest.hexdigest()


def _compare(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    differences = [name for name in now if before.get(name) != json.loads(json.dumps(now[name]))]
    if differences:
        name = differences[0]
        raise ValueError(
            f"{folder} has rollouts that were drawn with other settings ({', '.join(differences)}): {name} was "
            f"{before.get(name)!r} and is {now[name]!r}. Give BenchmarkReport another dirpath, or remove that folder"
        )


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "problems"


def _write(path: Path, text: str) -> None:
    """Writes beside the target and renames: a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
