"""What the command keeps off the screen, and what it lets through."""

from __future__ import annotations

import logging
import warnings

import pytest
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from masa_lightning.cli import console


def test_banners_are_left_out_and_all_else_stays(caplog: pytest.LogCaptureFixture) -> None:
    console.quiet()
    console.quiet()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert sum(f is console._passes for f in logger.filters) == 1
    with caplog.at_level(logging.INFO):
        rank_zero_info("GPU available: False, used: False")
        rank_zero_info("\U0001f4a1 Tip: For seamless cloud logging, install it")
        rank_zero_info("`Trainer.fit` stopped: `max_steps=3` reached.")
        rank_zero_info("runs/tiny was another run's: it is kept as tiny-1")
        logger.warning("GPU available: but broken")
    assert [r.getMessage() for r in caplog.records] == [
        "runs/tiny was another run's: it is kept as tiny-1",
        "GPU available: but broken",
    ]
    with pytest.warns(UserWarning, match="you can change"):
        rank_zero_warn("what you can change")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("another one", FutureWarning, stacklevel=1)
    assert caught
