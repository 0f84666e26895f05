"""Pictures of how well the policy predicts itself, after every validation and test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from torch import nn

from masa_lightning.metrics.calibration import LengthCalibration, LengthPoints, PassRateCalibration, PassRatePoints
from masa_lightning.metrics.figures import calibration_figures, means_over_steps, save_figure
from masa_lightning.models.checkpoints import set_aside

Stage = Literal["validate", "test"]
Quantity = Literal["pass_rate", "length"]

YLABELS: dict[Quantity, str] = {
    "pass_rate": "Mean pass rate (share of correct rollouts)",
    "length": "Mean solution length (tokens)",
}


class CalibrationPlots(Callback):
    """Draws predicted against actual pass rates and lengths on held-out problems.

    Pictures: ``pass_rate_scatter``, ``pass_rate_reliability``, ``length_scatter``, and during `fit` the means
    over steps, ``pass_rate_over_steps`` and ``length_over_steps``. They go to every TensorBoard logger under the tag
    ``calibration/<picture>`` (``calibration_test/<picture>`` after a test) and to PNG files
    ``<stage>_<picture>_step<global step>.png``. Nothing is drawn in the sanity check, nor of a quantity without a
    parsed prediction.

    The module keeps its metrics in ``pl_module.calibration[stage]["pass_rate" | "length"]``, as `MASALightningModule`
    does, still filled when callbacks' ``on_validation_epoch_end`` run.

    Args:
        every_n_validations: Draws after every n-th validation, the first one included; the means are recorded after
            each.
        dirpath: Folder of the PNG files; default ``pictures`` in the logger's folder.

    Raises:
        ValueError: If `every_n_validations` is less than 1.

    Example:
        >>> callback = CalibrationPlots(every_n_validations=2)
        >>> callback.state_dict()
        {'validations': 0, 'history': {'pass_rate': [], 'length': []}}
    """

    def __init__(self, every_n_validations: int = 1, dirpath: str | None = None) -> None:
        super().__init__()
        if every_n_validations < 1:
            raise ValueError(f"every_n_validations is {every_n_validations}; expected >= 1")
        self.every_n_validations = every_n_validations
        self.dirpath = dirpath
        self.validations = 0
        self.history: dict[Quantity, list[tuple[int, float, float]]] = {"pass_rate": [], "length": []}
        """Step, predicted mean and actual mean of each validation."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses modules that make no predictions.

        Raises:
            TypeError: If the module has no calibration metrics.
        """
        if not isinstance(getattr(pl_module, "calibration", None), nn.ModuleDict):
            raise TypeError(
                f"CalibrationPlots found no `calibration` metrics on {type(pl_module).__name__}; "
                "expected a MASALightningModule: remove the callback where there are no meta rollouts"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps an earlier run's pictures under another name; a run that is resumed goes on with its own."""
        folder = self._folder(trainer)  # a collective
        goes_on = trainer.ckpt_path is not None or trainer.global_step > 0
        if trainer.is_global_zero and not goes_on and next(folder.glob("validate_*.png"), None):
            rank_zero_info(f"{folder} had the pictures of another run: they are kept as {set_aside(folder).name}")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the means and draws."""
        if trainer.sanity_checking:
            return
        draw = self.validations % self.every_n_validations == 0
        self.validations += 1
        self._report(trainer, pl_module, "validate", draw=draw)

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws."""
        self._report(trainer, pl_module, "test", draw=True)

    def state_dict(self) -> dict[str, Any]:
        """The history, so that a resumed run continues its lines."""
        return {"validations": self.validations, "history": {name: list(rows) for name, rows in self.history.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the history of a checkpoint."""
        self.validations = state_dict["validations"]
        self.history = {name: [tuple(row) for row in rows] for name, rows in state_dict["history"].items()}

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: Stage, *, draw: bool) -> None:
        # Collectives (the points, the folder) come first and are entered by every process.
        metrics = cast("nn.ModuleDict", cast("nn.ModuleDict", pl_module.calibration)[stage])
        rates = cast("PassRateCalibration", metrics["pass_rate"]).points()
        lengths = cast("LengthCalibration", metrics["length"]).points()
        folder = self._folder(trainer)
        if trainer.state.fn == "fit":
            self._record("pass_rate", trainer.global_step, rates)
            self._record("length", trainer.global_step, lengths)
        if draw and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            figures = self._figures(rates, lengths, with_history=trainer.state.fn == "fit")
            # Outside of training Lightning's own count is 0.
            done = 0 if trainer.state.fn == "fit" else int(getattr(pl_module, "rollout_steps", 0))
            _publish(trainer, folder, stage, figures, done or trainer.global_step)

    def _folder(self, trainer: pl.Trainer) -> Path:
        return Path(self.dirpath or os.path.join(trainer.log_dir or trainer.default_root_dir, "pictures"))

    def _record(self, quantity: Quantity, step: int, points: PassRatePoints | LengthPoints) -> None:
        if len(points.predicted):
            row = (step, points.predicted.mean().item(), points.actual.mean().item())
            self.history[quantity] = [old for old in self.history[quantity] if old[0] < step] + [row]

    def _figures(self, rates: PassRatePoints, lengths: LengthPoints, *, with_history: bool) -> dict[str, Figure]:
        figures = calibration_figures(rates, lengths)
        if with_history:
            for quantity, rows in self.history.items():
                if rows:
                    steps, predicted, actual = zip(*rows, strict=True)
                    figures[f"{quantity}_over_steps"] = means_over_steps(steps, predicted, actual, YLABELS[quantity])
        return figures


def _publish(trainer: pl.Trainer, folder: Path, stage: Stage, figures: dict[str, Figure], step: int) -> None:
    prefix = "calibration" if stage == "validate" else "calibration_test"
    for name, figure in figures.items():
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(f"{prefix}/{name}", figure, global_step=step)
        try:
            save_figure(figure, folder / f"{stage}_{name}_step{step:06d}.png")
        except OSError as error:  # a full disk must not end a training run over a picture
            rank_zero_warn(f"CalibrationPlots could not write {name} to {folder}: {error}")
