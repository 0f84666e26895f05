"""The last step of a run is in a checkpoint, also where its number is no multiple of the saving interval."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint

from masa_lightning.modules.run_state import run_state


class SaveLastStep(Checkpoint):
    """Lets a `ModelCheckpoint` that keeps the last checkpoint save after the last step of a run.

    Lightning's own saves at multiples of ``every_n_train_steps`` alone. It goes by the same names, and keeps as many
    files. One that keeps the best by a metric, without ``save_last``, is left as it is. As a `Checkpoint` this callback
    comes after all others: what was saved already is not saved twice. A validation that follows is added to it
    (`validated.save_validated`). Every module of this package brings it along.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, if training ends here; a collective."""
        limits = ((trainer.max_steps, trainer.global_step), (trainer.max_epochs or -1, trainer.current_epoch + 1))
        ends = trainer.should_stop or any(0 <= most <= done for most, done in limits)
        took_steps = run_state(pl_module).session_steps > 0  # or all of them are in the checkpoint that it resumes from
        for saver in trainer.checkpoint_callbacks if ends and took_steps else ():
            if isinstance(saver, ModelCheckpoint) and not saver._should_skip_saving_checkpoint(trainer):
                _save(trainer, saver)


def _save(trainer: Trainer, saver: ModelCheckpoint) -> None:
    """Saves as it does after a step of its interval."""
    metrics: dict[str, Any] = saver._monitor_candidates(trainer)
    if saver.monitor in (None, "step"):
        saver._save_topk_checkpoint(trainer, metrics)
    kept = saver.save_last
    if not saver._should_skip_saving_checkpoint(trainer):  # a link would lead to an earlier step
        saver.save_last = bool(kept)
    saver._save_last_checkpoint(trainer, metrics)
    saver.save_last = kept
