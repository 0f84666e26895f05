"""Schedules of an overridden `configure_optimizers`, as under Lightning's automatic optimisation."""

from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau, StepLR

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.optimization import ConstantWithWarmup
from masa_lightning.settings import Evaluation

ONE = Evaluation(num_generations=1)


def halving(optimizer):
    return StepLR(optimizer, step_size=1, gamma=0.5)


class Scheduled(GRPOLightningModule):
    """SGD at 1, whose schedules `made` returns."""

    made: Any = None

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        return type(self).made(optimizer)

    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("val/reward", 1.0)  # a plateau from the first validation on


class Automatic(LightningModule):
    """Lightning's own loop over the same schedules: the oracle."""

    def __init__(self, made):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.made = made

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.log("val/reward", 1.0)

    def configure_optimizers(self):
        return self.made(torch.optim.SGD(self.parameters(), lr=1.0))


def plateau(optimizer, **config):
    schedule = ReduceLROnPlateau(optimizer, mode="max", factor=0.5, patience=0)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/reward", **config}}


def with_config(**config):
    return lambda o: {"optimizer": o, "lr_scheduler": {"scheduler": halving(o), **config}}


SCHEDULES = {
    "no schedule": lambda o: o,
    "raw": lambda o: {"optimizer": o, "lr_scheduler": halving(o)},
    "lists": lambda o: ([o], [halving(o)]),
    "several": lambda o: ([o], [{"scheduler": halving(o), "interval": "step"}, halving(o)]),
    "epoch": with_config(interval="epoch"),
    "every second epoch": with_config(interval="epoch", frequency=2),
    "step": with_config(interval="step"),
    "every second step": with_config(interval="step", frequency=2),
    "cosine": lambda o: ([o], [{"scheduler": CosineAnnealingLR(o, T_max=12), "interval": "step"}]),
    "plateau": plateau,
    "monitor outside": lambda o: {
        "optimizer": o,
        "lr_scheduler": ReduceLROnPlateau(o, mode="max", factor=0.5, patience=0),
        "monitor": "val/reward",
    },
    "plateau every second epoch": lambda o: plateau(o, frequency=2),
    "plateau, not strict": lambda o: plateau(o, monitor="val/other", strict=False),
    "both": lambda o: ([o], [plateau(o)["lr_scheduler"], {"scheduler": halving(o), "frequency": 3}]),
}


def rates(loop, made, **settings):
    kind = type("Scheduled", (Scheduled,), {"made": staticmethod(made)})
    settings = {"max_epochs": 6, **settings}
    data = loop.Problems(4, validation=2)
    recorder = loop.fit(loop.scripted(loop.boxes(*range(8)), kind, evaluation=ONE), data, **settings)
    return recorder.rates


@pytest.mark.filterwarnings(
    "ignore:.*monitors 'val/other'", "ignore:.*ReduceLROnPlateau conditioned on metric val/other"
)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:Detected call of `lr_scheduler")
@pytest.mark.filterwarnings("ignore:Seems like `optimizer.step")
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")  # an engine of another test misleads it
@pytest.mark.parametrize("name", SCHEDULES)
def test_as_in_lightning(loop, name):
    """Six epochs of two batches, with a validation after each."""
    recorder = loop.Recorder()
    recorder.on_train_batch_end = lambda *_: None
    trainer = loop.trainer(recorder, max_epochs=6)
    trainer.fit(
        Automatic(SCHEDULES[name]), torch.utils.data.DataLoader(range(2)), torch.utils.data.DataLoader(range(1))
    )
    assert len(recorder.rates) == 12
    assert rates(loop, SCHEDULES[name]) == pytest.approx(recorder.rates)
    assert (recorder.rates[-1] < 1) is (name not in ("no schedule", "plateau, not strict"))


def test_steps_are_optimiser_steps(loop):
    kind = type("Scheduled", (Scheduled,), {"made": staticmethod(SCHEDULES["every second step"])})
    module = loop.scripted(loop.boxes(*range(8)), kind, evaluation=ONE, num_mini_batches=2, num_iterations=2)
    recorder = loop.fit(module, loop.Problems(4))
    assert recorder.rates == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch")
@pytest.mark.parametrize("name", ["every second epoch", "every second step", "plateau", "both"])
@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resume(loop, tmp_path, name, stop):
    """From the checkpoint of a training step, also of the last one of an epoch, before its validation."""
    whole = rates(loop, SCHEDULES[name])
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    kind = type("Scheduled", (Scheduled,), {"made": staticmethod(SCHEDULES[name])})
    data = loop.Problems(4, validation=2)
    module = loop.scripted(loop.boxes(*range(8)), kind, evaluation=ONE)
    loop.fit(module, data, saver, max_epochs=6, max_steps=stop + 1, enable_checkpointing=True)
    again, recorder = loop.scripted(loop.boxes(*range(8)), kind, evaluation=ONE), loop.Recorder()
    loop.trainer(recorder, max_epochs=6).fit(again, data, ckpt_path=tmp_path / f"step={stop}.ckpt")
    assert recorder.rates == pytest.approx(whole[stop:])


def test_a_metric_that_is_missing(loop):
    with pytest.raises(
        MisconfigurationException, match=r"monitors 'val/other', which was not logged; expected one of \['"
    ):
        rates(loop, lambda o: plateau(o, monitor="val/other"))


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (with_config(frequency=0), ValueError, "with frequency 0; expected >= 1"),
        (with_config(interval="batch"), MisconfigurationException, 'must be "step" or "epoch"'),
        (lambda o: plateau(o, monitor=None), MisconfigurationException, "must include a monitor"),
        (lambda o: ([o, o], []), RuntimeError, "multiple optimizers"),
        (
            lambda o: torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0),
            ValueError,
            "no optimiser of the policy's weights",
        ),
    ],
)
def test_refused_before_anything_is_drawn(loop, made, error, message):
    kind = type("Scheduled", (Scheduled,), {"made": staticmethod(made)})
    module = loop.module(kind)
    with pytest.raises(error, match=message):
        loop.fit(module, loop.Problems(2))
    assert module.sampler.calls == []


def test_the_default_is_warm_up_by_optimiser_steps(loop):
    module = loop.module(GRPOLightningModule, warmup_steps=4, learning_rate=1.0)
    recorder = loop.fit(module, loop.Problems(4), max_epochs=3)
    assert recorder.rates == [0.25, 0.5, 0.75, 1, 1, 1]
    (config,) = recorder.trainer.lr_scheduler_configs
    assert (type(config.scheduler), config.interval) == (ConstantWithWarmup, "step")
