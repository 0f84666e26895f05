"""How a run ends early: at a SIGTERM with a checkpoint, and at the end of another process with an explanation."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from masa_lightning.distributed import Processes, end_of_another

STATUS = 128 + signal.SIGTERM
"""Exit status of a run that a SIGTERM has ended, as shells have it."""


class SaveOnSigterm(Callback):
    """Ends training at a SIGTERM, with status 143, once the current step or validation is done and a checkpoint is saved.

    It is written to ``last.ckpt`` in the folder of the first `ModelCheckpoint`; without one, nothing is saved, and a warning
    says so. With several processes all end after the same step, whichever of them got the signal. A second SIGTERM ends the
    process at once, as does one outside of training. Every module of this package brings it along.
    """

    def __init__(self) -> None:
        super().__init__()
        self.received = False
        self._before: Any = None  # the handler that was there before Lightning's
        self._owner = 0
        self._processes = Processes(0, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Notes the SIGTERM handler that is there before Lightning replaces it."""
        self.received = False
        self._before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replaces Lightning's handler, which saves nothing and talks to other processes at any time."""
        self._processes = Processes(trainer.global_rank, trainer.world_size)
        self.received = trainer.received_sigterm  # since Lightning took it, as in the sanity check
        self._owner = os.getpid()
        self._handle(self._note)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A test ends at once, as any program; Lightning's would end with status 0."""
        self._handle(self._before)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As a test."""
        self._handle(self._before)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As a test, outside of training."""
        if trainer.state.fn == "validate":
            self._handle(self._before)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Ends training if one of the processes got the signal."""
        self._end_if_asked(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends training if one of the processes got the signal."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._end_if_asked(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Training is over: a SIGTERM from here on ends the process at once."""
        self._end_if_asked(trainer)
        self._handle(self._before)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Explains an error that comes of the end of another process, wherever this one waited for it."""
        if explanation := end_of_another(exception, trainer.global_rank, trainer.world_size):
            exception.add_note(explanation)

    # -- the signal --------------------------------------------------------------------------------------------------

    def _note(self, number: int, frame: Any) -> None:
        if os.getpid() != self._owner or self.received:  # a child that was forked and has its own life; a second signal
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.received = True
        if callable(self._before):
            self._before(number, frame)

    @staticmethod
    def _handle(handler: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if handler is None else handler)

    def _end_if_asked(self, trainer: Trainer) -> None:
        with self._processes.together():
            if not any(self._processes.gather(self.received)):
                return
        savers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.dirpath]
        if savers and not getattr(trainer, "fast_dev_run", False):
            saver = savers[0]
            path = Path(str(saver.dirpath), f"{saver.CHECKPOINT_NAME_LAST}{saver.FILE_EXTENSION}")
            trainer.save_checkpoint(path)
            rank_zero_info(f"SIGTERM: saved {path} after step {trainer.global_step}; go on with --ckpt_path last")
        else:
            rank_zero_warn(
                f"SIGTERM: the run ends after step {trainer.global_step} without a checkpoint, as there is no "
                "ModelCheckpoint"
            )
        raise SystemExit(STATUS)
