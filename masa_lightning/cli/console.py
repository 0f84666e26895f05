"""What the libraries below say of themselves, and the command does not pass on; all else stays."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Final

_LOGGERS: Final = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.pytorch.trainer.connectors.checkpoint_connector",
    "lightning.fabric.utilities.seed",
    "transformers.tokenization_utils_base",
)
_MESSAGES: Final = re.compile(
    r"GPU available: |TPU available: |HPU available: "  # `RunSummary` says what is used
    r"|\S* ?Tip: "  # advertisements
    r"|`Trainer\.fit` stopped: "  # into the progress bar; the panel says how many steps were taken
    r"|Restor(ing|ed) (all )?states from|Loaded model weights from"  # twice the path that was given
    r"|`weights_only` was not set"  # the module's checkpoints are read safely in any case
    r"|(\[rank: \d+\] )?Seed set to "  # config.yaml has it
)
_TOO_LONG: Final = "Token indices sequence length is longer"  # such a problem is left out, and the module says so
_WARNINGS: Final = (
    (
        r"`?isinstance\(treespec, LeafSpec\)` is deprecated",
        FutureWarning,
    ),  # Lightning 2.6 on torch 2.13, in every loader
    ("MLFlow only allows", RuntimeWarning),  # for each metric with an @; the command says it once
)


def quiet() -> None:
    """Leaves out what tells a user of the command nothing; errors, and warnings of what a user can change, stay."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_passes)  # once, however often it is called
    for message, category in _WARNINGS:
        warnings.filterwarnings("ignore", message=message, category=category)


def without_bars_of_weights() -> None:
    """Leaves out transformers' bars of the weights that it reads and writes; that of a download stays."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    downloads = not are_progress_bars_disabled()
    disable_progress_bar()  # type: ignore[no-untyped-call]  # both of them
    if downloads:
        enable_progress_bars()


def _passes(record: logging.LogRecord) -> bool:
    said = record.getMessage().lstrip()
    return not said.startswith(_TOO_LONG) and (record.levelno > logging.INFO or not _MESSAGES.match(said))
