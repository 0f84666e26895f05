"""What a run leaves on the screen: a line as it starts, and a panel or a table as it ends."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.table import Table

from masa_lightning.callbacks import _screen
from masa_lightning.callbacks._control import PredictionControl
from masa_lightning.callbacks._screen import Metrics, brief_rows, rows_of
from masa_lightning.callbacks.benchmark_report import BenchmarkReport
from masa_lightning.functional.intervals import paired_differences
from masa_lightning.models.shards import META
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.listeners import callbacks_of
from masa_lightning.modules.masa import MASALightningModule
from masa_lightning.modules.plain import class_path
from masa_lightning.modules.provenance import fingerprint
from masa_lightning.modules.run_folder import log_folder, run_folder
from masa_lightning.modules.run_state import Validation, run_state
from masa_lightning.modules.saved_run import words_besides
from masa_lightning.quantities import quantities_of
from masa_lightning.rollouts.measurement import BenchmarkMeasurements

_PROBLEM: Final = "Compute 354 mod 7."


class RunSummary(Callback):
    """Ends `fit`, `validate` and `test` with what one wants to know, on one screen of 80 columns.

    Of `fit`: metrics of the validation before the first step (`ValidateFirst`) and of the last one, with 95% intervals, and
    whether these overlap, or of pass@1 the difference over the problems that both have; the checkpoint; pictures; what
    controls saved, or in shadow mode would have; minutes and tokens; and the next commands. A run that is interrupted or
    fails says what is kept, and how to go on. Of `validate` and `test`: a table, with a line a benchmark where there are
    several; beside a `BenchmarkReport`, which has its own, nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        """Seconds of the earlier sessions of a resumed run."""
        self._start = 0.0
        self._folder = Path()  # where files go that are no logger's
        self._saved = 0  # training steps in the last checkpoint
        self._began: int | None = None  # at which step, while it trains
        self._measured: BenchmarkMeasurements | None = None
        self._shown: Metrics | None = None

    # -- fit ---------------------------------------------------------------------------------------------------------

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says what is trained, on what, and where the run's files are."""
        self._start, self._began = time.monotonic(), None
        self._folder = run_folder(trainer)  # a collective
        if trainer.is_global_zero:
            _screen.screen().print(_opening(trainer, pl_module, self._folder), soft_wrap=True, markup=False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the step; a resumed run says from which checkpoint."""
        self._began = self._saved = trainer.global_step
        if trainer.global_step and trainer.ckpt_path is not None and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            pl_module.print(f"going on from step {trainer.global_step}: {_short(Path(str(trainer.ckpt_path)))}")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notes the step that is saved."""
        self._saved = trainer.global_step

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the panel; of a run that had all its steps before, that it has."""
        nothing = self._began is None and trainer.ckpt_path is not None
        self._saved = trainer.global_step if nothing else self._saved
        self._began = None
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            console = _screen.screen()
            if nothing:
                console.print(f"Nothing was left to do: {_why_done(trainer)}", soft_wrap=True, markup=False)
            self._panel(trainer, pl_module, console)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Says what is kept, and how to resume."""
        step, found = trainer.global_step, _checkpoint(trainer)
        begun, self._began = self._began is not None and step > self._began, None
        if not begun or not trainer.is_global_zero or isinstance(exception, SystemExit):  # which explains itself
            return
        if found is None:
            kept = "No checkpoint was written: a run starts anew.\nOne sooner: every_n_train_steps of ModelCheckpoint"
        else:
            saved = self._saved
            with suppress(Exception):  # one that cannot be read must not hide what ended the run
                saved = _step_of(found[0])
            kept = f"Kept: {_short(found[0])}, of step {saved}\nGo on: the same command with --ckpt_path last"
        if isinstance(exception, KeyboardInterrupt):
            print(f"\nTraining was interrupted after step {step}.\n{kept}")
        else:
            exception.add_note(f"Training ended after step {step}.\n{kept}")

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.seconds = state_dict["seconds"]

    def _seconds(self) -> float:
        return self.seconds + (time.monotonic() - self._start if self._start else 0.0)

    def _panel(self, trainer: Trainer, module: LightningModule, console: Console) -> None:
        console.rule(f"{trainer.global_step} training steps done", align="left")
        columns = before_and_after(module)
        if columns:
            run = run_state(module)
            last = run.last_validation
            paired = _paired(run.first_validation, [] if last is None else last.get("pass_rates", []))
            rows = brief_rows(quantities_of(module).shown())
            console.print(_screen.measured(_problems(module), columns, rows, paired))
            for sentence in _screen.differences(columns, rows, paired):
                console.print(sentence)
            console.print()
        facts = Table.grid(padding=(0, 3, 0, 0))
        facts.add_column(no_wrap=True)
        facts.add_column(overflow="fold")
        for name, text in self._facts(trainer, module):
            facts.add_row(name, text)
        console.print(facts)
        commands = next_commands(log_folder(trainer), _checkpoint(trainer) or _begun_from(trainer), module)
        if commands:
            console.print("\nNext:")
        for command in commands:  # wrapped by the terminal alone, so that they can be copied
            console.print(f"  {command}", soft_wrap=True, markup=False)
        console.rule()

    def _facts(self, trainer: Trainer, module: LightningModule) -> Iterator[tuple[str, str]]:
        found = _checkpoint(trainer) or _begun_from(trainer)
        if found is None:
            yield "checkpoint", "none: a ModelCheckpoint with save_last: true in trainer.callbacks writes one"
        else:
            path, last = found
            note = f", of step {self._saved}" if last and self._saved != trainer.global_step else ""
            yield "checkpoint", f"{_short(path)}{note}" if last else f"{_short(path)}, the best by its monitor"
        if pictures := [*(self._folder / "pictures").glob("*.png")]:
            yield "pictures", f"{_short(self._folder / 'pictures')} ({len(pictures)} files)"
        ledger = run_state(module).ledger
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        controls = callbacks_of(trainer, PredictionControl)
        shadow = {control.name: len(control.window) for control in controls if control.mode == "shadow"}
        yield from savings(ledger, logged, shadow)
        drawn = {kind: ledger.get(f"tokens/{kind}", 0.0) for kind in ("solution", "meta")}
        parts = ", ".join(f"{kind} {count:,.0f}" for kind, count in drawn.items() if count)
        tokens = f"; {sum(drawn.values()):,.0f} tokens generated ({parts})" if parts else ""
        yield "took", f"{self._seconds() / 60:.1f} minutes{tokens}"
        folder = log_folder(trainer)
        if any(isinstance(logger, TensorBoardLogger) for logger in trainer.loggers) and folder is not None:
            yield "curves", f"tensorboard --logdir {shlex.quote(_short(folder))}"

    # -- validate and test -------------------------------------------------------------------------------------------

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure."""
        if trainer.state.fn == "validate":
            self._begin(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to measure."""
        self._begin(pl_module)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *loader: int
    ) -> None:
        """Measures each benchmark."""
        if trainer.state.fn == "validate":
            self._add(trainer, outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *loader: int
    ) -> None:
        """Measures each benchmark."""
        self._add(trainer, outputs)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the metrics of all problems."""
        if trainer.state.fn == "validate":
            self._shown = _plain(trainer.callback_metrics, "val/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the metrics of all problems."""
        if not any(isinstance(c, BenchmarkReport) for c in trainer.callbacks):  # type: ignore[attr-defined]
            self._shown = _plain(trainer.callback_metrics, "test/")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Prints the table, below the progress bar."""
        metrics, self._shown = self._shown, None
        if not metrics or not trainer.is_global_zero or not isinstance(pl_module, GRPOLightningModule):
            return
        measured, shown = self._measured or BenchmarkMeasurements(list), quantities_of(pl_module).shown()
        console = _screen.screen()
        if len(measured.by_name) > 1:
            for table in _screen.benchmarks(measured.compute(), console.width, shown):
                console.print(table)
        else:
            run = run_state(pl_module)
            first = run.first_validation
            columns: dict[str, Metrics] = {stage: metrics}
            problems = fingerprint(pl_module, measured.problems)
            if first and first.get("measured") == problems and run.rollout_steps:
                columns = {"before training": _plain(first["metrics"], "val/")} | columns
            paired = _paired(first, measured.pass_rates)
            rows = rows_of(metrics, shown)
            console.print(_screen.measured(f"{len(measured.problems)} problems", columns, rows, paired))
            for sentence in _screen.differences(columns, rows, paired):
                console.print(sentence)
        for place in _all_metrics(trainer):
            console.print(f"All metrics, by name: {place}", soft_wrap=True, markup=False)

    def _begin(self, module: LightningModule) -> None:
        self._measured = None
        if isinstance(module, GRPOLightningModule):
            self._measured = BenchmarkMeasurements(module.evaluation_metrics)

    def _add(self, trainer: Trainer, outputs: Any) -> None:
        if self._measured is not None and trainer.is_global_zero:
            self._measured.add(outputs["groups"], outputs["left_out"])


def before_and_after(module: LightningModule) -> Mapping[str, Metrics]:
    """Metrics of the first and of the last validation of a run, by the heads of their columns; what there is of both."""
    run = run_state(module)
    first, last = run.first_validation, run.last_validation
    if last is None:
        return {}
    columns = {}
    if first is not None and first["rollout_steps"] != last["rollout_steps"] and first["measured"] == last["measured"]:
        columns["before"] = _plain(first["metrics"], "val/")
    name = "after" if last["rollout_steps"] == run.rollout_steps else f"after step {last['rollout_steps']}"
    return columns | {name if last["rollout_steps"] else "before": _plain(last["metrics"], "val/")}


def _paired(first: Validation | None, last: Sequence[tuple[str, str, float]]) -> list[float]:
    """Differences of the pass rates of two validations; none of those that earlier versions kept."""
    before = [] if first is None else first.get("pass_rates", [])
    one, other = ({(source, name): rate for source, name, rate in rates} for rates in (before, last))
    return paired_differences(one, other)


def savings(
    ledger: Mapping[str, float], logged: Mapping[str, float], shadow: Mapping[str, int]
) -> Iterator[tuple[str, str]]:
    """What each control that acted has saved, by the estimate of its audits, and what those in shadow mode would have.

    Args:
        ledger: Sums of the ``tokens/`` metrics over the run.
        logged: The last metrics by name.
        shadow: Training steps that the metrics of each control in shadow mode look back on.
    """
    for name in [
        n.removeprefix("tokens/saved_") for n, saved in ledger.items() if n.startswith("tokens/saved_") and saved
    ]:
        saved = ledger[f"tokens/saved_{name}"]
        share = saved / (saved + ledger.get("tokens/solution", 0.0) or 1.0)
        lost = logged.get(f"controls/{name}/lost_correct")
        cost = f", lost {lost:.1%} of the correct solutions" if lost is not None and lost == lost else ""
        yield name, f"saved about {saved:,.0f} solution tokens ({share:.1%}){cost}; by its audits"
    for name, steps in shadow.items():
        seen, would, lost = (
            logged.get(f"controls/{name}/{metric}", float("nan"))
            for metric in ("evidence", "saved_tokens", "lost_correct")
        )
        if seen > 0 and would == would:
            cost = f" and lost {lost:.1%} of the correct ones" if lost == lost else ""
            yield name, f"in shadow mode: would have saved {would:.1%} of the solution tokens of {steps} steps{cost}"
        elif seen == 0:
            yield name, f"in shadow mode: would have changed nothing in {steps} steps"


def next_commands(folder: Path | None, checkpoint: tuple[Path, bool] | None, module: LightningModule) -> list[str]:
    """The commands to go on with: those that this run can be given to, with what they need of its user's own.

    Args:
        folder: Of the run's logs.
        checkpoint: Where it is.
        module: That was trained.
    """
    commands = []
    if checkpoint is not None:
        inside = folder is not None and checkpoint[0].resolve().is_relative_to(folder.resolve())
        run = _short(folder if inside and folder is not None else checkpoint[0])
        of = class_path(type(module)), dict(module.hparams)
        predicts = isinstance(module, MASALightningModule) and module.evaluation.num_meta_generations > 0
        for command, wanted, more in (("test", True, ""), ("predict", predicts, f' --problem "{_PROBLEM}"')):
            besides = words_besides(command, checkpoint[0], *of) if wanted else None
            if besides is not None:
                commands.append(shlex.join(["masa", command, "--ckpt_path", run, *besides]) + more)
    return commands + ([f"masa report {shlex.quote(_short(folder))}"] if folder is not None else [])


def _all_metrics(trainer: Trainer) -> Iterator[str]:
    """The file that has all metrics, or the command that shows them; of loggers that write files."""
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            yield _short(Path(logger.experiment.metrics_file_path))
        elif isinstance(logger, TensorBoardLogger):
            yield f"tensorboard --logdir {shlex.quote(_short(Path(logger.log_dir)))}"


def _checkpoint(trainer: Trainer) -> tuple[Path, bool] | None:
    """The checkpoint to resume from, and whether it is the last one; None if nothing was written."""
    savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    for path, last in [
        *((saver.last_model_path, True) for saver in savers),
        *((saver.best_model_path, saver.monitor in (None, "step")) for saver in savers),
    ]:
        if path and os.path.exists(path):
            return Path(path), last
    return None


def _why_done(trainer: Trainer) -> str:
    """Why a run that was to be resumed had nothing to do, and the remedy."""
    if trainer.should_stop:  # before the first step
        return "trainer.max_time is used up, as it counts what the run took before. Give more, or none, to go on"
    limit = "max_steps" if trainer.global_step >= trainer.max_steps >= 0 else "max_epochs"
    return f"the checkpoint has all that trainer.{limit} {getattr(trainer, limit)} asks for. Give a higher one to go on"


def _begun_from(trainer: Trainer) -> tuple[Path, bool] | None:
    """The checkpoint that a run was resumed from, which is its last where no later one was written."""
    path = trainer.ckpt_path
    return (Path(path), True) if path and os.path.exists(path) else None


def _step_of(checkpoint: Path) -> int:
    """The training step that a checkpoint file is of; where writing was interrupted, an earlier one is still there."""
    file = checkpoint / META if checkpoint.is_dir() else checkpoint
    return int(torch.load(file, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def _opening(trainer: Trainer, module: LightningModule, folder: Path) -> str:
    every = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    share = "all" if trained == every else _rounded(trained)
    where, processes = trainer.strategy.root_device, trainer.world_size
    place = str(where) if processes == 1 else f"{processes} processes of {where.type}"
    name = Path(str(getattr(module, "model_name", type(module).__name__))).name
    return f"{name}: {_rounded(every)} parameters, {share} trained, on {place}; files in {_short(folder)}"


def _rounded(count: int) -> str:
    if count < 1e5:
        return f"{count:,}"
    return f"{count / 1e6:.1f}M" if count < 1e9 else f"{count / 1e9:.1f}B"


def _problems(module: LightningModule) -> str:
    last = run_state(module).last_validation
    return f"{0 if last is None else last['problems']} held-out problems"


def _plain(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    found = {name.removeprefix(prefix): float(value) for name, value in metrics.items() if name.startswith(prefix)}
    return found | {"left_out": found.get("prompts/overlong", 0.0)}


def _short(path: Path) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith(os.pardir) else relative
