"""A progress bar that moves inside a step: which phase, how far, how well, how fast."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

_SHOWN = {"reward": "reward", "pass_rate": "pass rate", "meta/reward": "meta", "tokens_per_second": "tok/s"}


class RolloutProgressBar(TQDMProgressBar):
    """Lightning's bar plus the phase inside the step, the last step's rewards and pass rate, and tokens per second.

    Satisfies `types.PhaseListener`.

    Args:
        refresh_rate: Update at every how many batches; 0 shows nothing.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self._description = ""

    def on_phase_progress(self, phase: str, done: int, total: int) -> None:
        """Shows the phase in front of the bar; called by the module."""
        bar = self._bar()
        if bar is None:
            return
        self._description = self._description or str(bar.desc)
        percent = "" if total == 0 else f" {100 * done // total:3d}%"
        bar.set_description(f"{self._description} {phase:<8s}{percent}", refresh=False)
        bar.update(0)  # redraws at most ten times a second, tqdm's own limit
        if done == total:
            bar.refresh()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The few figures shown behind the bar."""
        logged = trainer.callback_metrics
        return {label: f"{logged[name]:.3g}" for name, label in _SHOWN.items() if name in logged}

    def _bar(self) -> Any:
        trainer = getattr(self, "_trainer", None)
        if trainer is None or not self.is_enabled:
            return None
        bar = {
            "train": self._train_progress_bar,
            "validate": self._val_progress_bar,
            "sanity_check": self._val_progress_bar,
            "test": self._test_progress_bar,
            "predict": self._predict_progress_bar,
        }.get(str(getattr(trainer.state.stage, "value", "")))
        return bar
