"""What was changed before a run is resumed holds from there on, and is said; what cannot be gone on from is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_tiny_checkpoint
from lightning.pytorch.callbacks import ModelCheckpoint
from training_loop import Loop

from masa_lightning import ExpertSFT, GRPOLightningModule, LoRA
from masa_lightning.functional.prompts import PromptTemplates
from masa_lightning.modules.resumed_settings import OptimizerSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
    pytest.mark.filterwarnings("ignore:the order of the problems differs"),
]


def run(
    loop: Loop,
    folder: Path,
    steps: int,
    checkpoint: Path | None = None,
    *,
    module: Any = None,
    batch: int = 2,
    **settings: Any,
):
    """Trains to a number of steps, in two optimiser steps each; returns module, recorder and the checkpoint."""
    module = module or loop.module(GRPOLightningModule, num_mini_batches=2, **settings)
    saver = ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    recorder = loop.Recorder()
    trainer = loop.trainer(
        recorder, saver, max_steps=steps, max_epochs=-1, enable_checkpointing=True, limit_val_batches=0
    )
    trainer.fit(
        module, loop.Problems(8, batch_size=batch), ckpt_path=checkpoint, weights_only=True if checkpoint else None
    )
    return module, recorder, folder / f"step={steps}.ckpt"


def test_a_new_learning_rate_holds(loop: Loop, tmp_path: Path) -> None:
    _, first, checkpoint = run(loop, tmp_path, 1, learning_rate=1e-3, warmup_steps=4)
    assert first.rates == [0.25e-3, 0.5e-3]
    with pytest.warns(
        UserWarning,
        match=r"after training step 1 .*: optimization\.optimizer\.lr was 0\.001, is 0\.01\. The new ones hold",
    ):
        _, second, checkpoint = run(loop, tmp_path, 2, checkpoint, learning_rate=1e-2, warmup_steps=4)
    assert second.rates == pytest.approx([0.75e-2, 1e-2])
    _, third, _ = run(loop, tmp_path, 3, checkpoint, learning_rate=1e-2, warmup_steps=4)  # not said, nor scaled, again
    assert third.rates == pytest.approx([1e-2, 1e-2])


def test_new_weight_decay_and_the_rest_hold_and_are_said(loop: Loop, tmp_path: Path) -> None:
    settings = {"weight_decay": 0.5, "max_grad_norm": 0.1, "seed": 7, "num_generations": 2, "reward_weights": [2.0],
                "prompts": PromptTemplates(solution="S: {problem}", meta="M:{problem}")}  # fmt: skip
    *_, checkpoint = run(loop, tmp_path, 1, reward_functions=[letters])
    with pytest.warns(UserWarning, match="with other settings") as caught:
        module, *_ = run(loop, tmp_path, 2, checkpoint, batch=4, reward_functions=[letters], **settings)
    text = next(str(w.message) for w in caught if "with other settings" in str(w.message))
    for phrase in (
        *(
            "weight_decay was 0.0, is 0.5",
            "max_grad_norm was 1.0, is 0.1",
            "seed was 0, is 7",
            "num_generations was 3, is 2",
        ),
        *("reward_weights.0 was 1.0, is 2.0", "prompts.solution was 'S:{problem}', is 'S: {problem}'"),
        "data.batch_size was 2, is 4",
    ):
        assert phrase in text
    decays = [group["weight_decay"] for group in module.trainer.optimizers[0].param_groups]
    assert decays == [0.5, 0.0]  # norms have none


def letters(problem: Any, completions: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def test_nothing_is_said_of_an_unchanged_run(loop: Loop, tmp_path: Path) -> None:
    """Warnings are errors here."""
    *_, checkpoint = run(loop, tmp_path, 1)
    run(loop, tmp_path, 2, checkpoint)


def test_controls_and_cloning(loop: Loop, tmp_path: Path) -> None:
    def train(steps: int, rate: float, checkpoint: Path | None = None) -> Any:
        callback = ExpertSFT(batch_size=1, learning_rate=rate)
        saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
        trainer = loop.trainer(
            callback, saver, max_steps=steps, max_epochs=-1, enable_checkpointing=True, limit_val_batches=0
        )
        trainer.fit(loop.module(), loop.Problems(8), ckpt_path=checkpoint, weights_only=True if checkpoint else None)
        return callback

    train(1, 1e-3)
    with pytest.warns(UserWarning, match=r"ExpertSFT\.learning_rate was 0\.001, is 0\.002"):
        callback = train(2, 2e-3, tmp_path / "step=1.ckpt")
    assert {group["lr"] for group in callback._optimizer.param_groups} == {2e-3}


def test_another_model(loop: Loop, tmp_path: Path) -> None:
    other = make_tiny_checkpoint(tmp_path / "other")
    *_, checkpoint = run(loop, tmp_path / "all", 1)
    with pytest.warns(UserWarning, match=r"model was .* is 'other'.*tokenizer, stop tokens and the reference"):
        run(loop, tmp_path / "all", 2, checkpoint, model=str(other))
    *_, checkpoint = run(loop, tmp_path / "lora", 1, lora=LoRA(rank=2))
    with pytest.raises(ValueError, match=r"holds adapters of model .* expected the same"):
        run(loop, tmp_path / "lora", 2, checkpoint, model=str(other), lora=LoRA(rank=2))


def test_a_model_of_another_size_is_refused(loop: Loop, tmp_path: Path) -> None:
    """As the embedded one of an earlier version, whose vocabulary was smaller."""
    *_, checkpoint = run(loop, tmp_path, 1)
    content = torch.load(checkpoint, weights_only=True)
    name = "policy.model.model.embed_tokens.weight"
    content["state_dict"][name] = content["state_dict"][name][:-5]
    torch.save(content, checkpoint)
    with pytest.raises(
        ValueError, match=r"^checkpoint '.*' is of another model: policy.* \(99, 32\) .* run of `tiny` that is "
    ):
        run(loop, tmp_path, 2, checkpoint)
    with pytest.raises(ValueError, match=r"^this checkpoint is of another model: policy"):
        GRPOLightningModule.load_from_checkpoint(checkpoint, sampler=loop.module(GRPOLightningModule).sampler)


def test_checkpoints_whose_steps_were_optimizer_steps_are_refused(loop: Loop, tmp_path: Path) -> None:
    *_, checkpoint = run(loop, tmp_path, 1)
    content = torch.load(checkpoint, weights_only=True)
    for name in ("format", "steps", "updating", "schedules", "skipped_in_a_row", "optimizer_settings"):
        del content["masa"][name]
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"of format 1, .* expected 2, .* count training steps\. .*masa export"):
        run(loop, tmp_path, 2, checkpoint)
    trainer = loop.trainer()
    trainer.test(loop.module(GRPOLightningModule), loop.Problems(0, 2), ckpt_path=checkpoint, verbose=False)
    assert "test/pass@1" in trainer.callback_metrics


def test_weights_alone_are_no_run_to_go_on_with(loop: Loop, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "weights", every_n_train_steps=1, save_weights_only=True)
    trainer = loop.trainer(saver, max_steps=1, enable_checkpointing=True, limit_val_batches=0)
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(4))
    with pytest.raises(ValueError, match=r"holds weights alone, .*save_weights_only; .*masa export"):
        run(loop, tmp_path / "on", 2, tmp_path / "weights.ckpt")


class Interrupted(Exception): ...


def test_a_checkpoint_of_half_an_update_says_so(loop: Loop, tmp_path: Path) -> None:
    checkpoint = tmp_path / "broken.ckpt"

    class Breaks(GRPOLightningModule):
        taken = 0  # optimiser steps, of two a training step

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            if not checkpoint.exists() and self.taken == 3:
                raise Interrupted
            self.taken += 1

    saver = ModelCheckpoint(dirpath=tmp_path, filename="broken", save_on_exception=True)
    trainer = loop.trainer(saver, max_steps=3, max_epochs=-1, enable_checkpointing=True, limit_val_batches=0)
    with pytest.raises(Interrupted):
        trainer.fit(loop.module(Breaks, num_mini_batches=2), loop.Problems(8))
    with pytest.warns(UserWarning, match=r"inside training step 2, in the middle of its update.*an earlier checkpoint"):
        module, *_ = run(loop, tmp_path, 3, checkpoint, module=loop.module(Breaks, num_mini_batches=2))
    assert module.run_state.rollout_steps == module.trainer.global_step == 3


# -- optimisers --------------------------------------------------------------------------------------------------------


def make(rate: float = 0.1, schedule: Any = None, **settings: Any) -> tuple[Any, list[Any], OptimizerSettings]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=rate, **settings)
    schedules = [] if schedule is None else [schedule(optimizer)]
    return optimizer, schedules, OptimizerSettings([optimizer], schedules)


def resumed(then: tuple[Any, list[Any], OptimizerSettings], now: tuple[Any, list[Any], OptimizerSettings]) -> list[str]:
    """What changes when a run goes on with other optimisers."""
    now[0].load_state_dict(then[0].state_dict())
    for old, new in zip(then[1], now[1], strict=True):
        new.load_state_dict(old.state_dict())
    return now[2].hold(then[2].state_dict(), [now[0]], now[1])


def test_a_rate_that_the_run_itself_changed_is_left_alone() -> None:
    then, now = make(), make()
    then[0].param_groups[0]["lr"] = 0.03
    assert resumed(then, now) == []
    assert now[0].param_groups[0]["lr"] == 0.03


def test_a_new_rate_goes_on_from_where_a_schedule_is() -> None:
    def cosine(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

    then, now, straight = make(0.1, cosine), make(0.4, cosine), make(0.4, cosine)
    for _ in range(4):
        then[0].step(), then[1][0].step(), straight[0].step(), straight[1][0].step()
    assert resumed(then, now) == ["lr was 0.1, is 0.4"]
    for _ in range(5):
        assert now[0].param_groups[0]["lr"] == pytest.approx(straight[0].param_groups[0]["lr"])
        assert now[1][0].get_last_lr() == pytest.approx(straight[1][0].get_last_lr())
        straight[0].step(), straight[1][0].step(), now[0].step(), now[1][0].step()


def test_new_constants_hold() -> None:
    def steps(gamma: float) -> Any:
        return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=gamma)

    then, now = make(1.0, steps(0.5), betas=(0.9, 0.99)), make(1.0, steps(0.1), betas=(0.8, 0.99))
    then[0].step(), then[1][0].step()
    changes = resumed(then, now)
    assert changes == ["betas was (0.9, 0.99), is (0.8, 0.99)", "StepLR.gamma was 0.5, is 0.1"]
    now[0].step(), now[1][0].step()
    assert math.isclose(now[0].param_groups[0]["lr"], 0.05)
