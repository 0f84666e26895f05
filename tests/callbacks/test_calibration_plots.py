"""CalibrationPlots in a real Trainer, its pictures read back from disk and from TensorBoard."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from masa_lightning.callbacks import calibration_plots
from masa_lightning.callbacks.calibration_plots import CalibrationPlots
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.metrics import LengthCalibration, PassRateCalibration
from masa_lightning.metrics.over_steps import Gated, History, Means

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),  # Lightning 2.6 on torch 2.13
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]

OVER_STEPS = {"pass_rate_over_steps", "length_over_steps"}
PICTURES = {"pass_rate_scatter", "pass_rate_reliability", "length_scatter", "pass_rate_over_steps", "length_over_steps"}


class Stub(pl.LightningModule):
    """Holds metrics as MASALightningModule does; `predicts` turns off the filling."""

    def __init__(self, predicts: bool = True) -> None:
        super().__init__()
        self.predicts = predicts
        self.layer = nn.Linear(1, 1)
        self.calibration = nn.ModuleDict(
            {
                stage: nn.ModuleDict({"pass_rate": PassRateCalibration(), "length": LengthCalibration()})
                for stage in ("validate", "test")
            }
        )

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.predicts:
            for quantity, scale in (("pass_rate", 1.0), ("length", 100.0)):
                figures = {"predicted_mean": 0.5, "actual_mean": 0.4, "predicted_std": 0.2, "actual_std": 0.1}
                figures = {name: scale * value for name, value in figures.items()} | {"count": 4.0}
                self.log_dict({f"calibration/{quantity}/{name}": value for name, value in figures.items()})
        return self.layer(batch).sum()

    def evaluate(self, stage: str) -> None:
        if self.predicts:
            rate, length = self.calibration[stage].values()
            actual = torch.tensor([1, 2, 3, 4])
            rate.update(torch.tensor([0.0, 0.5, 0.5, 1.0]), actual, torch.full((4,), 4))
            length.update(100.0 * actual, 110.0 * actual, 90.0 * actual, 120.0 * actual)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.evaluate("validate")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.evaluate("test")

    def on_validation_epoch_end(self) -> None:
        for metric in self.calibration["validate"].values():
            metric.reset()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def data() -> DataLoader[Tensor]:
    return DataLoader(torch.ones(2, 1), batch_size=1)  # type: ignore[arg-type]


def trainer(path: Path, callback: CalibrationPlots, **settings: Any) -> pl.Trainer:
    return pl.Trainer(**{
        "default_root_dir": path, "logger": TensorBoardLogger(path, name="log"), "callbacks": [callback],
        "accelerator": "cpu", "max_epochs": 2, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "log_every_n_steps": 1, **settings,
    })  # fmt: skip


def file_name(picture: str, step: int) -> str:
    return f"{'train' if picture in OVER_STEPS else 'validate'}_{picture}_step{step:06d}.png"


def images(path: str) -> dict[str, list[int]]:
    events = EventAccumulator(path, size_guidance={"images": 0}).Reload()
    return {tag: [image.step for image in events.Images(tag)] for tag in events.Tags()["images"]}


def test_draws_after_every_validation(tmp_path: Path) -> None:
    callback = CalibrationPlots()
    t = trainer(tmp_path, callback)
    t.fit(Stub(), data(), data())
    assert images(t.log_dir) == {f"calibration/{name}": [2, 4] for name in PICTURES}
    folder = Path(t.log_dir) / "pictures"
    assert {p.name for p in folder.iterdir()} == {file_name(n, s) for n in PICTURES for s in (2, 4)}
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in folder.iterdir())
    assert callback.validations == 2
    held_out = callback.history["pass_rate"].held_out
    assert [(row.step, row.predicted, row.actual) for row in held_out] == [(2, 0.5, 0.625), (4, 0.5, 0.625)]
    assert held_out[0].predicted_half == pytest.approx(1.96 * (0.125 / 8) ** 0.5)
    assert [(row.step, row.predicted, row.actual) for row in callback.history["length"].held_out] == [
        (2, 250, 275),
        (4, 250, 275),
    ]
    training = [tuple(round(x, 4) for x in astuple(row)) for row in callback.history["length"].training]
    assert training == [(step, 50.0, 40.0, 19.6, 9.8) for step in (1, 2, 3, 4)]


def test_draws_after_every_other_validation_but_records_each(tmp_path: Path) -> None:
    callback = CalibrationPlots(every_n_validations=2, dirpath=str(tmp_path / "here"))
    t = trainer(tmp_path, callback, max_epochs=4, logger=False)
    t.fit(Stub(), data(), data())
    drawn = {p.name[-10:-4] for p in (tmp_path / "here").glob("validate_*")}
    assert drawn == {"000002", "000006"}
    assert {p.name[-10:-4] for p in (tmp_path / "here").glob("train_*")} == {*drawn, "000008"}  # and at the end
    assert [row.step for row in callback.history["pass_rate"].held_out] == [2, 4, 6, 8]


def test_test_is_drawn_without_history(tmp_path: Path) -> None:
    callback = CalibrationPlots()
    t = trainer(tmp_path, callback)
    t.test(Stub(), data(), verbose=False)
    expected = {name for name in PICTURES if not name.endswith("steps")}
    assert set(images(t.log_dir)) == {f"calibration_test/{name}" for name in expected}
    names = {p.name for p in (Path(t.log_dir) / "pictures").iterdir()}
    assert names == {f"test_{name}_step000000.png" for name in expected}
    assert callback.history == {"pass_rate": History(), "length": History()}


def test_training_alone_is_drawn_at_its_end(tmp_path: Path) -> None:
    t = trainer(tmp_path, CalibrationPlots(), limit_val_batches=0)
    t.fit(Stub(), data(), data())
    names = {"pass_rate_over_steps", "length_over_steps"}
    assert images(t.log_dir) == {f"calibration/{name}": [4] for name in names}
    assert {p.name for p in (Path(t.log_dir) / "pictures").iterdir()} == {file_name(name, 4) for name in names}


def test_gating_is_drawn_where_there_is_any(tmp_path: Path) -> None:
    class Gates(Stub):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            shares = {"hopeless": 0.5, "trivial": 0.25, "acted": 0.5 * (self.global_step > 1)}
            self.log_dict({f"controls/gating/{name}_share": value for name, value in shares.items()})
            return super().training_step(batch, batch_idx)

    callback = CalibrationPlots()
    t = trainer(tmp_path, callback, limit_val_batches=0)
    t.fit(Gates(), data(), data())
    assert callback.gated == [Gated(step, 0.5, 0.25, 0.5 * (step > 2)) for step in (1, 2, 3, 4)]
    assert images(t.log_dir)["calibration/gated_over_steps"] == [4]


def test_one_point_is_no_line_over_steps(tmp_path: Path) -> None:
    """They were drawn of the validation before the first step."""
    t = trainer(tmp_path, CalibrationPlots())
    t.callbacks.append(ValidateFirst())
    t.fit(Stub(), data(), data())
    assert images(t.log_dir)["calibration/pass_rate_scatter"] == [0, 2, 4]
    assert images(t.log_dir)["calibration/pass_rate_over_steps"] == [2, 4]


def test_the_title_says_run_stage_and_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[list[str]] = []

    def keep(loggers: Any, name: str, figure: Any, step: int) -> None:
        texts.append([text.get_text() for text in figure.axes[0].texts])

    monkeypatch.setattr(calibration_plots, "log_figure", keep)
    t = trainer(tmp_path, CalibrationPlots(), logger=TensorBoardLogger(tmp_path, name="mine", version=""))
    t.fit(Stub(), data(), data())
    t.test(Stub(), data(), verbose=False)
    assert all("mine \u00b7 validation \u00b7 step 2" in each for each in texts[:3])
    assert all("mine \u00b7 training \u00b7 step 2" in each for each in texts[3:5])
    assert all("mine \u00b7 test \u00b7 step 4" in each for each in texts[-3:])


def test_nothing_to_draw(tmp_path: Path) -> None:
    callback = CalibrationPlots()
    t = trainer(tmp_path, callback, max_epochs=1)
    t.fit(Stub(predicts=False), data(), data())
    assert images(t.log_dir) == {}
    assert not (Path(t.log_dir) / "pictures").exists()


def test_sanity_check_is_skipped(tmp_path: Path) -> None:
    callback = CalibrationPlots(dirpath=str(tmp_path / "here"))
    t = trainer(tmp_path, callback, max_steps=0, num_sanity_val_steps=1, logger=False, max_epochs=-1)
    t.fit(Stub(), data(), data())
    t.sanity_checking = True
    callback.on_validation_epoch_end(t, Stub())
    assert callback.validations == 0
    assert not (tmp_path / "here").exists()


def test_a_second_run_does_not_mix_and_a_resumed_one_goes_on(tmp_path: Path) -> None:
    def run(epochs: int, ckpt_path: Path | None = None) -> dict[str, bytes]:
        t = trainer(tmp_path, CalibrationPlots(), max_epochs=epochs, logger=False)
        t.fit(Stub(), data(), data(), ckpt_path=ckpt_path)
        t.save_checkpoint(tmp_path / "last.ckpt")
        return pictures("pictures")

    def pictures(name: str) -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}

    first = run(2)
    second = run(1)
    assert (len(first), len(second)) == (2 * len(PICTURES), len(PICTURES))
    assert pictures("pictures-1") == first
    assert second.items() <= run(2, tmp_path / "last.ckpt").items()
    assert not (tmp_path / "pictures-2").exists()


def test_history_survives_a_resume(tmp_path: Path) -> None:
    first = trainer(tmp_path, CalibrationPlots(), logger=False)
    first.fit(Stub(), data(), data())
    first.save_checkpoint(tmp_path / "last.ckpt")
    callback = CalibrationPlots()
    second = trainer(tmp_path, callback, max_epochs=3, logger=False)
    second.fit(Stub(), data(), data(), ckpt_path=tmp_path / "last.ckpt")
    assert [row.step for row in callback.history["length"].held_out] == [2, 4, 6]
    assert [row.step for row in callback.history["length"].training] == [1, 2, 3, 4, 5, 6]
    assert callback.validations == 3


def test_state_of_earlier_versions_and_a_repeated_step(tmp_path: Path) -> None:
    callback = CalibrationPlots()
    callback.load_state_dict({"validations": 2, "history": {"pass_rate": [(2, 0.1, 0.2), (4, 0.3, 0.4)], "length": []}})
    before = callback.state_dict()
    metric = PassRateCalibration()
    metric.update(torch.tensor([1.0]), torch.tensor([1]), torch.tensor([2]))
    callback._record("pass_rate", 4, metric.points())
    assert callback.history["pass_rate"].held_out[1:] == [Means(4, 1.0, 0.5, 0.0, 0.0)]
    assert [row[:3] for row in before["history"]["pass_rate"]] == [(2, 0.1, 0.2), (4, 0.3, 0.4)]
    torch.save(callback.state_dict(), tmp_path / "state.pt")
    again = CalibrationPlots()
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again.history["pass_rate"].held_out[1] == callback.history["pass_rate"].held_out[1]


def test_other_processes_enter_the_collectives_but_do_not_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, module = CalibrationPlots(dirpath=str(tmp_path / "here")), Stub()
    t = trainer(tmp_path, callback, logger=False)
    module.evaluate("validate")
    entered = []
    for metric in module.calibration["validate"].values():
        metric.distributed_available_fn = lambda: True
        metric.dist_sync_fn = lambda state, group=None: entered.append(state) or [state, state]
    monkeypatch.setattr(type(t), "is_global_zero", property(lambda self: False))
    callback.on_validation_epoch_end(t, module)
    assert len(entered) == 2
    assert not (tmp_path / "here").exists()


def test_a_full_disk_only_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(calibration_plots.Path, "replace", fail)
    folder = tmp_path / "here"
    with pytest.warns(UserWarning, match="No space left"):
        trainer(tmp_path, CalibrationPlots(dirpath=str(folder)), logger=False).test(Stub(), data(), verbose=False)
    assert list(folder.iterdir()) == []  # no half-written file either


def test_refuses(tmp_path: Path) -> None:
    for number in (0, 1.5):
        with pytest.raises(ValueError, match=f"every_n_validations is {number}; expected"):
            CalibrationPlots(every_n_validations=number)
    with pytest.raises(TypeError, match="expected a MASALightningModule"):
        CalibrationPlots().setup(trainer(tmp_path, CalibrationPlots(), logger=False), pl.LightningModule(), "fit")


def test_outside_of_training_the_step_is_the_checkpoints(tmp_path: Path, loop: Any) -> None:
    def predicts(kind: str, problem: str, index: int, call: int) -> str:
        return "\\boxed{2}" if kind == "solution" else '{"math_notion": ["sum"], "pass_rate": 4, "solution_length": 5}'

    first = loop.trainer(limit_val_batches=0, max_steps=3)
    first.fit(loop.scripted(predicts), loop.Problems(8))
    first.save_checkpoint(tmp_path / "a.ckpt")
    for stage, prefix in (("test", "calibration_test"), ("validate", "calibration")):
        recorder = loop.Recorder()
        t = trainer(tmp_path / stage, CalibrationPlots(), num_sanity_val_steps=0)
        t.loggers = [*t.loggers, recorder]
        run = getattr(t, stage)
        run(loop.scripted(predicts), datamodule=loop.Problems(8, 2), ckpt_path=tmp_path / "a.ckpt", verbose=False)
        drawn = images(t.log_dir)
        assert drawn
        assert all(name.startswith(f"{prefix}/") and steps == [3] for name, steps in drawn.items())
        names = [p.name for p in (Path(t.log_dir) / "pictures").iterdir()]
        assert names
        assert all(name.endswith("_step000003.png") for name in names)
        assert {step for step, _ in recorder.logged} == {3}
