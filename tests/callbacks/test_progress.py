"""The progress bar: what it counts in real runs, and that a line fits 80 columns."""

from __future__ import annotations

import io
import math
import os
from typing import Any

import pytest
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, IterableDataset

from masa_lightning.callbacks.progress import RolloutProgressBar, StepBar, line

METRICS = ["pass .51", "meta .38", "r -.12", "22k tok/s"]


def test_a_line_of_80_columns_holds_all_metrics() -> None:
    text = line("step", 11, 44, seconds=60, phase="generate  50%", metrics=METRICS, columns=80)
    assert text == "step 11/44 generate  50% |█▎   | 01:00<03:00 pass .51 meta .38 r -.12 22k tok/s"


@pytest.mark.parametrize("columns", [20, 40, 60, 79, 80, 81, 100, 200])
@pytest.mark.parametrize("total", [None, 3, 1000])
def test_no_line_is_wider_than_the_terminal(columns: int, total: int | None) -> None:
    for name in ("step", "epoch 12/30"):
        text = line(name, 3, total, seconds=40000, phase="generate 100%", metrics=METRICS, columns=columns)
        assert len(text) <= columns
        shown = [figure for figure in METRICS if figure in text]
        assert shown == METRICS[: len(shown)]  # whole ones, the first of them


def test_the_time_left_is_by_the_steps_of_this_session() -> None:
    assert "01:00<04:00" in line("step", 60, 100, initial=50, seconds=60)
    assert "00:00<?" in line("step", 50, 100, initial=50)
    assert "<" not in line("step", 50, None, seconds=60)


def test_a_terminal_that_does_not_know_its_size_gets_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    master, terminal = os.openpty()  # of 0 columns
    with open(master, "rb", buffering=0) as shown, open(terminal, "w") as screen:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", screen)
            bar = StepBar("step", total=2, disable=False)
            bar.close()
            del bar  # while there is its terminal
        assert b"step 0/2 |" in shown.read(1000)


def test_a_terminal_without_unicode_gets_ascii() -> None:
    assert line("step", 1, 2, columns=40, blocks=" #").isascii()


class Reader(Callback):
    """Reads the bar after each training step, as it stands on the screen."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        bar = trainer.progress_bar_callback.train_progress_bar
        assert isinstance(bar, StepBar)
        self.lines.append(str(bar))


@pytest.fixture
def read(loop: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*callbacks: Callback, data: Any = None, ckpt_path: Any = None, **settings: Any) -> list[str]:
        monkeypatch.setattr("sys.stdout", io.StringIO())
        reader = Reader()
        bar = RolloutProgressBar()
        trainer = loop.trainer(bar, reader, *callbacks, enable_progress_bar=True, limit_val_batches=0, **settings)
        trainer.fit(loop.module(), datamodule=data or loop.Problems(train=6), ckpt_path=ckpt_path)
        run.trainer = trainer  # type: ignore[attr-defined]
        return reader.lines

    return run


def heads(lines: list[str]) -> list[str]:
    return [text.split("|")[0].split(" update")[0].strip() for text in lines]


def test_max_steps_within_an_epoch(read: Any) -> None:
    lines = read(max_steps=2)
    assert heads(lines) == ["step 1/2", "step 2/2"]
    assert "pass ." in lines[-1] and "tok/s" in lines[-1]
    assert "reward" not in lines[-1]


def test_several_epochs(read: Any) -> None:
    assert heads(read(max_epochs=2)) == [
        *(f"epoch 1/2 {n}/6" for n in (1, 2, 3)),
        *(f"epoch 2/2 {n}/6" for n in (4, 5, 6)),
    ]


def test_max_steps_over_several_epochs(read: Any) -> None:
    assert heads(read(max_steps=4, max_epochs=-1))[-1] == "epoch 2/2 4/4"


def test_no_end(read: Any) -> None:
    class End(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.global_step >= 4

    assert read(End(), max_epochs=-1)[-1].startswith("epoch 2, step 4 update")


def test_a_resumed_run_goes_on_counting(read: Any, tmp_path: Any) -> None:
    read(max_steps=4, max_epochs=-1)
    read.trainer.save_checkpoint(tmp_path / "four.ckpt")
    assert heads(read(max_steps=6, max_epochs=-1, ckpt_path=tmp_path / "four.ckpt")) == [
        "epoch 2/2 5/6",
        "epoch 2/2 6/6",
    ]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(int, 1)


def test_a_loader_without_a_length(loop: Any, read: Any) -> None:
    problem = loop.problem("1+1")

    class Data(loop.Problems):  # type: ignore[misc, name-defined]
        def train_dataloader(self) -> Any:
            return DataLoader(Endless(), batch_size=2, collate_fn=lambda batch: [problem] * len(batch))

    assert heads(read(data=Data(), max_steps=2, max_epochs=-1)) == ["step 1/2", "step 2/2"]
    assert math.isinf(read.trainer.num_training_batches)


def test_a_pipe_gets_a_line_a_step(loop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = loop.trainer(RolloutProgressBar(), enable_progress_bar=True, max_steps=2)
    trainer.fit(loop.module(), loop.Problems(4, 2))
    trainer.validate(loop.module(), loop.Problems(4, 2), verbose=False)
    text = capsys.readouterr().out
    assert "\r" not in text and "\x1b" not in text
    lines = text.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("step") and "tok/s" in line] == [
        ["step", "1/2"],
        ["step", "2/2"],
    ]
    assert any(line.startswith("validate 1/1") for line in lines)
    assert len(lines) < 12


def test_each_of_several_loaders_has_its_lines(loop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Data(loop.Problems):  # type: ignore[misc, name-defined]
        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), super().val_dataloader()]

    trainer = loop.trainer(RolloutProgressBar(), enable_progress_bar=True)
    trainer.validate(loop.module(), Data(2, 4), verbose=False)
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line[:1] == ["validate"]] == [
        ["validate", f"{loader}/2:", f"{step}/2"] for loader in (1, 2) for step in (1, 2)
    ]
    assert trainer.lightning_module.run_state.last_validation["problems"] == 8
