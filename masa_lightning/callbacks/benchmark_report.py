"""What a test found, as one table over benchmarks; an interrupted test is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from masa_lightning.callbacks._benchmark_files import write_page, write_results
from masa_lightning.callbacks._benchmark_table import Metrics, table_cells, table_columns
from masa_lightning.callbacks._drawn_before import DrawnRollouts, rollout_settings
from masa_lightning.callbacks._screen import evaluated, screen
from masa_lightning.distributed import collect
from masa_lightning.loggers.media import log_figure, log_table
from masa_lightning.metrics.figures import save_figure
from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.provenance import evaluation_settings
from masa_lightning.modules.run_folder import run_folder
from masa_lightning.modules.run_state import run_state
from masa_lightning.quantities import Quantities, quantities_of
from masa_lightning.rollouts.measurement import BenchmarkMeasurements, Measurement
from masa_lightning.types import Rollout, RolloutGroup


class BenchmarkReport(Callback):
    """Reports a test by benchmark (`Problem.source`): ``results.json``, ``results.md``, pictures, and a table on the screen.

    Every rollout goes to ``rollouts.jsonl`` after its batch, and is not drawn again: the same command resumes an
    interrupted test, and gives what an undisturbed one would have given. The folder belongs to one set of weights and
    settings of the rollouts (``settings.json``).

    Metrics of each benchmark go to the loggers as ``test/<benchmark>/<metric>``, the table and the pictures to those that
    take them; the metrics of all problems are logged by the module.

    Args:
        dirpath: Folder; by default the run's.

    Raises:
        TypeError: If the module is none of this package's.
        ValueError: If the folder has rollouts of other weights or settings, or two problems have the same source and id.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        super().__init__()
        self.dirpath = dirpath
        self._folder = Path()
        self._settings: dict[str, Any] = {}
        self._drawn: DrawnRollouts | None = None
        self._measured = BenchmarkMeasurements(list)
        self._rows: dict[str, Metrics] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses modules without rollouts."""
        if stage == "test" and not isinstance(pl_module, GRPOLightningModule):
            raise TypeError(
                f"BenchmarkReport reports rollouts, and {type(pl_module).__name__} makes none; expected a GRPO or MASA "
                "Lightning module"
            )

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks for the rollouts of an interrupted test."""
        assert isinstance(pl_module, GRPOLightningModule)
        self._measured, self._rows = BenchmarkMeasurements(pl_module.evaluation_metrics), {}
        # Collectives: every process asks.
        self._folder = Path(self.dirpath or run_folder(trainer))
        self._settings = rollout_settings(pl_module)
        self._drawn = DrawnRollouts(
            self._folder, self._settings, evaluation_settings(pl_module), keeps=trainer.is_global_zero
        )

    def restore(self, group: RolloutGroup) -> list[Rollout]:
        """`protocols.RolloutStore`."""
        return [] if self._drawn is None else self._drawn.read(group.problem)

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the rollouts of a batch, and measures them."""
        assert isinstance(pl_module, GRPOLightningModule) and self._drawn is not None
        with pl_module.processes.together():
            self._drawn.append(collect(outputs["groups"], self._drawn.lines, pl_module.processes))
        if trainer.is_global_zero:
            self._measured.add(outputs["groups"], outputs["left_out"])

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the results, before any logger is given a number: one that fails ends the test."""
        if not self._measured.by_name:  # of another process, or the module says that nothing was measured
            return
        self._rows = self._measured.compute()
        checkpoint = Path(str(trainer.ckpt_path)).name if trainer.ckpt_path else None
        write_results(self._folder / "results.json", self._settings, checkpoint, self._rows)
        shown = quantities_of(pl_module).shown()
        write_page(self._folder / "results.md", self._settings, checkpoint, self._rows, shown)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the results, and logs them."""
        if not self._rows:
            return
        console = screen()
        shown = quantities_of(pl_module).shown()
        for table in evaluated(self._rows, console.width, shown):
            console.print(table)
        console.print(
            f"results.md, results.json and rollouts.jsonl are in {self._folder}", soft_wrap=True, markup=False
        )
        step = run_state(pl_module).rollout_steps or trainer.global_step  # which no test restores
        for name, measured in self._measured.by_name.items():
            self._draw(trainer, name, measured, pl_module, step)
        head, *lines = table_cells(self._rows, [c for columns in table_columns(self._rows, shown) for c in columns])
        log_table(trainer.loggers, "test", head, lines, step)
        for name, metrics in self._rows.items():
            for logger in trainer.loggers:
                logger.log_metrics({f"test/{name or '-'}/{f}": value for f, value in metrics.items()}, step=step)

    def _draw(self, trainer: pl.Trainer, name: str, measured: Measurement, module: Any, step: int) -> None:
        quantities: Quantities | None = getattr(module, "quantities", None)
        calibration = measured.named("calibration")
        if quantities is None or calibration is None:  # a GRPO module's
            return
        where = f"{self._folder.name} \u00b7 test on {name or 'problems'} \u00b7 step {step}"
        points = {metric_name: metric.points() for metric_name, metric in calibration.items()}
        for picture, figure in quantities.pictures(points, where).items():
            log_figure(trainer.loggers, f"test/{name}/{picture}" if name else f"test/{picture}", figure, step)
            save_figure(figure, self._folder / "pictures" / f"{_file_name(name)}_{picture}.png")


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name) or "problems"
