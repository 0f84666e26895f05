"""What a run is and how it goes, at one look in the loggers."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from masa_lightning.loggers.media import Chart, log_board, log_settings
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.provenance import provenance
from masa_lightning.protocols import RolloutControl

_SOLVING: dict[str, Chart] = {
    "Solved: training, and held-out pass@1": ["pass_rate$", "val/pass@1$"],
    "Held-out pass@1 and its 95% interval": ("val/pass@1", "val/pass@1_low", "val/pass@1_high"),
    "Tokens of a completion": ["completions/mean_length$", "meta/completions/mean_length$"],
    "Share of groups without a gradient, and of solutions cut off": [
        "frac_reward_zero_std$",
        "completions/clipped_ratio$",
    ],
    "Entropy": ["entropy$"],
}
_PREDICTING: dict[str, Chart] = {
    "Pass rate: predicted and actual mean": ["calibration/pass_rate/(predicted|actual)_mean$"],
    "Solution length: predicted and actual mean": ["calibration/length/(predicted|actual)_mean$"],
    "Predicted against actual: correlation": ["(val/)?calibration/(pass_rate|length)/pearson$"],
    "Predicted against actual pass rate: mean error": ["(val/)?calibration/pass_rate/mae$"],
    "Rewards of predictions": ["meta/reward$", r"meta/rewards/\w+/mean$", "meta/parse_rate$"],
}
_CONTROLS: dict[str, Chart] = {
    "Share of problems acted on": [r"controls/\w+/acted_share$"],
    "Correct rollouts lost": [r"controls/\w+/lost_correct$"],
    "Tokens saved, and spent on audits": [r"tokens/(saved|audit)_\w+$"],
}
_SUMMARY = ("val/pass@1", "val/calibration/pass_rate/pearson", "val/calibration/pass_rate/mae", "tokens_total/trained")


class RunOverview(Callback):
    """Gives the loggers the settings of data, callbacks and Trainer, and TensorBoard a page of the figures to look at first.

    Lightning logs the settings of the module; these stand beside them. In TensorBoard the page is CUSTOM SCALARS: ten
    figures, five of them of predictions, and three more where controls are used. The tab HPARAMS shows all settings with
    how well the run does, if its logger has ``default_hp_metric: false``, as those of this package's configurations have:
    otherwise Lightning has filled it with the module's alone.

    Example:
        >>> board = RunOverview.board(predicts=True, controls=False)
        >>> [len(figures) for figures in board.values()]
        [10]
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs settings, just before Lightning logs the module's.

        Raises:
            TypeError: If the module is none of this package's.
        """
        if not isinstance(pl_module, GRPOLightningModule):
            raise TypeError(
                f"RunOverview shows rollouts, and {type(pl_module).__name__} makes none; expected a GRPO or MASA Lightning "
                "module"
            )
        if trainer.is_global_zero:
            log_settings(trainer.loggers, settings_around(pl_module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lays out TensorBoard."""
        if trainer.is_global_zero:
            predicts = bool(getattr(pl_module, "num_meta_generations", 0))
            callbacks: list[Any] = getattr(trainer, "callbacks", [])
            controls = any(issubclass(type(c), RolloutControl) for c in callbacks)
            log_board(trainer.loggers, self.board(predicts=predicts, controls=controls), _SUMMARY)

    @staticmethod
    def board(*, predicts: bool, controls: bool) -> dict[str, dict[str, Chart]]:
        """Titles of pages and of their figures, and what these show, as of `loggers.media.log_board`."""
        first = _SOLVING | (_PREDICTING if predicts else {})
        return {"Overview": first} | ({"Controls": _CONTROLS} if controls else {})


def settings_around(module: GRPOLightningModule) -> dict[str, Any]:
    """The settings of a run that are not the module's, as plain values: of data, callbacks and Trainer."""
    run, trainer = provenance(module), module.trainer
    return {
        "data": run["data"],
        "callbacks": {each["class"]: {n: v for n, v in each.items() if n != "class"} for each in run["callbacks"]},
        "trainer": {
            "max_steps": trainer.max_steps,
            "max_epochs": trainer.max_epochs,
            "precision": run["precision"],
            "processes": run["processes"],
            "seed": run["seed"],
        },
    }
