"""Checkpoints that survive a full disk and a kill while they are written, in any Trainer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from fsspec.implementations.local import LocalFileSystem  # type: ignore[import-untyped]
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _load as load
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributed.checkpoint.api import CheckpointException

from masa_lightning.models.checkpoints import causes, linked, reading, removed, replaced
from masa_lightning.models.shards import META, check_shards, read_whole


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's local files beside their final path, syncs and renames them; others as Lightning does.

    Lightning writes to the temporary folder and moves the file, which copies it where that is another file system.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trains = False
        """Whether training is resumed from what is loaded; a folder of shards lacks what one process needs for that."""
        self._last: Path | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: If it could not be written; an earlier checkpoint of that name is still there.
        """
        place = local_path(path)
        if storage_options is not None or place is None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with _explained(place), replaced(place) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
        self.written(place)

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Reads a checkpoint, and runs nothing that it holds unless ``weights_only`` is False.

        A folder of shards, which another strategy wrote, is read whole, to be measured.

        Raises:
            ValueError: If it is cut short or something else, or training is to go on from a folder of shards; it is named.
        """
        if Path(path, META).is_file():
            if self.trains:
                raise ValueError(
                    f"checkpoint {str(path)!r} is a folder of shards, which ModelParallelStrategy (FSDP2) wrote, and this "
                    "run has another strategy; expected that one, with as many devices as you like. A new run "
                    "from its weights: masa export CHECKPOINT FOLDER, then model: FOLDER"
                )
            return read_whole(Path(path))
        if kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True  # Lightning's default for a URL is False
        with reading(path):
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
            if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
                found = list(checkpoint)[:4] if isinstance(checkpoint, dict) else type(checkpoint).__name__
                raise ValueError(f"a Lightning checkpoint has a state_dict, and this has {found}")
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a file or folder; links to it, such as ``last.ckpt``, then lead to what was written last."""
        place = local_path(path)
        if place is None:
            super().remove_checkpoint(path)
            return
        if self._last is not None and self._last != place and self._last.parent == place.parent:
            for link in place.parent.glob("*.ckpt"):
                if link.is_symlink() and link.parent / os.readlink(link) == place:
                    linked(self._last, link)
        removed(place)

    def written(self, place: Path) -> None:
        """Remembers what was written last."""
        self._last = place


def make_durable(trainer: Trainer) -> None:
    """Lets a trainer write checkpoints that way, unless its user gave a `CheckpointIO` or a strategy of their own."""
    strategy = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = DurableCheckpointIO()
    if not isinstance(strategy.checkpoint_io, DurableCheckpointIO):
        return
    strategy.checkpoint_io.trains = trainer.state.fn == TrainerFn.FITTING
    own = type(strategy).save_checkpoint is not ModelParallelStrategy.save_checkpoint or "save_checkpoint" in vars(
        strategy
    )
    if isinstance(strategy, ModelParallelStrategy) and not own:
        # Of this object alone: Lightning writes folders of shards, and has no plugin for how.
        vars(strategy)["load_checkpoint"] = partial(_load_shards, strategy, strategy.load_checkpoint)
        vars(strategy)["save_checkpoint"] = partial(_save_shards, strategy, strategy.save_checkpoint)
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.save_last == "link":
            vars(callback)["_link_checkpoint"] = _link  # Lightning removes the old link first


def check_savers(trainer: Trainer) -> None:
    """Checks the trainer's `ModelCheckpoint`s before anything is trained.

    Raises:
        ValueError: If one goes by the clock.
    """
    for callback in trainer.checkpoint_callbacks:
        interval = getattr(callback, "_train_time_interval", None)
        if isinstance(callback, ModelCheckpoint) and interval is not None:
            raise ValueError(
                f"a ModelCheckpoint has train_time_interval={interval}, which Lightning passes over in modules that take "
                "their optimiser steps themselves, as these do: it would write no checkpoint; expected "
                "every_n_train_steps=N, which counts training steps"
            )


@contextmanager
def as_file(checkpoint: Any, *, without: Collection[str] = ()) -> Iterator[Any]:
    """Yields what Lightning's `load_from_checkpoint` reads: the checkpoint itself, or a temporary file made of it.

    Args:
        checkpoint: A path, an address or an open file.
        without: Settings to leave out, which Lightning would hand to a class that has them no more.

    Raises:
        ValueError: If a folder of shards cannot be read.
    """
    sharded = isinstance(checkpoint, (str, Path)) and Path(checkpoint, META).is_file()
    if not sharded and not without:
        yield checkpoint
        return
    whole = read_whole(Path(checkpoint)) if sharded else load(checkpoint, map_location="cpu", weights_only=True)
    for name in without:
        whole["hyper_parameters"].pop(name, None)
    with TemporaryFile() as file:  # not in memory, which the weights themselves take twice already
        torch.save(whole, file)
        file.seek(0)
        yield file


def local_path(path: str | Path) -> Path | None:
    """The local path of a path or URL; None if it is on no local file system."""
    system, place = url_to_fs(str(path))
    return Path(place) if isinstance(system, LocalFileSystem) else None


def _save_shards(
    strategy: ModelParallelStrategy, save: Any, checkpoint: dict[str, Any], filepath: str | Path, **options: Any
) -> None:
    """Each process writes its shards into one folder beside the target, which the first one then puts into its place."""
    place = local_path(filepath)
    if place is None or strategy.global_rank or options.get("storage_options") is not None:
        save(checkpoint, filepath, **options)  # Lightning takes the first process's path
        return
    sharded = bool(strategy._save_distributed_checkpoint)
    if not sharded and not place.is_dir():
        save(checkpoint, place, **options)
        return
    with _explained(place), replaced(place, folder=sharded) as temporary:
        save(checkpoint, temporary, **options)
    io = strategy.checkpoint_io
    assert isinstance(io, DurableCheckpointIO)
    io.written(place)


@contextmanager
def _explained(place: Path) -> Iterator[None]:
    """Says which checkpoint could not be written, why, and that the one before is still there."""
    try:
        yield
    except (OSError, RuntimeError, CheckpointException) as error:
        reason = next((e for e in causes(error) if isinstance(e, OSError)), None)
        if reason is None:
            raise  # not of the file system
        free = shutil.disk_usage(next(p for p in place.absolute().parents if p.exists())).free
        before = "The one before is still there, whole" if place.exists() else "Nothing of that name is there"
        raise OSError(
            reason.errno,
            f"checkpoint {str(place)!r} could not be written: {reason.strerror or reason}; {free:,} bytes are free there, "
            f"and old and new have to fit at once. {before}. Make room and go on: --ckpt_path last",
        ) from error


def _load_shards(strategy: ModelParallelStrategy, load: Any, checkpoint_path: str | Path, **options: Any) -> Any:
    if options.get("weights_only") is None:
        options["weights_only"] = True
    if options["weights_only"] and Path(checkpoint_path, ".metadata").is_file():
        check_shards(Path(checkpoint_path))
    with reading(checkpoint_path):
        return load(checkpoint_path, **options)


def _link(trainer: Trainer, filepath: str, linkpath: str) -> None:
    if trainer.is_global_zero and os.path.abspath(filepath) != os.path.abspath(linkpath):
        linked(Path(filepath), Path(linkpath))
    trainer.strategy.barrier()
