"""A folder of logs and checkpoints belongs to one run: locked while the run lasts, and never mixed with another one."""

from __future__ import annotations

import csv
import errno
import fcntl
import hashlib
import itertools
import json
import os
import platform
import shutil
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from masa_lightning.models.checkpoints import replaced, set_aside
from masa_lightning.modules.listeners import callbacks_of
from masa_lightning.modules.plain import plain
from masa_lightning.modules.run_state import run_state
from masa_lightning.protocols import RolloutControl

_OF_TRAINING = (".fit.lock", "config.yaml", "checkpoints", "train_rollouts.jsonl")
_LOCKED = ("fit", "test", "predict")  # each for itself: a checkpoint may be tested while training goes on
_OF_A_TEST = ("results.json", "rollouts.jsonl", "rollouts/test_step*.jsonl")
_TESTED = ".test"  # a digest of what is tested, and a second line when it was
_KEPT = "metrics.csv.kept"


def log_folder(trainer: Trainer) -> Path | None:
    """Where the first logger that writes files has its own; None without one. For the first process alone."""
    for logger in trainer.loggers:
        if isinstance(logger, (TensorBoardLogger, CSVLogger)):
            return Path(logger.log_dir)
    return None


def run_folder(trainer: Trainer) -> Path:
    """Where the files of a run go that are no logger's: beside its metrics, or where its checkpoints go; a collective.

    Loggers such as W&B's and MLflow's name one folder for all runs, in which `ModelCheckpoint` makes one for each: that one
    is taken. Without a logger it is the Trainer's. Of a validation by itself, and of another test than the first, it is a
    folder in that of the training run.
    """
    folder = _folder(trainer) if trainer.is_global_zero else Path()
    for apart in (c.apart for c in trainer.callbacks if isinstance(c, RunFolder)):  # type: ignore[attr-defined]
        folder = folder if apart in folder.parts else folder / apart
    return Path(trainer.strategy.broadcast(str(folder)))


def _folder(trainer: Trainer) -> Path:
    """For the first process alone."""
    folder, first = log_folder(trainer), next(iter(trainer.loggers), None)
    if folder is None and first is not None and first.save_dir is not None:
        folder = Path(first.save_dir, str(first.name or ""), str(first.version or ""))
    return folder or Path(trainer.default_root_dir)


class TestOf(Callback):
    """Says which checkpoint is tested, which Lightning's Trainer says only when it is loaded.

    Args:
        checkpoint: As of `Trainer.test`.
    """

    __test__ = False  # for pytest, by its name

    def __init__(self, checkpoint: str | Path | None) -> None:
        super().__init__()
        self.checkpoint = checkpoint


class RunFolder(Callback):
    """Locks the logger's folder while a run writes to it, and keeps the rows of a resumed run's ``metrics.csv``.

    Lightning's `CSVLogger` removes a file that it finds. A validation by itself in the folder of a training run gets a
    folder of its own in it, ``validate-1`` and so on, as it may be of other problems or settings than those that the run
    was validated with. So does a test by `masa test`, ``test-1`` and so on, if an earlier one was of another checkpoint or
    of other settings. Every module of this package brings this callback along.
    """

    def __init__(self) -> None:
        super().__init__()
        self.apart = ""
        """Name of the folder of a validation by itself or another test, in that of its training run."""
        self._tests: tuple[Path, str] | None = None  # where the mark of a test goes, and what it is
        self._moved: list[tuple[Any, Any]] = []  # loggers that write to it, and what their version was
        self._lock: IO[str] | None = None
        self._csv: list[CSVLogger] = []
        self._events: list[Path] = []  # of TensorBoard, found in the folder
        self._silenced: list[tuple[ModelCheckpoint, Any]] = []  # and what their `save_last` was

    def enter(self, trainer: Trainer) -> None:
        """Locks, and puts rows aside; before loggers write anything.

        Raises:
            ValueError: If another run is writing to that folder.
        """
        self._come_back()
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        function = str(getattr(trainer.state.fn, "value", ""))
        if function in ("validate", "test"):
            self._step_aside(trainer, function)
        folder = log_folder(trainer)
        if folder is None:
            return
        if function in _LOCKED and self._lock is None:
            self._lock = _lock(folder, function)
        warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")
        begun = any(vars(logger).get("_experiment") is not None for logger in trainer.loggers)
        self._events = [] if begun or function != "fit" else [*folder.glob("events.out.tfevents*")]
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger) and vars(logger).get("_experiment") is None:
                file = Path(logger.log_dir, "metrics.csv")
                if file.is_file():
                    shutil.copyfile(file, file.with_name(_KEPT))  # Lightning removes it once there is something to log
                self._csv.append(logger)

    def leave(self) -> None:
        """Undoes `enter`, if nothing was logged since."""
        for logger in self._csv:
            kept = Path(logger.log_dir, _KEPT)
            if kept.is_file():
                kept.replace(kept.with_name("metrics.csv"))
        self._csv, self._events = [], []
        _release(self._lock)
        self._lock = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Marks the folder of a test with what is tested."""
        if self._tests is not None:
            file, what = self._tests
            writable(file.parent)
            file.write_text(what)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on with ``last.ckpt`` and metrics.csv of the run that is resumed; otherwise they are another's."""
        for saver in trainer.checkpoint_callbacks if trainer.ckpt_path is not None else ():
            if not isinstance(saver, ModelCheckpoint) or not saver.dirpath or saver.last_model_path:
                continue
            # A checkpoint that was written before last.ckpt does not know of it, and Lightning would begin last-v1.ckpt.
            if Path(str(trainer.ckpt_path)).resolve().is_relative_to(Path(saver.dirpath).resolve()):
                saver.last_model_path = saver.format_checkpoint_name({}, saver.CHECKPOINT_NAME_LAST)
        tries = bool(getattr(trainer, "fast_dev_run", False))
        if tries:  # Lightning saves no other checkpoint of it
            self._silenced = [(c, c.save_last) for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
            for saver, _ in self._silenced:
                saver.save_last = False
        if trainer.ckpt_path is None and not trainer.global_step and trainer.is_global_zero and not tries:
            self._keep_apart(trainer)
        done = run_state(pl_module).rollout_steps or trainer.global_step
        self._put_back(done if trainer.ckpt_path is not None or trainer.global_step else None)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the rows of an earlier ``metrics.csv``."""
        if trainer.state.fn == "validate":
            self._put_back(2**62)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the rows of an earlier ``metrics.csv``."""
        self._put_back(2**62)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores the rows of an earlier ``metrics.csv``."""
        self._put_back(2**62)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Marks the test as done."""
        if self._tests is not None:
            file, what = self._tests
            file.write_text(f"{what}\ndone\n")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unlocks the folder."""
        _release(self._lock)
        self._lock = None
        for saver, save_last in self._silenced:
            saver.save_last = save_last
        self._silenced = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unlocks the folder, and restores it if nothing had begun."""
        self.leave()
        self.teardown(trainer, pl_module, "")

    def _step_aside(self, trainer: Trainer, function: str) -> None:
        """Chooses a folder inside that of a training run: one whose files this test neither overwrites nor mixes with."""
        folder = _folder(trainer)
        if not any((folder / name).exists() for name in _OF_TRAINING):
            return
        writable(folder)
        if function == "test":
            tested = next((c for c in trainer.callbacks if isinstance(c, TestOf)), None)  # type: ignore[attr-defined]
            if tested is None:
                return
            what = _tested(trainer, tested.checkpoint)
            places = (folder, *(folder / f"test-{number}" for number in range(1, 10_000)))
            place = next(p for p in places if _mark(p)[:1] == [what] or not (_mark(p)[1:] or holds(p, _OF_A_TEST)))
            self._tests = place / _TESTED, what
            if place == folder:
                return
            self.apart = place.name
        else:
            for number in itertools.count(1):
                with suppress(FileExistsError):
                    (folder / f"validate-{number}").mkdir()
                    self.apart = f"validate-{number}"
                    break
        for logger in trainer.loggers:
            if isinstance(logger, (TensorBoardLogger, CSVLogger)) and vars(logger).get("_experiment") is None:
                version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
                self._moved.append((logger, vars(logger)["_version"]))
                vars(logger)["_version"] = str(Path(version, self.apart))
        # Of `ModelCheckpoint`, which has nothing to do here.
        warnings.filterwarnings("ignore", message="The dirpath has changed from")
        said = "has another test" if function == "test" else "is a training run's"
        this = "test" if function == "test" else "validation"
        rank_zero_info(f"{folder} {said}: this {this} is kept in {folder / self.apart}")

    def _come_back(self) -> None:
        """Lets loggers write where they did before a validation by itself or a test."""
        for logger, version in self._moved:
            vars(logger).update(_version=version, _experiment=None)
        self.apart, self._moved, self._tests = "", [], None

    def _keep_apart(self, trainer: Trainer) -> None:
        """Renames what an earlier run left where nobody made room for this one: in a script, that is."""
        for saver in (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath):
            last = Path(str(saver.dirpath), f"{saver.CHECKPOINT_NAME_LAST}{saver.FILE_EXTENSION}")
            if saver.save_last and not saver.last_model_path and os.path.lexists(last):
                # Lightning would leave it there, and begin last-v1.ckpt.
                rank_zero_info(f"{last} was another run's: it is kept as {set_aside(last).name}")
        if self._events:
            parent = self._events[0].parent
            earlier = next(p for n in itertools.count(1) if not (p := parent / f"earlier-{n}").exists())
            earlier.mkdir()  # which TensorBoard shows as a run of its own
            for file in self._events:
                file.rename(earlier / file.name)
            rank_zero_info(f"{parent} had TensorBoard's files of another run: they are kept in {earlier.name}")
            self._events = []

    def _put_back(self, steps: int | None) -> None:
        for logger in self._csv:
            kept = Path(logger.log_dir, _KEPT)
            if not kept.is_file():
                continue
            if steps is None:
                other = set_aside(kept.rename(kept.with_name("metrics.csv")))
                rank_zero_info(f"{logger.log_dir} had the metrics of another run: they are kept as {other.name}")
                continue
            with kept.open(newline="") as file:
                reader = csv.DictReader(file)
                names = list(reader.fieldnames or ())
                rows = [row for row in reader if row.get("step") and int(float(row["step"])) <= steps]
            if rows:
                writer_of_rows = logger.experiment  # which removes a file that it finds, so before there is one
                with replaced(kept.with_name("metrics.csv")) as temporary, temporary.open("w", newline="") as file:
                    writer = csv.DictWriter(file, fieldnames=names, extrasaction="ignore")
                    writer.writeheader()
                    writer.writerows(rows)
                writer_of_rows.metrics_keys = names
            kept.unlink()
        self._csv = []


def _tested(trainer: Trainer, of: str | Path | None) -> str:
    """Tells tests apart: by checkpoint, settings of module and data, controls, and how much of the data is taken."""
    checkpoint = Path(str(of)) if of else None
    files = [file for file in (checkpoint, checkpoint and checkpoint / "meta.pt") if file and file.is_file()]
    what = {
        "checkpoint": [str(checkpoint and checkpoint.resolve()), *(file.stat().st_mtime_ns for file in files)],
        "module": plain(dict(trainer.lightning_module.hparams_initial)),
        "data": plain(getattr(trainer, "datamodule", None)),
        "controls": [plain(c) for c in callbacks_of(trainer, RolloutControl)],
        "trainer": [str(trainer.limit_test_batches), str(trainer.precision), os.environ.get("PL_GLOBAL_SEED")],
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _mark(folder: Path) -> list[str]:
    """What was tested there, and whether that came to its end: a test that failed keeps no place."""
    try:
        return (folder / _TESTED).read_text().splitlines()
    except OSError:
        return []


def holds(folder: Path, patterns: Sequence[str]) -> bool:
    """Whether a folder has a file or folder of one of these names."""
    return any(next(folder.glob(pattern), None) for pattern in patterns)


def writable(folder: Path) -> Path:
    """Makes the folder of a run.

    Raises:
        ValueError: If it cannot be made, or nothing can be written into it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "no permission to write into it"
    except OSError as error:
        reason = error.strerror
    if reason is not None:
        raise ValueError(
            f"the run's folder {folder} cannot be made or written to ({reason}); expected one that can be: "
            "--trainer.logger.save_dir FOLDER, or --trainer.default_root_dir FOLDER without a logger"
        )
    return folder


def _lock(folder: Path, function: str) -> IO[str] | None:
    """Locks a folder until it is released or this process ends, however it ends."""
    file = writable(folder).joinpath(f".{function}.lock").open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read()
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(
                f"{folder} is in use by another masa {function}: {_holder(holder)}; two runs in one folder would mix. Wait "
                "for it or end it, or give this one a folder of its own: --trainer.logger.name NAME"
            ) from error
        rank_zero_warn(
            f"{folder} is on a file system without locks ({error}): see to it that one run alone writes to it"
        )
        return None
    file.truncate(0)
    who: dict[str, Any] = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    file.write(json.dumps(who))
    file.flush()
    return file


def _release(lock: IO[str] | None) -> None:
    if lock is not None:
        lock.close()


def _holder(text: str) -> str:
    try:
        who = json.loads(text)
        return f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown process"
