"""A checkpoint has what the validation of its weights found, also where it was written before that validation."""

from __future__ import annotations

import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning.models.shards import META
from masa_lightning.modules.checkpointing import local_path


def save_validated(trainer: Trainer, steps: int) -> None:
    """Writes the checkpoints of the current step again if they do not have its validation; a collective.

    Lightning's ``every_n_train_steps`` saves after a training step, before the validation that may follow: a kill in
    between must lose nothing. The results, and what callbacks keep of them, then are in no checkpoint of these weights.

    Args:
        trainer: In which a validation was done.
        steps: Training steps so far.
    """
    again: dict[str, bool] = {}
    for saver in (c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath):
        paths = [saver.last_model_path, saver.best_model_path, *saver.best_k_models]
        if trainer.is_global_zero:
            again |= {str(p): saver.save_weights_only for p in _here(paths, str(saver.dirpath)) if _lacks(p, steps)}
    for path, weights_only in trainer.strategy.broadcast(again).items():
        trainer.save_checkpoint(path, weights_only)


def _here(paths: list[str], folder: str) -> list[Path]:
    """Files and folders of shards in a folder, and not the links to them: one that a run began from may be elsewhere."""
    places = [place.resolve() for path in paths if path and (place := local_path(path)) is not None]
    return [place for place in dict.fromkeys(places) if place.parent == Path(folder).resolve()]


def _lacks(checkpoint: Path, steps: int) -> bool:
    saved: Any = {}
    # One of an earlier session may be broken; it is not this step's then.
    with suppress(OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        file = checkpoint / META if checkpoint.is_dir() else checkpoint
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    state = saved.get("masa") or {}
    validation = (state.get("run") or {}).get("validation") or {}
    return state.get("rollout_steps") == steps != validation.get("rollout_steps")
