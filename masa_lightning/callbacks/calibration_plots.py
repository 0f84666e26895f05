"""Pictures of how well the policy predicts itself: over training steps, and after every validation and test."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple
from pathlib import Path
from typing import Any, Literal, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from matplotlib.figure import Figure
from torch import nn

from masa_lightning.checks import check_number
from masa_lightning.loggers.media import log_figure
from masa_lightning.metrics.figures import save_figure
from masa_lightning.metrics.over_steps import Gated, History, Means, gated_over_steps, means_over_steps
from masa_lightning.models.checkpoints import set_aside
from masa_lightning.modules.run_folder import run_folder
from masa_lightning.modules.run_state import run_state
from masa_lightning.quantities import Quantities, default_quantities, quantities_of

Stage = Literal["train", "validate", "test"]

_PREFIXES: dict[Stage, str] = {"train": "calibration", "validate": "calibration", "test": "calibration_test"}
_NAMES: dict[Stage, str] = {"train": "training", "validate": "validation", "test": "test"}
_MEANS = {"count", "predicted_mean", "predicted_std", "actual_mean", "actual_std"}
_Z = 1.96  # of a 95% interval


class CalibrationPlots(Callback):
    """Draws predicted against actual pass rates and lengths, on training problems over steps and on held-out ones.

    Of a validation or test: ``pass_rate_scatter``, ``pass_rate_reliability`` and ``length_scatter``; of what solutions state
    ``confidence_scatter`` and ``confidence_reliability``, and both kinds in ``self_knowledge``. Of training, after each
    validation and at the end: ``pass_rate_over_steps`` and ``length_over_steps``, the means of each step and those of the
    validations (the paper's figure 5), and where `PredictiveGating` acts or is in shadow mode ``gated_over_steps``, the
    share of problems that it skips (figure 4); each from its second point on. They go to every logger that takes pictures
    (`loggers.media`) as ``calibration/<picture>`` (``calibration_test/<picture>`` after a test) and to PNG files
    ``<stage>_<picture>_step<training steps>.png``. Nothing is drawn in the sanity check, nor of a quantity without a parsed
    prediction.

    The module logs ``calibration/<quantity>/predicted_mean`` and so on in each training step, and keeps its metrics in
    ``pl_module.calibration[stage][name]``, by the `metric_name` of its ``pl_module.quantities`` (the paper's where it has no
    such attribute), as `MASALightningModule` does, still filled when callbacks' ``on_validation_epoch_end`` run.

    Args:
        every_n_validations: Draws after every n-th validation, the first one included; the means are recorded after
            each.
        dirpath: Folder of the PNG files; default ``pictures`` in the run's folder.

    Raises:
        ValueError: If `every_n_validations` is no integer >= 1.

    Example:
        >>> callback = CalibrationPlots(every_n_validations=2)
        >>> callback.validations, callback.history["length"]
        (0, History(training=[], held_out=[]))
    """

    def __init__(self, every_n_validations: int = 1, dirpath: str | None = None) -> None:
        super().__init__()
        check_number("every_n_validations", every_n_validations, ">= 1", whole=True)
        self.every_n_validations = every_n_validations
        self.dirpath = dirpath
        self.validations = 0
        known = Quantities(default_quantities(), budget=1).metrics()
        self.history: defaultdict[str, History] = defaultdict(History, {name: History() for name in known})
        """Means so far, by `Quantity.metric_name`."""
        self.gated: list[Gated] = []
        """Shares that `PredictiveGating` decided on so far."""
        self._drawn = -1  # step of the last pictures over steps

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses modules that make no predictions.

        Raises:
            TypeError: If the module has no calibration metrics.
        """
        if not isinstance(getattr(pl_module, "calibration", None), nn.ModuleDict):
            raise TypeError(
                f"CalibrationPlots found no `calibration` metrics on {type(pl_module).__name__}; "
                "expected a MASALightningModule, or one with a `confidence`: remove the callback where nothing is predicted "
                "or stated"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keeps an earlier run's pictures under another name; a resumed run adds to its own."""
        folder = self._pictures(run_folder(trainer))  # a collective
        self._drawn = -1
        goes_on = trainer.ckpt_path is not None or trainer.global_step > 0
        if trainer.is_global_zero and not goes_on and _has_pictures(folder):
            rank_zero_info(f"{folder} had the pictures of another run: they are kept as {set_aside(folder).name}")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Records what the step logged."""
        logged, step = trainer.callback_metrics, trainer.global_step
        for quantity in (q.metric_name for q in quantities_of(pl_module)):
            metrics = {
                name.rpartition("/")[2]: v for name, v in logged.items() if name.startswith(f"calibration/{quantity}/")
            }
            if metrics.keys() >= _MEANS and (count := metrics["count"].item()):
                _add(
                    self.history[quantity].training,
                    Means(
                        step,
                        *(metrics[f"{name}_mean"].item() for name in ("predicted", "actual")),
                        *(_Z * metrics[f"{name}_std"].item() / count**0.5 for name in ("predicted", "actual")),
                    ),
                )
        shares = [logged.get(f"controls/gating/{name}_share") for name in ("hopeless", "trivial", "acted")]
        if all(share is not None for share in shares):
            _add(self.gated, Gated(step, *(share.item() for share in shares if share is not None)))

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

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws what was over steps, unless the last validation did."""
        run = run_folder(trainer)  # a collective
        if self._drawn != trainer.global_step:
            self._publish(trainer, run, "train", self._over_steps(trainer, pl_module, run), trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        """The history, so that a resumed run continues its lines; plain values."""
        return {
            "validations": self.validations,
            "history": {name: [astuple(row) for row in history.held_out] for name, history in self.history.items()},
            "training": {name: [astuple(row) for row in history.training] for name, history in self.history.items()},
            "gated": [astuple(row) for row in self.gated],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the history; a checkpoint of an earlier version has none of training."""
        self.validations = state_dict["validations"]
        training = state_dict.get("training", {})
        self.history.clear()
        self.history |= {
            name: History(
                training=[Means(*row) for row in training.get(name, [])], held_out=[Means(*row) for row in rows]
            )
            for name, rows in state_dict["history"].items()
        }
        self.gated = [Gated(*row) for row in state_dict.get("gated", [])]

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: Stage, *, draw: bool) -> None:
        # Collectives (the points, the folder) come first and are entered by every process.
        metrics = cast("nn.ModuleDict", cast("nn.ModuleDict", pl_module.calibration)[stage])
        points = {name: cast("Any", metric).points() for name, metric in metrics.items()}
        run = run_folder(trainer)
        fits = trainer.state.fn == "fit"
        if fits:
            for name, each in points.items():
                self._record(name, trainer.global_step, each)
        if not draw:
            return
        # Outside of training Lightning's own count is 0.
        step = trainer.global_step if fits else run_state(pl_module).rollout_steps or trainer.global_step
        figures = quantities_of(pl_module).pictures(points, _where(run, stage, step))
        self._publish(trainer, run, stage, figures, step)
        if fits:
            self._drawn = step
            self._publish(trainer, run, "train", self._over_steps(trainer, pl_module, run), step)

    def _record(self, name: str, step: int, points: Any) -> None:
        if count := len(points.predicted):
            sides = (points.predicted, points.actual)
            means = [side.mean().item() for side in sides]
            halves = [_Z * side.std(correction=0).item() / count**0.5 for side in sides]
            _add(self.history[name].held_out, Means(step, *means, *halves))

    def _over_steps(self, trainer: pl.Trainer, pl_module: pl.LightningModule, run: Path) -> dict[str, Figure]:
        figures: dict[str, Figure] = {}
        where = _where(run, "train", trainer.global_step)
        for q in quantities_of(pl_module):
            history = self.history[q.metric_name]
            if _lines(history):
                label = f"Mean {q.title.lower()} ({q.unit})" if q.unit else f"Mean {q.title.lower()}"
                figure = means_over_steps(history, q.title, label, greatest=q.greatest, where=where)
                figures[f"{q.metric_name}_over_steps"] = figure
        if len(self.gated) > 1:
            figures["gated_over_steps"] = gated_over_steps(self.gated, where)
        return figures

    def _pictures(self, run: Path) -> Path:
        return Path(self.dirpath) if self.dirpath else run / "pictures"

    def _publish(self, trainer: pl.Trainer, run: Path, stage: Stage, figures: dict[str, Figure], step: int) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = self._pictures(run)
        for name, figure in figures.items():
            log_figure(trainer.loggers, f"{_PREFIXES[stage]}/{name}", figure, step)
            try:
                save_figure(figure, folder / f"{stage}_{name}_step{step:06d}.png")
            except OSError as error:  # a full disk must not end a training run over a picture
                rank_zero_warn(f"CalibrationPlots could not write {name} to {folder}: {error}")


def _lines(history: History) -> bool:
    """Whether there are two points of anything: one is no line over steps."""
    return max(len(history.training), len(history.held_out)) > 1


def _add(rows: list[Any], row: Means | Gated) -> None:
    """Appends; rows of the same step and of later ones, of before an interruption, go."""
    while rows and rows[-1].step >= row.step:
        rows.pop()
    rows.append(row)


def _has_pictures(folder: Path) -> bool:
    """Whether there are pictures of training or validation; those of a test are of no run."""
    return any(next(folder.glob(f"{stage}_*.png"), None) for stage in ("train", "validate"))


def _where(run: Path, stage: Stage, step: int) -> str:
    name = f"{run.parent.name}/{run.name}" if run.name.startswith("version_") else run.name
    return f"{name} \u00b7 {_NAMES[stage]} \u00b7 step {step}"
