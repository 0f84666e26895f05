"""A few rollouts to read, while the run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from masa_lightning.callbacks._rollout_file import EvaluationRolloutFile, TrainingRolloutFile, to_short_line
from masa_lightning.checks import check_number
from masa_lightning.distributed import Processes, collect, fetch
from masa_lightning.loggers.media import Cell, log_table
from masa_lightning.models.checkpoints import set_aside
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.provenance import evaluation_settings
from masa_lightning.modules.run_folder import run_folder
from masa_lightning.modules.run_state import run_state
from masa_lightning.types import Kind, Rollout, RolloutGroup

KINDS: tuple[Kind, ...] = ("solution", "meta")
NAME = "train_rollouts.jsonl"
FOLDER = "rollouts"
LONGEST = 2000
"""Characters of a text in a file of `FOLDER`."""
HEAD = ("problem", "kind", "reward", "parts", "tokens", "text")


class RolloutTable(Callback):
    """Shows rollouts of both kinds as a table in the loggers that take one, and appends them to ``train_rollouts.jsonl``.

    Of each kind the best, the worst and rollouts evenly between them are taken, by total reward. The table's cells are
    escaped and shortened in the middle, for a model may write anything; ``train_rollouts.jsonl``, in the run's folder,
    has all of a rollout, one JSON object a line, as `BenchmarkReport` writes them; a ``fast_dev_run`` writes none. A run
    that is resumed appends to the file as it was at its checkpoint.

    After each validation and test, ``rollouts/<stage>_step<training steps>.jsonl`` has all of its rollouts in the same form,
    but without token ids, and with texts of at most 2,000 characters: what `masa report` shows problem by problem.

    Args:
        every_n_steps: Writes after the first training step and every n-th one from there, counted over epochs.
        rows: Rollouts to show; meta rollouts get half of them where there are any.
        max_characters: Longest text in a cell.

    Raises:
        ValueError: If a number is no integer >= 1.

    Example:
        >>> RolloutTable(every_n_steps=50, rows=8).rows
        8
    """

    def __init__(self, every_n_steps: int = 10, rows: int = 4, max_characters: int = 600) -> None:
        super().__init__()
        for name, value in {"every_n_steps": every_n_steps, "rows": rows, "max_characters": max_characters}.items():
            check_number(name, value, ">= 1", whole=True)
        self.every_n_steps = every_n_steps
        self.rows = rows
        self.max_characters = max_characters
        self._written = False  # whether files of `FOLDER` are this run's
        self._step = 0
        self._settings: dict[str, Any] = {}  # of the evaluation that is going on
        self._writes = False  # whether the evaluation that is going on is written, by the first process
        self._path: Path | None = None  # of the evaluation that is going on
        self._file: EvaluationRolloutFile | None = None  # from its first rollout on

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the file of a resumed run; that of another run is kept under another name."""
        self._keep_others(trainer)  # not earlier: FSDP2 restores a checkpoint after `on_fit_start`
        folder = run_folder(trainer)  # a collective
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        goes_on = trainer.ckpt_path is not None or trainer.global_step > 0
        try:
            other = TrainingRolloutFile(folder / NAME).begin(
                (run_state(pl_module).rollout_steps or trainer.global_step) if goes_on else None
            )
        except OSError as error:
            rank_zero_warn(f"RolloutTable could not read {folder / NAME}: {error}")
            return
        if other is not None:
            rank_zero_info(f"{folder / NAME} was not this run's: it is kept as {other.name}")

    def _keep_others(self, trainer: pl.Trainer) -> None:
        """Keeps the validations of another run under another name."""
        folder = self._folder(trainer)  # a collective
        if not trainer.is_global_zero or trainer.fast_dev_run or self._written:  # type: ignore[attr-defined]
            return
        if trainer.ckpt_path is None and not trainer.global_step and next(folder.glob("validate_*.jsonl"), None):
            rank_zero_info(f"{folder} had the rollouts of another run: they are kept as {set_aside(folder).name}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes the table if it is time.

        Raises:
            TypeError: If `training_step` returned something else than a dict with "groups" or None.
        """
        if trainer.fit_loop.total_batch_idx % self.every_n_steps:
            return
        folder = run_folder(trainer)  # a collective: every process asks
        if not outputs:
            return
        if not isinstance(outputs, Mapping) or "groups" not in outputs:
            raise TypeError(
                f"RolloutTable found no 'groups' in the output of {type(pl_module).__name__}.training_step; "
                "expected a dict with a list of RolloutGroup, as the modules of masa_lightning return"
            )
        chosen = choose_rollouts(outputs["groups"], self.rows)
        processes: Processes | None = getattr(pl_module, "processes", None)
        if processes is not None:
            with processes.together():  # a collective, too
                rollouts = fetch([rollout for _, rollout in chosen], [0] * len(chosen), processes)
            chosen = [(group, rollout) for (group, _), rollout in zip(chosen, rollouts, strict=True)]
        if not chosen or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        log_table(trainer.loggers, "rollouts", HEAD, table_rows(chosen, self.max_characters), trainer.global_step)
        try:
            TrainingRolloutFile(folder / NAME).append(trainer.global_step, chosen)
        except OSError as error:  # a full disk must not end a training run over a table
            rank_zero_warn(f"RolloutTable could not write to {folder}: {error}")

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses the file for the rollouts of a validation."""
        self._begin(trainer, pl_module, "validate")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses the file for the rollouts of a test."""
        self._begin(trainer, pl_module, "test")

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *loader: int
    ) -> None:
        """Writes the rollouts of a batch."""
        self._add(pl_module, outputs)

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *loader: int
    ) -> None:
        """Writes the rollouts of a batch."""
        self._add(pl_module, outputs)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Renames the finished file to its final name."""
        self._end()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Renames the finished file to its final name."""
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the unfinished file."""
        self._abandon()

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._abandon()
        folder = self._folder(trainer)  # a collective
        # Outside of training Lightning's own count is 0.
        self._step = run_state(pl_module).rollout_steps or trainer.global_step
        self._settings = evaluation_settings(pl_module) if isinstance(pl_module, GRPOLightningModule) else {}
        self._writes = not trainer.sanity_checking and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if trainer.is_global_zero and self._writes:
            self._path = folder / f"{stage}_step{self._step:06d}.jsonl"

    def _add(self, pl_module: pl.LightningModule, outputs: Any) -> None:
        groups: Sequence[RolloutGroup] = outputs.get("groups", ()) if isinstance(outputs, Mapping) else ()
        if not self._writes or not groups:
            return
        processes = getattr(pl_module, "processes", None) or Processes(0, 1)
        with processes.together():  # a collective: all lines are taken, also after a complaint
            for lines in collect(groups, self._lines, processes):
                self._write(lines)

    def _lines(self, group: RolloutGroup) -> list[str]:
        return [
            to_short_line(group, r, self._step, self._settings, lambda text: _shorten(text, LONGEST))
            for r in group.rollouts
        ]

    def _write(self, lines: list[str]) -> None:
        if self._path is None:
            return
        try:
            if self._file is None:
                self._file = EvaluationRolloutFile(self._path)
            self._file.append(lines)
        except OSError as error:  # a full disk must not end an evaluation over what is to be looked at
            self._complain(error)

    def _end(self) -> None:
        try:
            if self._file is not None:
                self._file.finish()
                self._written = True
        except OSError as error:
            self._complain(error)
        self._path = self._file = None

    def _complain(self, error: OSError) -> None:
        rank_zero_warn(f"RolloutTable could not write to {self._path}: {error}")
        self._abandon()

    def _abandon(self) -> None:
        if self._file is not None:
            self._file.abandon()
        self._path = self._file = None

    def _folder(self, trainer: pl.Trainer) -> Path:
        return run_folder(trainer) / FOLDER


def choose_rollouts(groups: Sequence[RolloutGroup], rows: int) -> list[tuple[RolloutGroup, Rollout]]:
    """Picks up to `rows` rollouts of both kinds, evenly from the best to the worst of each.

    Args:
        groups: All groups of a step.
        rows: Most rollouts to pick; what one kind cannot fill, the other does.

    Returns:
        Rollouts with their groups: solutions, then meta rollouts, each in falling order of reward; None is last.
    """
    by_kind = [[(group, r) for group in groups for r in group.rollouts if r.kind == kind] for kind in KINDS]
    solutions, metas = (
        sorted(pairs, key=lambda pair: -math.inf if pair[1].reward is None else pair[1].reward, reverse=True)
        for pairs in by_kind
    )
    for_metas = min(len(metas), max(rows // 2, rows - len(solutions)))
    return _spread(solutions, rows - for_metas) + _spread(metas, for_metas)


def table_rows(rollouts: Sequence[tuple[RolloutGroup, Rollout]], max_characters: int = 600) -> list[list[Cell]]:
    """Lays out rollouts in the columns `HEAD`.

    Args:
        rollouts: Rollouts with their groups.
        max_characters: Longest problem or text, >= 1.

    Returns:
        A row a rollout.
    """
    return [
        [
            _shorten(group.problem.problem, max_characters),
            rollout.kind,
            "none" if rollout.reward is None else f"{rollout.reward:.3g}",
            ", ".join(f"{name} {value:.3g}" for name, value in rollout.rewards.items()),
            f"{rollout.length} ({rollout.completion.finish_reason})",
            _shorten(rollout.text, max_characters),
        ]
        for group, rollout in rollouts
    ]


def _shorten(text: str, longest: int) -> str:
    """Keeps the beginning and, as the answer stands there, the end."""
    if len(text) <= longest:
        return text
    tail = longest // 2
    return f"{text[: longest - tail]} [...] {text[len(text) - tail :]}"


def _spread(pairs: Sequence[tuple[RolloutGroup, Rollout]], count: int) -> list[tuple[RolloutGroup, Rollout]]:
    count = min(count, len(pairs))
    if count < 2:
        return list(pairs[:count])
    return [pairs[round(i * (len(pairs) - 1) / (count - 1))] for i in range(count)]
