"""The last step of a run is in a checkpoint, whatever the interval of saving; the run goes on from it as undisturbed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from training_loop import Loop

from masa_lightning import cli
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.export import export_checkpoint
from masa_lightning.modules.last_step import SaveLastStep

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback with a model that overrides"),
    pytest.mark.filterwarnings("ignore:Your monitored metric"),
]
INTERVAL: dict[str, Any] = {"every_n_train_steps": 2}


def of(checkpoint: Path) -> tuple[int, int | None]:
    """After how many steps are its weights, and those of the validation in it."""
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    saved = torch.load(file, weights_only=True)
    state = saved["masa"]
    assert saved["global_step"] == state["rollout_steps"]
    return state["rollout_steps"], (state["run"]["validation"] or {}).get("rollout_steps")


def checkpoints(folder: Path) -> dict[str, tuple[int, int | None]]:
    return {path.stem: of(path) for path in folder.glob("*.ckpt")}


class Writes(Callback):
    """Counts the checkpoints of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[int] = []

    def on_save_checkpoint(self, trainer: Any, *_: Any) -> None:
        self.steps.append(trainer.global_step)


class Stops(Callback):
    """Ends the run behind a step, as one does that has seen enough."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == 3


class Ends(Callback):
    """Counts the ends of epochs."""

    epochs = 0

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs += 1


def fit(
    loop: Loop,
    folder: Path,
    saver: dict[str, Any],
    *callbacks: Callback,
    ckpt_path: Path | None = None,
    **settings: Any,
) -> Any:
    savers = [ModelCheckpoint(folder, filename="{step}", **saver)] if saver else []
    own = {"max_steps": 3, "max_epochs": -1, "enable_checkpointing": bool(savers), "limit_val_batches": 0} | settings
    trainer = loop.trainer(*callbacks, *savers, **own)
    trainer.fit(loop.module(), loop.Problems(8, 4), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize(
    ("saver", "expected"),
    [
        (INTERVAL | {"save_last": True, "save_top_k": 0}, {"last": 3}),
        (INTERVAL | {"save_last": True}, {"last": 3, "step=3": 3}),
        (INTERVAL, {"step=3": 3}),
        (INTERVAL | {"save_top_k": -1}, {"step=2": 2, "step=3": 3}),
        (
            INTERVAL | {"monitor": "step", "mode": "max", "save_top_k": 2, "save_last": "link"},
            {"step=2": 2, "step=3": 3, "last": 3},
        ),
        ({"every_n_train_steps": 8, "save_last": True, "save_top_k": 0}, {"last": 3}),
        ({}, {}),
        # The best by a metric is no other for a step more.
        (INTERVAL | {"monitor": "pass_rate", "mode": "max"}, {"step=2": 2}),
        (INTERVAL | {"monitor": "pass_rate", "mode": "max", "save_last": True}, {"step=2": 2, "last": 3}),
        (INTERVAL | {"monitor": "pass_rate", "mode": "max", "save_last": "link"}, {"step=2": 2, "last": 3}),
    ],
)  # fmt: skip
def test_the_last_step_is_saved(loop: Loop, tmp_path: Path, saver: dict[str, Any], expected: dict[str, int]) -> None:
    """They had step 2, or nothing."""
    writes = Writes()
    fit(loop, tmp_path, saver, writes)
    assert {name: step for name, (step, _) in checkpoints(tmp_path).items()} == expected
    files = [path for path in tmp_path.glob("*.ckpt") if not path.is_symlink()]
    assert writes.steps.count(3) == sum(of(path)[0] == 3 for path in files)


@pytest.mark.parametrize(
    ("saver", "settings"),
    [
        ({"every_n_train_steps": 3, "save_last": True, "save_top_k": 0}, {}),
        ({"every_n_train_steps": 1}, {}),
        ({"save_top_k": 1}, {"max_steps": -1, "max_epochs": 1}),  # Lightning's own behind each epoch
    ],
)
def test_what_is_saved_already_is_not_saved_again(
    loop: Loop, tmp_path: Path, saver: dict[str, Any], settings: dict[str, Any]
) -> None:
    writes = Writes()
    fit(loop, tmp_path, saver, writes, **settings)
    last = max(writes.steps)
    assert last == (4 if settings else 3)
    assert writes.steps.count(last) == 1


def test_the_closing_validation_is_in_it(loop: Loop, tmp_path: Path) -> None:
    """It had that before the first step, and so had a model card."""
    fit(loop, tmp_path, INTERVAL | {"save_last": True, "save_top_k": 0}, ValidateFirst(), limit_val_batches=1.0,
        val_check_interval=8, check_val_every_n_epoch=None)  # fmt: skip
    assert checkpoints(tmp_path) == {"last": (3, 3)}


@pytest.mark.parametrize("stops", [Stops(), EarlyStopping("pass_rate", stopping_threshold=-1.0, mode="max")])
def test_a_run_that_is_stopped_early_has_its_last_step_too(loop: Loop, tmp_path: Path, stops: Callback) -> None:
    trainer = fit(loop, tmp_path, {"every_n_train_steps": 8, "save_last": True}, stops, max_steps=6)
    assert trainer.global_step == (3 if isinstance(stops, Stops) else 4)  # `EarlyStopping` looks behind an epoch
    assert checkpoints(tmp_path) == {
        f"step={trainer.global_step}": (trainer.global_step, None),
        "last": (trainer.global_step, None),
    }


def test_a_run_that_takes_no_step_writes_nothing(loop: Loop, tmp_path: Path) -> None:
    """The end of its epoch was still to come; with ``save_last`` Lightning itself saves once more as training ends."""
    saver = {"every_n_train_steps": 3}
    fit(loop, tmp_path, saver)
    writes, ends = Writes(), Ends()
    fit(loop, tmp_path, saver, writes, ends, ckpt_path=tmp_path / "step=3.ckpt")
    assert ends.epochs == 1
    assert writes.steps == []


@pytest.mark.parametrize("averaged", [False, True])
def test_a_longer_run_goes_on_from_it_as_undisturbed(loop: Loop, tmp_path: Path, averaged: bool) -> None:
    """`WeightAveraging` puts the average in the place of the weights as training ends; the checkpoint has both."""

    def callbacks() -> list[Callback]:
        return [EMAWeightAveraging(decay=0.5)] * averaged

    saver = INTERVAL | {"save_last": True, "save_top_k": 0}
    whole = fit(loop, tmp_path / "whole", saver, *callbacks(), max_steps=7)
    fit(loop, tmp_path / "parts", saver, *callbacks(), max_steps=3)
    parts = fit(loop, tmp_path / "parts", saver, *callbacks(), max_steps=7, ckpt_path=tmp_path / "parts" / "last.ckpt")
    assert parts.global_step == 7
    kept = [torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "parts")]
    assert kept[0].keys() == kept[1].keys()
    for part in ("state_dict", *(["current_model_state"] * averaged)):
        assert not Loop.changed(kept[0][part], kept[1][part])
    one, other = (saved["masa"] for saved in kept)
    assert all(
        one[name] == other[name] for name in ("rollout_steps", "num_tokens", "expected_lengths", "reserve_taken")
    )
    assert whole.train_dataloader.state_dict() == parts.train_dataloader.state_dict()


def test_it_comes_behind_all_others_and_beside_a_model_checkpoint_alone(loop: Loop, tmp_path: Path) -> None:
    assert isinstance(fit(loop, tmp_path, INTERVAL, max_steps=1).callbacks[-1], SaveLastStep)
    assert not any(isinstance(c, SaveLastStep) for c in fit(loop, tmp_path, {}, max_steps=1).callbacks)


def _work(rank: int, folder: Path) -> None:
    strategy = two_processes.strategy("fsdp2")
    assert isinstance(strategy, ModelParallelStrategy)
    saver = INTERVAL | {"monitor": "step", "mode": "max", "save_top_k": 1, "save_last": "link"}
    savers = [ModelCheckpoint(folder, filename="{step}", **saver)]
    loop = Loop(Path("tiny"))
    trainer = loop.trainer(
        ValidateFirst(), *savers, enable_checkpointing=True, devices=2, strategy=strategy, max_steps=3,
        val_check_interval=8, check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(loop.scripted(lambda *_: "\\boxed{2}"), loop.Problems(16, 4))


def test_shards(tmp_path: Path) -> None:
    two_processes.run(_work, tmp_path)
    assert (tmp_path / "last.ckpt").is_symlink()
    assert checkpoints(tmp_path) == {"last": (3, 3), "step=3": (3, 3)}


SMALL = """
trainer:
  max_steps: 3
  enable_progress_bar: false
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {every_n_train_steps: 2, save_last: true, save_top_k: 0}
model:
  init_args:
    num_generations: 4
    num_meta_generations: 2
    max_completion_length: 48
    evaluation: {num_generations: 2, num_meta_generations: 1}
data:
  init_args: {batch_size: 4, train_size: 16, validation_size: 4}
"""


def test_the_command_leaves_it_and_an_export_has_its_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The panel said "of step 2", and the card had what was measured before the first step."""
    pytest.importorskip("vllm")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["masa"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")  # restored afterwards: seed_everything sets it
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    Path("small.yaml").write_text(SMALL)
    command = cli.main(["fit", "--config", "tiny", "--config", "small.yaml"])
    assert command is not None
    assert checkpoints(Path("runs/tiny/checkpoints")) == {"last": (3, 3)}
    assert "checkpoints/last.ckpt, of step" not in capsys.readouterr().out
    export_checkpoint("runs/tiny/checkpoints/last.ckpt", "exported")
    assert "the weights here:" in Path("exported/README.md").read_text()
