"""The settings of a run and the charts to look at first, in the loggers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from masa_lightning.functional.confidence import CONFIDENCE
from masa_lightning.loggers.media import Chart, log_board, log_settings
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.listeners import callbacks_of
from masa_lightning.modules.provenance import provenance
from masa_lightning.protocols import RolloutControl
from masa_lightning.quantities import Quantity, ShownQuantity, StatedConfidence, quantities_of, shown

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
_CONTROLS: dict[str, Chart] = {
    "Share of problems acted on": [r"controls/\w+/acted_share$"],
    "Correct rollouts lost": [r"controls/\w+/lost_correct$"],
    "Tokens saved, and spent on audits": [r"tokens/(saved|audit)_\w+$"],
}


class RunOverview(Callback):
    """Gives the loggers the settings of data, callbacks and Trainer, and TensorBoard a page of the charts to look at first.

    Lightning logs the settings of the module; these stand beside them. In TensorBoard the page is CUSTOM SCALARS: ten
    charts, five of them of predictions, and more where confidences are stated or controls are used. The tab HPARAMS shows
    all settings with how well the run does, if its logger has ``default_hp_metric: false``, as those of this package's
    configurations have: otherwise Lightning has filled it with the module's alone.

    Example:
        >>> from masa_lightning.quantities import default_quantities
        >>> board = RunOverview.board(default_quantities(), controls=False)
        >>> [len(charts) for charts in board.values()]
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
            quantities = quantities_of(pl_module)
            controls = bool(callbacks_of(trainer, RolloutControl))
            stated = () if quantities.confidence is None else (quantities.confidence,)
            board = self.board(quantities if predicts else stated, controls=controls)
            tags = [tag for q in quantities.shown()[:1] for tag in (q.tag("pearson", "val/"), q.tag("mae", "val/"))]
            log_board(trainer.loggers, board, ("val/pass@1", *tags, "tokens_total/trained"))

    @staticmethod
    def board(quantities: Iterable[Quantity | StatedConfidence], *, controls: bool) -> dict[str, dict[str, Chart]]:
        """Titles of pages and of their charts, and what these show, as of `loggers.media.log_board`.

        Args:
            quantities: What is predicted or stated, if anything is.
            controls: Whether there are any.
        """
        return {"Overview": _SOLVING | _predicting(shown(quantities))} | ({"Controls": _CONTROLS} if controls else {})


def _predicting(quantities: Sequence[ShownQuantity]) -> dict[str, Chart]:
    charts: dict[str, Chart] = {
        f"{q.title}: predicted and actual mean": [f"{q.tag('(predicted|actual)_mean')}$"] for q in quantities
    }
    names = "|".join(q.metric_name for q in quantities)
    if charts:
        charts["Predicted against actual: correlation"] = [f"(val/)?calibration/({names})/pearson$"]
    for q in (q for q in quantities if "mae" in q.shown):
        charts[f"Predicted against actual {q.words}: mean error"] = [f"(val/)?{q.tag('mae')}$"]
    if stated := [q for q in quantities if q.metric_name == CONFIDENCE]:
        charts["Stated confidence: reward, and share that can be read"] = [
            f"rewards/{CONFIDENCE}/mean$",
            f"{CONFIDENCE}/parse_rate$",
        ]
    if len(quantities) > len(stated):
        charts["Rewards of predictions"] = ["meta/reward$", r"meta/rewards/\w+/mean$", "meta/parse_rate$"]
    return charts


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
