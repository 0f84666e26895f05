"""Pictures, tables and settings for Lightning's loggers: the one place that knows how each of them takes one.

TensorBoard, Weights & Biases and MLflow take pictures and tables. Any other logger takes neither; the files in the run's
folder have them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from matplotlib.figure import Figure
from PIL import Image

from masa_lightning.functional.markdown import plain, table

_WIDEST = 90  # characters of a table that TensorBoard shows without breaking words, in a window of 1,300 pixels
_LONGEST = 40  # characters of a cell that shares a line with others

Cell = str | int | float | None
Chart = list[str] | tuple[str, str, str]


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


def log_settings(loggers: Sequence[Logger], settings: Mapping[str, Any]) -> None:
    """Logs settings before Lightning logs those of the module. For the first process alone.

    Args:
        loggers: Of the Trainer. One that fails is warned of, as in `log_figure`.
        settings: Plain values, and dictionaries of them.
    """
    for logger in loggers:
        try:
            if isinstance(logger, TensorBoardLogger):
                # For hparams.yaml. TensorBoard shows the first settings that it is given, and no others: `log_board`.
                vars(logger)["hparams"].update(settings)
            else:
                logger.log_hyperparams({**settings})
        except Exception as error:
            _warn(logger, "settings", error)


def log_board(
    loggers: Sequence[Logger],
    board: Mapping[str, Mapping[str, Chart]],
    summary: Sequence[str],
) -> None:
    """Lays out TensorBoard's page of charts, and its table of settings. For the first process alone.

    Args:
        loggers: Of the Trainer. One that fails is warned of, as in `log_figure`.
        board: Titles of pages -> titles of charts -> patterns of the metrics in it, from their beginning, or a metric with
            its lower and its upper bound.
        summary: Metrics that the table of settings shows.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        try:
            from torch.utils.tensorboard.summary import hparams

            layout = {
                page: {
                    title: ["Margin" if isinstance(what, tuple) else "Multiline", [*what]]
                    for title, what in figures.items()
                }
                for page, figures in board.items()
            }
            logger.experiment.add_custom_scalars(layout)
            settings = dict(flat(vars(logger)["hparams"]))
            for record in hparams(settings, dict.fromkeys(summary, 0.0)):  # type: ignore[no-untyped-call]
                logger.experiment.file_writer.add_summary(record)
        except Exception as error:
            _warn(logger, "overview", error)


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, bool | int | float | str]]:
    """Settings in settings as a/b, as Lightning names them; what is no number is text.

    >>> dict(flat({"data": {"batch_size": 2, "sources": ["a"]}, "lora": None}))
    {'data/batch_size': 2, 'data/sources': '["a"]', 'lora': 'null'}
    """
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        elif isinstance(value, (bool, int, float, str)):
            yield f"{prefix}{name}", value
        else:
            yield f"{prefix}{name}", json.dumps(value, default=str)


def markdown(head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Lays out a table as markdown in which no text can leave its cell or become markup.

    One too wide becomes paragraphs, one or more a row: TensorBoard would break the words in its narrow columns.

    >>> print(markdown(["text", "reward"], [["a|b", 0.5]]))
    | text | reward |
    | --- | --- |
    | a&#124;b | 0&#46;5 |
    >>> print(markdown(["text", "reward"], [["word " * 20, 0.5]])[:43])
    **reward** 0&#46;5
    <BLANKLINE>
    **text** word word word
    """
    titles, cells = [plain(t) for t in head], [["" if c is None else plain(str(c)) for c in row] for row in rows]
    widths = [max(len(str(each)) for each in column) for column in zip(head, *rows, strict=True)]
    if sum(widths) + 4 * len(widths) <= _WIDEST:
        return table(titles, cells)
    long = {i for i, width in enumerate(widths) if width > _LONGEST}
    return "\n\n---\n\n".join(_paragraphs([*zip(titles, row, strict=True)], long) for row in cells)


def _paragraphs(row: Sequence[tuple[str, str]], long: Container[int]) -> str:
    """Short cells on one line, and each long one below."""
    said = [f"**{title}** {cell}" if title else cell for title, cell in row]
    line = " \u00b7 ".join(text for i, text in enumerate(said) if i not in long)
    return "\n\n".join(filter(None, [line, *(text for i, text in enumerate(said) if i in long)]))


def _image(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _valid(cell: Cell) -> Cell:
    """Texts of models may hold lone surrogates, which no file in UTF-8 has a place for."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _warn(logger: Logger, what: str, error: Exception) -> None:
    rank_zero_warn(f"{type(logger).__name__} did not take the {what}: {type(error).__name__}: {error}")
