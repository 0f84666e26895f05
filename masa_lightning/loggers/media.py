"""Pictures and tables for Lightning's loggers: the one place that knows how each of them takes one.

TensorBoard, Weights & Biases and MLflow take both. Any other logger takes neither; the files in the run's folder have them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from PIL import Image

from masa_lightning.functional.markdown import plain, table

Cell = str | int | float | None


def log_figure(loggers: Sequence[Logger], name: str, figure: Figure, step: int) -> None:
    """Shows a picture in every logger that takes one. For the first process alone.

    A logger that fails is warned of: a run does not end over a picture.

    Args:
        loggers: Of the Trainer.
        name: Such as ``calibration/pass_rate_scatter``.
        figure: It stays as it is.
        step: Training steps that were done.
    """
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, global_step=step, close=False)
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [_image(figure)], step=step)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, _image(figure), key=name, step=step)
        except Exception as error:
            _warn(logger, f"picture {name}", error)


def log_table(
    loggers: Sequence[Logger], name: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], step: int
) -> None:
    """Shows a table in every logger that takes one. For the first process alone.

    A logger that fails is warned of, as in `log_figure`. In MLflow the tables of all steps are one, with a column ``step``.

    Args:
        loggers: Of the Trainer.
        name: Such as ``rollouts``.
        head: Names of the columns.
        rows: Cells, which are shown as they are: no text in them becomes markup.
        step: Training steps that were done.
    """
    cells = [[_valid(cell) for cell in row] for row in rows]
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text(name, markdown(head, rows), global_step=step)
            elif isinstance(logger, WandbLogger):
                logger.log_table(name, columns=list(head), data=cells, step=step)
            elif isinstance(logger, MLFlowLogger):
                columns: dict[str, list[Any]] = {"step": [step] * len(cells)}
                columns |= {title: [row[i] for row in cells] for i, title in enumerate(head)}
                logger.experiment.log_table(logger.run_id, columns, f"{name}.json")
        except Exception as error:
            _warn(logger, f"table {name}", error)


def markdown(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Lays out a table as markdown in which no text can leave its cell or become markup.

    >>> print(markdown(["text", "reward"], [["a|b", 0.5]]))
    | text | reward |
    | --- | --- |
    | a&#124;b | 0&#46;5 |
    """
    return table([plain(title) for title in head], [["" if c is None else plain(str(c)) for c in row] for row in rows])


def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _valid(cell: Cell) -> Cell:
    """Texts of models may hold lone surrogates, which no file in UTF-8 has a place for."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _warn(logger: Logger, what: str, error: Exception) -> None:
    rank_zero_warn(f"{type(logger).__name__} did not take the {what}: {type(error).__name__}: {error}")
