"""Optimiser and schedule are settings: classes, partials or functions, kept in checkpoints and refused where wrong."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from training_loop import Loop
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from masa_lightning import (
    AdamW,
    ConstantWithWarmup,
    CosineWithWarmup,
    GRPOLightningModule,
    MASALightningModule,
    Optimization,
    TransformersSampler,
)
from masa_lightning.modules.moved import MOVED, translated
from masa_lightning.settings import Algorithm

pytestmark = pytest.mark.filterwarnings("ignore:.*`load_from_checkpoint`")


def rates(make: Any, steps: int, rate: float = 0.5) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_schedules_are_those_of_transformers_a_step_ahead_in_warm_up(warmup: int) -> None:
    """Whose first step has a rate of 0, and changes nothing."""
    constant = rates(partial(ConstantWithWarmup, num_warmup_steps=warmup), 8)
    cosine = rates(partial(CosineWithWarmup, num_warmup_steps=warmup, num_training_steps=12), 15)
    theirs = rates(lambda o: get_constant_schedule_with_warmup(o, warmup), 9)
    assert constant == pytest.approx(theirs[1:] if warmup else theirs[:8])
    theirs = rates(lambda o: get_cosine_schedule_with_warmup(o, warmup, 12), 15)
    assert cosine[warmup:12] == pytest.approx(theirs[warmup:12])
    assert cosine[:warmup] == constant[:warmup]
    assert cosine[12:] == [0.0] * 3


def test_a_cosine_ends_with_the_run(loop: Loop) -> None:
    optimization = Optimization(
        optimizer=partial(AdamW, lr=1.0), lr_scheduler=CosineWithWarmup, num_mini_batches=2, num_iterations=2
    )
    module = loop.module(GRPOLightningModule, optimization=optimization, sampler=loop.Spy())
    recorder = loop.fit(module, loop.Problems(6), max_steps=2)  # of 3
    assert recorder.rates == pytest.approx([0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(8)])
    short = Optimization(lr_scheduler=partial(CosineWithWarmup, num_training_steps=5))
    with pytest.raises(ValueError, match=r"num_training_steps of CosineWithWarmup is 5, and the run has 6 optimiser"):
        loop.fit(loop.module(optimization=short), loop.Problems(12))
    with pytest.raises(ValueError, match=r"no num_training_steps and the Trainer no end; expected max_steps or"):
        loop.fit(loop.module(optimization=Optimization(lr_scheduler=CosineWithWarmup)), loop.Problems(2), max_epochs=-1)


def halved(optimizer: Optimizer) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: 0.5**step)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [(None, [1e-2] * 3), (halved, [1e-2, 5e-3, 2.5e-3]), (partial(CosineAnnealingLR, T_max=2), [1e-2, 5e-3, 0.0])],
)
def test_any_optimizer_and_schedule(loop: Loop, schedule: Any, expected: list[float]) -> None:
    optimization = Optimization(
        optimizer=partial(torch.optim.SGD, lr=1e-2, momentum=0.9, weight_decay=0.1), lr_scheduler=schedule
    )
    module = loop.module(optimization=optimization)
    recorder = loop.fit(module, loop.Problems(6))
    assert recorder.rates == pytest.approx(expected)
    optimizer = module.trainer.optimizers[0]
    assert type(optimizer) is torch.optim.SGD
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0]
    assert loop.changed(loop.weights(), loop.weights(module))


def test_a_schedule_that_monitors(loop: Loop) -> None:
    schedule = partial(ReduceLROnPlateau, monitor="reward", factor=0.5, patience=0, mode="max")
    optimization = Optimization(optimizer=partial(AdamW, lr=1e-2), lr_scheduler=schedule)
    recorder = loop.fit(loop.module(optimization=optimization), loop.Problems(2), max_epochs=3)
    assert recorder.rates == pytest.approx([1e-2, 1e-2, 5e-3])  # nothing is right, and the reward stays 0


def function(parameters: Any) -> Optimizer:
    return torch.optim.SGD(parameters, lr=1e-2)


@pytest.mark.parametrize("name", ["torch", "ours", "function"])
def test_a_checkpoint_has_them(loop: Loop, tmp_path: Path, name: str) -> None:
    made = {
        "torch": (partial(torch.optim.SGD, lr=0.25, momentum=0.5), partial(CosineAnnealingLR, T_max=7)),
        "ours": (partial(AdamW, lr=0.25, betas=(0.8, 0.9)), partial(ConstantWithWarmup, num_warmup_steps=3)),
        "function": (function, None),
    }[name]
    optimization = Optimization(optimizer=made[0], lr_scheduler=made[1], max_grad_norm=None)
    module = loop.module(sampler=TransformersSampler(), optimization=optimization)
    loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(path := tmp_path / "run.ckpt")
    if name == "function":
        with pytest.raises(ValueError, match=r"not made from a checkpoint.*: optimization\.optimizer: .*function"):
            MASALightningModule.load_from_checkpoint(path)
        loaded = MASALightningModule.load_from_checkpoint(path, optimization=optimization)
        assert loaded.optimization is optimization
        return
    found = MASALightningModule.load_from_checkpoint(path).optimization
    assert (found.max_grad_norm, found.num_mini_batches) == (None, 1)
    for own, given in ((found.optimizer, made[0]), (found.lr_scheduler, made[1])):
        assert own.func is given.func
        assert given.keywords.items() <= own.keywords.items()


@pytest.mark.parametrize(
    "planted", ["os.system", "torch.optim.Optimizer.step", "torch.hub.load", "torch.optim.functional"]
)
def test_a_strangers_checkpoint_makes_no_other_optimizer(loop: Loop, tmp_path: Path, planted: str) -> None:
    module = loop.module(sampler=TransformersSampler())
    loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(path := tmp_path / "run.ckpt")
    evil = torch.load(path, weights_only=True)
    evil["hyper_parameters"]["optimization"]["optimizer"] = {"class_path": planted, "init_args": {}}
    torch.save(evil, path)
    with pytest.raises(ValueError, match=r"not made from a checkpoint.*: optimization\.optimizer: "):
        MASALightningModule.load_from_checkpoint(path)


PARAMETER = torch.nn.Parameter(torch.zeros(1))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"optimizer": partial(AdamW, lr=-1.0)}, ValueError, r"AdamW\(lr=-1\.0\).*lr is -1\.0; expected >= 0"),
        ({"optimizer": partial(AdamW, lr=math.nan)}, ValueError, r"lr is nan; expected >= 0$"),
        ({"optimizer": partial(AdamW, weight_decay=-0.1)}, ValueError, r"weight_decay is -0\.1; expected >= 0"),
        ({"optimizer": partial(torch.optim.SGD, lr=-1.0)}, ValueError, r"SGD\(lr=-1\.0\) cannot be made: Invalid"),
        ({"optimizer": partial(AdamW, nosuch=1)}, TypeError, r"AdamW\(nosuch=1\) cannot be made: .*nosuch"),
        ({"optimizer": torch.optim.SGD([PARAMETER])}, TypeError, "optimizer is a SGD; expected a class path with init"),
        ({"optimizer": "torch.optim.SGD"}, TypeError, "optimizer is a str; expected a class path with init_args, in P"),
        ({"optimizer": None}, TypeError, "optimizer is None; expected a class path"),
        ({"optimizer": ConstantWithWarmup}, TypeError, "ConstantWithWarmup, which is no Optimizer; expected"),
        ({"lr_scheduler": AdamW}, TypeError, "lr_scheduler is AdamW, which is no LRScheduler; expected"),
        ({"lr_scheduler": CosineAnnealingLR}, TypeError, r"CosineAnnealingLR\(\) cannot be made: .*T_max"),
        (
            {"lr_scheduler": partial(ConstantWithWarmup, num_warmup_steps=1.5)},
            ValueError,
            "num_warmup_steps is 1.5; exp",
        ),
        ({"lr_scheduler": partial(CosineWithWarmup, num_training_steps=0)}, ValueError, "num_training_steps is 0; exp"),
        (
            {"lr_scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau},
            ValueError,
            r"does not say what it monitors; expected lightning\.pytorch\.cli\.ReduceLROnPlateau",
        ),
    ],
)
def test_refused_when_they_are_set(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Optimization(**settings)


def test_settings_of_earlier_versions() -> None:
    old = {name: index for index, name in enumerate(MOVED)}
    now = translated({"model": "tiny", "inference": 1, **old})
    assert now.keys() == {"model", "optimization", "meta", "algorithm"}
    for name, index in old.items():
        found: Any = now
        for part in MOVED[name].split("."):
            found = found.get("init_args", found)[part]
        assert found == index


def test_corrections_of_earlier_versions_had_no_mode() -> None:
    old = {"importance_sampling": "sequence", "importance_sampling_cap": 3.0, "kl_coef": 0.1}
    now = translated({"algorithm": old})["algorithm"]
    assert now == {"importance_sampling": "sequence_truncate", "importance_sampling_clip_max": 3.0, "kl_coef": 0.1}
    assert translated({"algorithm": now})["algorithm"] == now
    Algorithm(**now)


@pytest.mark.parametrize("name", ["messages", "prompt_ids", "completion_limit"])
def test_methods_that_are_not_called_any_more_are_not_overridden_in_vain(name: str) -> None:
    kind = type("Own", (MASALightningModule,), {name: lambda self, *given: []})
    with pytest.raises(
        TypeError, match=rf"Own overrides {name}\(\), which is not called any more; expected .*(chats|limits)"
    ):
        kind("tiny")


class Rated(MASALightningModule):
    """A user's module that passes settings on."""

    def __init__(self, model: str, **settings: Any) -> None:
        super().__init__(model, **settings)


def test_a_checkpoint_of_earlier_settings_is_loaded(loop: Loop, tmp_path: Path) -> None:
    for kind in (MASALightningModule, Rated):
        module = loop.module(kind, sampler=TransformersSampler())
        loop.fit(module, loop.Problems(2)).trainer.save_checkpoint(path := tmp_path / "run.ckpt")
        old = torch.load(path, weights_only=True)
        del old["hyper_parameters"]["optimization"]
        old["hyper_parameters"] |= {"learning_rate": 0.25, "warmup_steps": 3, "max_grad_norm": None}
        torch.save(old, path)
        if kind is Rated:
            message = (
                r"of an earlier version .*: learning_rate is optimization\.optimizer\.lr, warmup_steps is .*; expec"
            )
            with pytest.raises(ValueError, match=message):
                Rated.load_from_checkpoint(path)
            continue
        loaded = MASALightningModule.load_from_checkpoint(path)
        found = loaded.optimization
        assert (found.optimizer.keywords["lr"], found.max_grad_norm) == (0.25, None)  # type: ignore[attr-defined]
        assert found.lr_scheduler.keywords == {"num_warmup_steps": 3}  # type: ignore[union-attr]
        assert "learning_rate" not in loaded.hparams
