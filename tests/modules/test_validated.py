"""Checkpoints of all kinds have the validation of their own weights, whenever it came; others are left as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from training_loop import Loop

from masa_lightning.callbacks.calibration_plots import CalibrationPlots
from masa_lightning.callbacks.validate_first import ValidateFirst
from masa_lightning.models.checkpoints import find_checkpoint
from masa_lightning.modules.validated import save_validated

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
SETTINGS: dict[str, Any] = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}


def of(checkpoint: Path) -> tuple[int, int | None]:
    """After how many steps are its weights, and those of the validation in it."""
    file = checkpoint / "meta.pt" if checkpoint.is_dir() else checkpoint
    state = torch.load(file, weights_only=True)["masa"]
    return state["rollout_steps"], (state["run"]["validation"] or {}).get("rollout_steps")


def answer(kind: str, *_: Any) -> str:
    return '{"pass_rate": 2, "solution_length": 5}' if kind == "meta" else "\\boxed{2}"


def fit(loop: Loop, folder: Path, saver: dict[str, Any], **settings: Any) -> Any:
    callbacks = [ValidateFirst(), ModelCheckpoint(folder, filename="{step}", **saver)]
    trainer = loop.trainer(*callbacks, enable_checkpointing=True, **{**SETTINGS, **settings})
    trainer.fit(loop.scripted(answer), loop.Problems(16, 4))
    return trainer


@pytest.mark.parametrize(
    ("saver", "expected"),
    [
        ({"save_last": True, "save_top_k": 0}, {"last": (4, 4)}),
        ({"save_last": True, "save_top_k": 1}, {"last": (4, 4), "step=4": (4, 4)}),
        (
            {"save_last": "link", "save_top_k": 2, "monitor": "step", "mode": "max"},
            {"last": (4, 4), "step=2": (2, 2), "step=4": (4, 4)},
        ),
        # The first one is the best: the second validation leaves it as it is.
        ({"save_top_k": -1, "monitor": "step", "mode": "min"}, {"step=2": (2, 2), "step=4": (4, 4)}),
        ({"save_top_k": 1, "monitor": "step", "mode": "min"}, {"step=2": (2, 2)}),
        ({"save_top_k": 1, "save_weights_only": True}, {"step=4": (4, 4)}),
        ({"save_top_k": 1, "monitor": "val/pass@1", "mode": "max"}, {"step=2": (2, 2)}),
    ],
)
def test_a_validation_is_in_the_checkpoints_of_its_step(
    loop: Loop, tmp_path: Path, saver: dict[str, Any], expected: dict[str, tuple[int, int]]
) -> None:
    fit(loop, tmp_path, {"every_n_train_steps": 2, **saver})
    assert {path.stem: of(path) for path in tmp_path.glob("*.ckpt")} == expected
    last = tmp_path / "last.ckpt"
    assert last.is_symlink() == (saver.get("save_last") == "link")
    whole = torch.load(find_checkpoint(str(tmp_path)), weights_only=True)
    assert ("optimizer_states" in whole) != saver.get("save_weights_only", False)


def test_the_closing_validation_and_what_callbacks_keep(loop: Loop, tmp_path: Path) -> None:
    """A checkpoint of the last step said of itself what the weights before training had done."""

    saver = ModelCheckpoint(tmp_path / "checkpoints", every_n_train_steps=1, save_last=True, save_top_k=0)
    plots = CalibrationPlots()
    trainer = loop.trainer(
        ValidateFirst(), plots, saver, enable_checkpointing=True, max_steps=2, default_root_dir=tmp_path
    )
    trainer.fit(loop.scripted(answer), loop.Problems(8, 4))
    assert of(tmp_path / "checkpoints" / "last.ckpt") == (2, 2)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert kept["CalibrationPlots"] == plots.state_dict()
    assert [row[0] for row in kept["CalibrationPlots"]["history"]["pass_rate"]] == [0, 2]


def test_what_is_monitored_is_known_where_a_run_goes_on(loop: Loop, tmp_path: Path) -> None:
    """Behind a validation that is not repeated the epoch ends, where Lightning's callbacks look at its metrics."""
    for epochs in (1, 2):
        best = ModelCheckpoint(tmp_path / "best", filename="{epoch}", monitor="val/pass@1", save_top_k=-1)
        saver = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_last=True, save_top_k=0)
        stopper = EarlyStopping("val/pass@1", mode="max", min_delta=-1.0, patience=1)
        trainer = loop.trainer(stopper, best, saver, enable_checkpointing=True, max_epochs=epochs)
        trainer.fit(
            loop.scripted(answer), loop.Problems(4, 4), ckpt_path=tmp_path / "last.ckpt" if epochs > 1 else None
        )
        assert trainer.global_step == 2 * epochs
        assert len(best.best_k_models) == epochs


def test_others_are_left_as_they_are(loop: Loop, tmp_path: Path) -> None:
    """Those of another step, of another run, broken ones, and those that are no longer there."""
    trainer = fit(loop, tmp_path, {"every_n_train_steps": 2, "save_top_k": -1}, limit_val_batches=0)
    saver = trainer.checkpoint_callback
    other = Path(saver.best_model_path).rename(tmp_path.parent / f"{tmp_path.name}-other.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"PK\x03\x04")
    saver.best_k_models = {str(p): torch.tensor(0) for p in (tmp_path / "step=2.ckpt", other, broken)}
    before = {p: p.read_bytes() for p in (tmp_path / "step=2.ckpt", other, broken)}
    save_validated(trainer, 4)
    assert {p: p.read_bytes() for p in before} == before
    assert not Path(saver.best_model_path).exists()


def _work(rank: int, folder: Path) -> None:
    saver = {"every_n_train_steps": 2, "save_last": "link", "save_top_k": 1}
    fit(Loop(Path("tiny")), folder, saver, devices=2, strategy=two_processes.strategy("fsdp2"))


def test_shards(tmp_path: Path) -> None:
    two_processes.run(_work, tmp_path)
    assert (tmp_path / "last.ckpt").is_symlink()
    assert {path.stem: of(path) for path in tmp_path.glob("*.ckpt")} == {"last": (4, 4), "step=4": (4, 4)}
