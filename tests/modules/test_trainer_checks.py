"""Mistakes in `Trainer(callbacks=...)` are answered before any weights are loaded."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from training_loop import Loop

from masa_lightning import AnswerGrader, GRPOLightningModule, RolloutTable, TransformersSampler


@pytest.mark.parametrize(
    ("callbacks", "said"),
    [
        (
            [RolloutTable],
            r"callbacks\[0\] of the Trainer is the class RolloutTable; expected one made of it: RolloutTable\(\)",
        ),
        ([ModelCheckpoint], r"is the class ModelCheckpoint"),
        (
            ["RolloutTable"],
            r"callbacks\[0\] of the Trainer is 'RolloutTable', which is no callback; expected an object",
        ),
        ([None], r"is None, which is no callback"),
        ([{"class_path": "masa_lightning.RolloutTable"}], r"is \{'class_path'.*no callback"),
        ([TransformersSampler()], r"is a TransformersSampler, .*; a sampler is an argument of the module"),
        ([AnswerGrader()], r"is a AnswerGrader, .*; a grader is an argument of the module"),
        ([[]], r"is \[\], .*, without a list in the list"),
    ],
)
def test_what_is_no_callback(loop: Loop, callbacks: list[Any], said: str) -> None:
    trainer = loop.trainer()
    trainer.callbacks[:0] = callbacks
    module = loop.module(GRPOLightningModule)
    with pytest.raises(TypeError, match=said):
        trainer.fit(module, loop.Problems(2))
    assert module.policy is None


class OfBefore(Callback):
    """A control as earlier versions had them."""

    def acts(self, step: int) -> bool:
        return False

    decide = settle = figures = acts


def test_a_control_that_nobody_would_ask(loop: Loop) -> None:
    trainer = loop.trainer(OfBefore())
    with pytest.raises(TypeError, match=r"OfBefore, decides on rollouts and has no metrics, .*expected all methods of"):
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(2))


@pytest.mark.parametrize("kind", [EarlyStopping, ModelCheckpoint])
def test_a_metric_that_no_validation_logs(loop: Loop, kind: Any) -> None:
    trainer, module = loop.trainer(kind(monitor="val_pass@1"), enable_checkpointing=True), loop.module()
    said = rf"{kind.__name__} monitors 'val_pass@1', which no .*, perhaps val/pass@1\. Among them are val/pass@1, "
    with pytest.raises(ValueError, match=said):
        trainer.fit(module, loop.Problems(2))
    assert module.policy is None


class Logs(GRPOLightningModule):
    """One's own, with a metric that nobody else knows."""

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self.log("val_own", 1.0)


def test_a_metric_of_ones_own(loop: Loop) -> None:
    trainer = loop.trainer(EarlyStopping("val_own"), max_steps=1)
    trainer.fit(loop.module(Logs), loop.Problems(2, 2))
    assert trainer.global_step == 1


@pytest.mark.parametrize(
    ("first", "second", "file"),
    [
        ({"filename": "a"}, {"filename": "a"}, "a"),
        ({}, {}, r"\{epoch\}-\{step\}"),
        ({"filename": "a", "save_last": True}, {"filename": "b", "save_last": True}, "last"),
    ],
)
def test_two_that_write_one_file(
    loop: Loop, first: dict[str, Any], second: dict[str, Any], file: str, tmp_path: Any
) -> None:
    savers = [ModelCheckpoint(tmp_path, every_n_train_steps=n, **each) for n, each in ((1, first), (2, second))]
    trainer = loop.trainer(*savers, enable_checkpointing=True)
    with pytest.raises(ValueError, match=rf"2 ModelCheckpoints write {file}\.ckpt in .*expected a filename"):
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(2))


@pytest.mark.parametrize(
    ("spread", "split", "shown"), [(2, 1, "2 and tensor_parallel_size=1"), ("auto", 2, "1 and"), (1, 2, "1 and")]
)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_strategy_for_other_processes(loop: Loop, spread: int | str, split: int, shown: str, stage: str) -> None:
    trainer = loop.trainer(strategy=ModelParallelStrategy(data_parallel_size=spread, tensor_parallel_size=split))
    module = loop.module(GRPOLightningModule)
    expected = rf"data_parallel_size={shown}.* 1 processes .*--trainer.strategy.data_parallel_size 1 "
    with pytest.raises(ValueError, match=expected):
        getattr(trainer, stage)(module, loop.Problems(2, 2))
    assert module.policy is None
