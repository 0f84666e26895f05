"""What the command keeps off the screen, and what it lets through."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from lightning.pytorch import seed_everything
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import enable_progress_bar

from masa_lightning.cli import console


def test_banners_are_left_out_and_all_else_stays(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards, as the next
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    console.quiet()
    console.quiet()
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    assert sum(f is console._passes for f in logger.filters) == 1
    with caplog.at_level(logging.INFO):
        with isolate_rng():
            seed_everything(1)
        logging.getLogger("lightning.fabric.utilities.seed").info("[rank: 1] Seed set to 0")
        logging.getLogger(_CheckpointConnector.__module__).info("`weights_only` was not set, defaulting to `False`.")
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


def test_a_prompt_that_is_too_long_is_told_of_once(tiny_checkpoint: Path) -> None:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logger = logging.getLogger("transformers.tokenization_utils_base")
    logger.addHandler(handler)
    filters = logger.filters[:]
    try:
        logger.filters.clear()
        AutoTokenizer.from_pretrained(tiny_checkpoint, model_max_length=4)("17+25+17+25")
        assert "Token indices sequence length is longer" in records.pop().getMessage()  # what is to be left out
        console.quiet()
        AutoTokenizer.from_pretrained(tiny_checkpoint, model_max_length=4)("17+25+17+25")
        assert records == []
    finally:
        logger.removeHandler(handler)
        logger.filters[:] = filters


@pytest.mark.parametrize("downloads", [True, False])
def test_weights_are_loaded_without_a_bar_and_downloads_have_theirs(
    downloads: bool, tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load = AutoModelForCausalLM.from_pretrained
    enable_progress_bar()
    try:
        if not downloads:
            disable_progress_bars()
        load(tiny_checkpoint)
        assert "Loading weights" in capfd.readouterr().err  # what is to be left out
        console.without_bars_of_weights()
        load(tiny_checkpoint)
        assert capfd.readouterr().err == ""
        assert are_progress_bars_disabled() is not downloads
    finally:
        enable_progress_bar()  # both of them


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["configs"], ["--help"], ["fit", "--help"], ["fit", "--help=all"]])
def test_nobody_reads_the_output(words: list[str], unbuffered: str) -> None:
    """As with `| head -1`: no traceback, nor what Python says of its own at its end."""
    done = unread("-m", "masa_lightning.cli", *words, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode in (0, 1)  # argparse takes no notice of an output that it cannot write to
    assert done.stderr == b""


_ANOTHER = """
from masa_lightning import cli
def run(args):
    raise BrokenPipeError("a worker")
cli._run = run
cli.main()
"""


def test_another_pipe_that_breaks_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", _ANOTHER], capture_output=True)
    assert done.stderr.endswith(b"BrokenPipeError: a worker\n")


def unread(*words: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *words], stdout=writer, stderr=subprocess.PIPE, env=os.environ | environ, check=False
        )
    finally:
        os.close(writer)
