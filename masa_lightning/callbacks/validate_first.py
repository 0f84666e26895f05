"""A validation before the first training step: what a run is compared with."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.utilities.seed import isolate_rng


class ValidateFirst(Callback):
    """Validates before the first training step, and after the last one if there was no other validation in between.

    So a run has a before and an after, and costs one validation more. The first is logged at step 0. A run that is resumed
    does not repeat it, and ends as it would have without the interruption; `fast_dev_run` has none. Training goes as it
    would without; `EarlyStopping` does not count it. Lightning's sanity check is of no use beside it:
    `Trainer(num_sanity_val_steps=0)`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._validations = 0  # after a step of the run
        self._first = False
        self._closed = 0  # step after which a run ended with a validation of this callback
        self._closing = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Starts counting; the state of a resumed run is loaded after this."""
        self._validations, self._first, self._closed, self._closing = 0, False, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Returns what decides whether a validation follows the last step."""
        return {"first": self._first, "validations": self._validations, "closed": self._closed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it from a checkpoint."""
        self._first, self._validations = state_dict["first"], state_dict["validations"]
        self._closed = state_dict.get("closed", 0)  # earlier versions kept none

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates, before the first step of a new run."""
        if trainer.ckpt_path is None and not trainer.global_step and not self._first:
            self._first = True
            stop = trainer.should_stop
            early = [(c, c.state_dict(), c.strict) for c in _callbacks(trainer) if isinstance(c, EarlyStopping)]
            for callback, *_ in early:
                callback.strict &= callback.monitor.startswith("val")  # others may be what the first step logs
            _validate(trainer)
            for callback, state, strict in early:  # which would count it, or stop a run that has not begun
                callback.load_state_dict(state)
                callback.strict, trainer.should_stop = strict, stop

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts those after a step; of a run that is made longer the closing one, ours or Lightning's, is not the last."""
        if self._closing or (trainer.should_stop and trainer.global_step):  # Lightning validates where a run is stopped
            self._closed = trainer.global_step
        else:
            self._validations += not trainer.sanity_checking and trainer.global_step > 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates, if there is nothing to compare the first one with."""
        if self._first and trainer.global_step not in (0, self._closed) and not self._validations:
            self._closing = True
            _validate(trainer)
            self._closing = False


def _callbacks(trainer: Any) -> list[Callback]:
    return list(trainer.callbacks)


def _validate(trainer: Any) -> None:
    """Runs Lightning's validation loop as its training loop does."""
    if trainer.fast_dev_run or not trainer.enable_validation:
        return
    trainer.validating = True
    with isolate_rng():
        trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
