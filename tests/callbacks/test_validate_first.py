"""A validation before the first step: where it is logged, when there is none, and that training does not notice it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from masa_lightning.callbacks.validate_first import ValidateFirst


def steps(recorder: Any) -> list[int]:
    """Where validations were logged."""
    return [step for step, metrics in recorder.logged if "val/pass@1" in metrics]


def test_before_and_after(loop: Any) -> None:
    module = loop.module()
    recorder = loop.fit(module, loop.Problems(8, 4), ValidateFirst(), max_steps=3)
    assert steps(recorder) == [0, 3]  # the second because no other came between
    assert [step for step, metrics in recorder.logged if "reward" in metrics] == [1, 2, 3]
    first, last = module.run_state.first_validation, module.run_state.last_validation
    assert (first["rollout_steps"], last["rollout_steps"]) == (0, 3)
    assert first["problems"] == 4 and first["measured"] == last["measured"]
    assert first["metrics"]["val/pass@1"] == next(m["val/pass@1"] for s, m in recorder.logged if s == 0)


@pytest.mark.parametrize("max_steps", [3, 4])
def test_it_says_the_epoch_of_the_last_step(max_steps: int, loop: Any) -> None:
    """Behind the last step Lightning counts the epoch as done, also one that is cut."""
    recorder = loop.fit(loop.module(), loop.Problems(8, 4), ValidateFirst(), max_steps=max_steps)
    epochs = {step: {m["epoch"] for s, m in recorder.logged if s == step and "epoch" in m} for step in (0, max_steps)}
    assert epochs == {0: {0.0}, max_steps: {float((max_steps - 1) // recorder.trainer.num_training_batches)}}


def test_other_validations_stay_where_they_are(loop: Any) -> None:
    settings = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    assert steps(loop.fit(loop.module(), loop.Problems(8, 4), ValidateFirst(), **settings)) == [0, 2, 4]


def test_training_does_not_notice_it(loop: Any) -> None:
    with_it, without = loop.module(), loop.module()
    data = loop.Problems(8, 4)
    first = loop.fit(with_it, data, ValidateFirst(), max_steps=2).metrics
    second = loop.fit(without, data, max_steps=2).metrics
    for name, weight in loop.weights(with_it).items():
        assert torch.equal(weight, loop.weights(without)[name])
    assert [m["reward"] for m in first] == [m["reward"] for m in second]


@pytest.mark.parametrize("settings", [{"patience": 1}, {"stopping_threshold": -1.0}])
def test_early_stopping_does_not_count_it(loop: Any, settings: dict[str, Any]) -> None:
    """With a pass rate that never rises `patience` ended a run a validation early; a threshold ended it before it began."""
    taken = []
    for first in ([ValidateFirst()], []):
        stopper = EarlyStopping("val/pass@1", mode="max", min_delta=2.0, **settings)
        options = {"max_steps": 4, "val_check_interval": 1, "check_val_every_n_epoch": None}
        trainer = loop.fit(loop.module(), loop.Problems(8, 4), stopper, *first, **options).trainer
        taken.append(trainer.global_step)
    assert taken[0] == taken[1] < 4


def test_early_stopping_may_look_at_what_a_step_logs(loop: Any) -> None:
    """There is none before the first step."""
    stopper = EarlyStopping("reward", mode="max", patience=9)
    options = {"max_steps": 2, "val_check_interval": 1, "check_val_every_n_epoch": None}
    trainer = loop.fit(loop.module(), loop.Problems(8, 4), stopper, ValidateFirst(), **options).trainer
    assert (trainer.global_step, stopper.strict) == (2, True)


def test_a_resumed_run_does_not_repeat_it(loop: Any, tmp_path: Any) -> None:
    settings = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    recorder = loop.fit(loop.module(), loop.Problems(8, 4), ValidateFirst(), max_steps=3, **settings)
    recorder.trainer.save_checkpoint(tmp_path / "three.ckpt")
    module, again = loop.module(), loop.Recorder()
    trainer = loop.trainer(again, ValidateFirst(), max_steps=4, **settings)
    trainer.fit(module, loop.Problems(8, 4), ckpt_path=tmp_path / "three.ckpt")
    assert steps(again) == [4]
    assert module.run_state.first_validation["rollout_steps"] == 0  # which the checkpoint knows
    assert steps(recorder) == [0, 2]


@pytest.mark.parametrize(("every", "expected"), [(9, [4]), (2, [4]), (3, [])])
def test_a_resumed_run_ends_with_it_if_an_undisturbed_one_does(
    every: int, expected: list[int], loop: Any, tmp_path: Any
) -> None:
    settings = {"val_check_interval": every, "check_val_every_n_epoch": None}
    whole = loop.fit(loop.module(), loop.Problems(8, 4), ValidateFirst(), max_steps=4, **settings)
    loop.fit(loop.module(), loop.Problems(8, 4), ValidateFirst(), max_steps=3, **settings).trainer.save_checkpoint(
        tmp_path / "three.ckpt"
    )
    module, again = loop.module(), loop.Recorder()
    trainer = loop.trainer(again, ValidateFirst(), max_steps=4, **settings)
    trainer.fit(module, loop.Problems(8, 4), ckpt_path=tmp_path / "three.ckpt")
    assert steps(again) == expected == [step for step in steps(whole) if step > 3]


class Stops(Callback):
    """As a `Timer` does whose time is over."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == 2


def test_a_run_that_was_stopped_and_goes_on_ends_with_it(loop: Any, tmp_path: Any) -> None:
    """Lightning validates where a run is stopped, which was taken for a validation on the way."""
    settings = {"val_check_interval": 100, "check_val_every_n_epoch": None}
    stopped = loop.fit(loop.module(), loop.Problems(8, 4), ValidateFirst(), Stops(), max_steps=4, **settings)
    stopped.trainer.save_checkpoint(tmp_path / "two.ckpt")
    again = loop.Recorder()
    loop.trainer(again, ValidateFirst(), max_steps=4, **settings).fit(
        loop.module(), loop.Problems(8, 4), ckpt_path=tmp_path / "two.ckpt"
    )
    assert (steps(stopped), steps(again)) == ([0, 2], [4])


def test_none_where_there_is_nothing_to_validate(loop: Any) -> None:
    assert steps(loop.fit(loop.module(), loop.Problems(4), ValidateFirst())) == []
    module = loop.module()
    loop.fit(module, loop.Problems(4, 4), ValidateFirst(), fast_dev_run=1)
    assert module.run_state.first_validation is None and module.run_state.last_validation["rollout_steps"] == 1


def test_other_problems_are_not_the_same_measurement(loop: Any) -> None:
    module = loop.module()
    loop.trainer(loop.Recorder()).validate(module, loop.Problems(4, 4), verbose=False)
    first = module.run_state.last_validation["measured"]
    loop.trainer(loop.Recorder()).validate(module, loop.Problems(4, 5), verbose=False)
    assert module.run_state.last_validation["measured"] != first
    module.evaluation = type(module.evaluation)(num_generations=2, num_meta_generations=1)
    loop.trainer(loop.Recorder()).validate(module, loop.Problems(4, 4), verbose=False)
    assert module.run_state.last_validation["measured"] != first


def test_a_run_that_is_whole_is_not_closed_again(loop: Any, tmp_path: Any) -> None:
    """Its last checkpoint has the closing validation. The same run, gone on with, does not repeat it; a longer one does."""
    saver = {"every_n_train_steps": 3, "save_last": True, "save_top_k": 0}
    for most, expected in ((3, [0, 3]), (3, []), (4, [4])):
        recorder, module = loop.Recorder(), loop.module()
        callbacks = [recorder, ValidateFirst(), ModelCheckpoint(tmp_path, **saver)]
        trainer = loop.trainer(*callbacks, enable_checkpointing=True, max_steps=most)
        last = tmp_path / "last.ckpt"
        trainer.fit(module, loop.Problems(8, 4), ckpt_path=last if last.exists() else None)
        assert steps(recorder) == expected
        assert module.run_state.last_validation["rollout_steps"] == most
