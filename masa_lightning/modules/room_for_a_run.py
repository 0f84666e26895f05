"""Room for a new run: the folder of an earlier one is kept under another name, once the new one is sure to begin."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from masa_lightning.models.checkpoints import set_aside
from masa_lightning.modules.run_folder import RunFolder, holds, log_folder

_OF_A_RUN = ("events.out.tfevents*", "metrics.csv", "hparams.yaml", "config.yaml", "checkpoints", "*rollouts.jsonl")


@contextmanager
def room_for_a_run(trainer: Trainer, ckpt_path: str | Path | None) -> Iterator[None]:
    """Keeps an earlier run's folder under another name as soon as the body's run has all that it needs to train.

    Until then that folder is as it was: settings that cannot be, and models or data that are not there, move nothing. What
    only then goes wrong, as an engine without enough memory, gives the folder back if no step was taken.

    Args:
        trainer: Before it trains.
        ckpt_path: As of `Trainer.fit`.

    Raises:
        ValueError: As `earlier_run`, or if the folder cannot be renamed.
    """
    room = _Room(trainer, earlier_run(trainer, ckpt_path), ckpt_path)
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.insert(0, room)  # those after it write into the folder
    if room.folder:
        place = re.escape(
            str(room.folder)
        )  # of which `ModelCheckpoint` thinks that it will write beside an earlier run's
        warnings.filterwarnings("ignore", message=f"Checkpoint directory {place}.* exists and is not empty")
    try:
        yield
    except BaseException:
        # Without a step or a checkpoint, all there is in the new folder is what a start writes.
        if room.folder and room.kept and not trainer.global_step and not next(room.folder.rglob("*.ckpt"), None):
            shutil.rmtree(room.folder, ignore_errors=True)
            if not room.folder.exists():
                room.kept.rename(room.folder)
                rank_zero_info(f"this run did not begin: {room.folder} is the earlier run's again")
        raise
    finally:
        callbacks.remove(room)


class _Room(Callback):
    """Renames the folder of an earlier run in the first hook after all is made and loaded, or for a first writer.

    Args:
        trainer: Before it trains.
        folder: Of the earlier run, if there is one.
        ckpt_path: As of `Trainer.fit`.
    """

    def __init__(self, trainer: Trainer, folder: Path | None, ckpt_path: str | Path | None) -> None:
        self.folder, self.ckpt_path = folder, ckpt_path
        self.kept: Path | None = None  # where it is now
        self._held: list[Any] = []  # loggers, of which Lightning would have each begin its files before `setup`
        for logger in trainer.loggers if folder else ():
            if isinstance(logger, (TensorBoardLogger, CSVLogger)) and vars(logger).get("_experiment") is None:
                vars(logger)["_experiment"] = _Writer(partial(self._writer, trainer, logger))
                self._held.append(logger)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._make(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._let_go()  # or Lightning would have them finish what they did not begin

    def _writer(self, trainer: Trainer, logger: Any) -> Any:
        self._make(trainer)
        return logger.experiment

    def _let_go(self) -> None:
        for logger in self._held:
            vars(logger)["_experiment"] = None
        self._held = []

    def _make(self, trainer: Trainer) -> None:
        self._let_go()
        if self.folder is None or self.kept is not None:
            return
        keepers = [c for c in trainer.callbacks if isinstance(c, RunFolder)]  # type: ignore[attr-defined]
        for keeper in keepers:
            keeper.leave()
        try:
            self.kept = set_aside(self.folder)
        except OSError as error:
            raise ValueError(f"{self.folder} holds another run and cannot be renamed ({error}); {_REMEDY}") from error
        (self.kept / ".fit.lock").unlink(missing_ok=True)
        for keeper in keepers:
            keeper.enter(trainer)
        rank_zero_info(f"{self.folder} held an earlier run: it is kept as {self.kept}, and {self.folder} is this run's")
        others = sorted(self.folder.parent.glob(f"{self.folder.name}-*/checkpoints/last*.ckpt"))
        if self.ckpt_path == "last" and others:
            rank_zero_warn(
                f"{self.folder} had no last.ckpt, so this run begins at step 0; to go on with an earlier one, end this and "
                f"give its path: --ckpt_path {others[-1]}"
            )


class _Writer:
    """Stands for what a logger writes with, which is made when it is asked for something."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._made_by = make

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made_by(), name)


def earlier_run(trainer: Trainer, ckpt_path: str | Path | None) -> Path | None:
    """The folder of an earlier run that `trainer` would write into, unless it resumes that run; changes nothing.

    Args:
        trainer: Before it trains.
        ckpt_path: As of `Trainer.fit`.

    Returns:
        The folder; None if there is nothing to rename, or in another process than the first.

    Raises:
        ValueError: If the folder is the working folder, or if a folder of checkpoints that is not in it has a ``last.ckpt``
            of another run.
    """
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return None
    folder = log_folder(trainer)
    savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    places = [Path(str(saver.dirpath)) for saver in savers if saver.dirpath]
    resumed = _resumed(trainer, ckpt_path, _places(trainer))
    own = [place.resolve() for place in (*places, *([folder] if folder else []))]
    if resumed == "hpc" or (
        resumed is not None and any(Path(resumed).resolve().is_relative_to(place) for place in own)
    ):
        return None
    for place, saver in zip(places, (s for s in savers if s.dirpath), strict=True):
        last = sorted(place.glob("last*.ckpt"))
        if saver.save_last and last and not (folder and place.resolve().is_relative_to(folder.resolve())):
            raise ValueError(
                f"{last[0]} is of another run, and this one's would stand beside it under another name; expected a dirpath "
                "of ModelCheckpoint without it. Go on with that run (--ckpt_path last), move it away, or leave dirpath out: "
                "checkpoints then go into the run's own folder"
            )
    if folder is None or not holds(folder, _OF_A_RUN):
        return None
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder.resolve()} holds another run and is the working folder; {_REMEDY}")
    return folder


_REMEDY = (
    "expected a folder for each run: --trainer.logger.name NAME gives this one its own, "
    "--ckpt_path last goes on with the other"
)


def last_checkpoint(trainer: Trainer) -> str | Path | None:
    """The last checkpoint in the folders that a run writes them to, or None; "last" without a folder, for Lightning to find.

    The run's folder is one of them: Lightning does not look there if `ModelCheckpoint` writes elsewhere.
    """
    return "last" if log_folder(trainer) is None else _resumed(trainer, "last", _places(trainer))


def _places(trainer: Trainer) -> list[Path]:
    """Where checkpoints go."""
    savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
    folder = log_folder(trainer)
    named = [Path(str(saver.dirpath)) for saver in savers if saver.dirpath]
    return named + ([folder / "checkpoints"] if folder else [])


def _resumed(trainer: Trainer, ckpt_path: str | Path | None, places: list[Path]) -> str | Path | None:
    """The checkpoint that Lightning will take, or "hpc"."""
    if ckpt_path is None:
        saved = SLURMEnvironment.detect() and next(Path(trainer.default_root_dir).glob("hpc_ckpt_*.ckpt"), None)
        return "hpc" if saved else None
    if ckpt_path in ("hpc", "best"):
        return "hpc"
    if ckpt_path == "last":
        found = [path for place in places for path in place.glob("last*.ckpt") if path.exists()]
        return max(found, key=lambda path: path.stat().st_mtime, default=None)
    return Path(ckpt_path)
