"""SIGTERM at any point of training, in one process and two: a checkpoint, status 143, and a resume that knows of nothing."""

import os
import signal

import pytest
import torch
import two_processes
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from masa_lightning.modules.grpo import GRPOLightningModule


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


class Terminate(Callback):
    """Sends the signal at the n-th time of a phase."""

    def __init__(self, phase, nth):
        self.phase, self.left = phase, nth

    def hit(self, phase):
        self.left -= phase == self.phase
        if not self.left and phase == self.phase:
            terminate()

    def on_phase_progress(self, phase, done, total):
        if done == 0:
            self.hit(phase)

    def on_validation_batch_start(self, *_):
        self.hit("validate")

    def on_save_checkpoint(self, *_):
        self.hit("save")

    def on_train_end(self, *_):
        self.hit("train end")


def saver(folder, **settings):
    return ModelCheckpoint(folder, **({"every_n_train_steps": 3, "save_last": True, "save_top_k": 0} | settings))


def fit(loop, folder, *callbacks, ckpt_path=None, **settings):
    module = loop.module(GRPOLightningModule)
    recorder = loop.Recorder()
    settings = {"enable_checkpointing": True, "max_epochs": 2, "val_check_interval": 2} | settings
    trainer = loop.trainer(recorder, *callbacks, saver(folder), **settings)
    try:
        trainer.fit(module, loop.Problems(8, 4), ckpt_path=ckpt_path)
        status = None
    except SystemExit as end:
        status = end.code
    return status, trainer, loop.weights(module), {step: m for step, m in recorder.logged if "reward" in m}


def alike(got, expected):
    return got.keys() == expected.keys() and all(
        got[step][name] == expected[step][name] or name.startswith(("timing_s/", "tokens_per")) or value != value
        for step in expected
        for name, value in expected[step].items()
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_checkpoint):
    from training_loop import Loop

    _, trainer, weights, logged = fit(Loop(tiny_checkpoint), tmp_path_factory.mktemp("undisturbed"))
    assert trainer.global_step == 8
    return weights, logged


@pytest.mark.parametrize(
    ("phase", "nth", "step"),
    [("generate", 1, 1), ("grade", 4, 2), ("update", 2, 2), ("validate", 2, 2), ("validate", 3, 4), ("save", 1, 4)],
)
def test_saves_and_goes_on_as_if_nothing_had_been(tmp_path, loop, undisturbed, phase, nth, step):
    before = signal.getsignal(signal.SIGTERM)
    status, trainer, _, first = fit(loop, tmp_path, Terminate(phase, nth))
    assert (status, trainer.global_step) == (143, step)
    assert signal.getsignal(signal.SIGTERM) is before
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step
    status, trainer, weights, second = fit(loop, tmp_path, ckpt_path="last")
    assert (status, trainer.global_step) == (None, 8)
    assert not loop.changed(weights, undisturbed[0])
    assert alike(first | second, undisturbed[1])


def test_at_the_very_end(tmp_path, loop):
    status, *_ = fit(loop, tmp_path, Terminate("train end", 1))
    assert status == 143
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


def test_without_checkpoints_it_says_so(loop):
    trainer = loop.trainer(Terminate("generate", 2), limit_val_batches=0)
    with (
        pytest.warns(UserWarning, match="ends after step 2 without a checkpoint, as there is no ModelCheckpoint"),
        pytest.raises(SystemExit) as end,
    ):
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8))
    assert end.value.code == 143


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_link_is_replaced_and_taken_up_again(tmp_path, loop):
    """The last checkpoint is then a file of its own."""
    linking = saver(tmp_path, every_n_train_steps=1, monitor="step", mode="max", save_top_k=2, save_last="link")
    trainer = loop.trainer(Terminate("generate", 3), linking, enable_checkpointing=True, limit_val_batches=0)
    with pytest.raises(SystemExit):
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8))
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    linking = saver(tmp_path, every_n_train_steps=1, monitor="step", mode="max", save_top_k=2, save_last="link")
    trainer = loop.trainer(linking, enable_checkpointing=True, limit_val_batches=0)
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8), ckpt_path="last")
    assert torch.load(last, weights_only=True)["global_step"] == 4
    assert last.is_symlink()


def status_of_a_child(work):
    """Forks where Lightning and the module have their handlers."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.filterwarnings("ignore:.*fork.* may lead to deadlocks")
def test_children_and_the_second_signal_end_at_once(tmp_path, loop):
    seen = []

    class Fork(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if not seen:
                (handler,) = [c for c in trainer.callbacks if type(c).__name__ == "SaveOnSigterm"]
                seen.append(status_of_a_child(terminate))  # a child that did not ask for the handler
                handler._owner = None

                def twice():
                    handler._owner = os.getpid()
                    terminate()
                    seen.append("alive")
                    terminate()

                seen.append(status_of_a_child(twice))
                handler._owner = os.getpid()

    status, *_ = fit(loop, tmp_path, Fork())
    assert status is None
    assert seen == [signal.SIGTERM, signal.SIGTERM]


def test_a_handler_of_the_user_is_called_too(tmp_path, loop):
    called = []
    before = signal.signal(signal.SIGTERM, lambda *_: called.append(1))
    try:
        status, *_ = fit(loop, tmp_path, Terminate("grade", 1))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (status, called) == (143, [1])


@pytest.mark.parametrize("stage", ["test", "validate"])
def test_other_stages_have_the_handler_that_was_there_before(tmp_path, loop, stage):
    """So that a test that is ended is no success."""
    called = []

    def handler(*_):
        called.append(1)

    class Look(Callback):
        def on_test_batch_start(self, *_):
            called.append(signal.getsignal(signal.SIGTERM))

        on_validation_batch_start = on_test_batch_start

    before = signal.signal(signal.SIGTERM, handler)
    try:
        getattr(loop.trainer(Look()), stage)(loop.module(GRPOLightningModule), datamodule=loop.Problems(0, 2))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert called == [handler]


def one_of_two(rank, checkpoint, folder):
    from training_loop import Loop

    loop = Loop(checkpoint)
    callbacks = [Terminate("generate", 3)] if rank == 1 else []
    trainer = loop.trainer(
        *callbacks,
        saver(folder),
        strategy="ddp",
        devices=2,
        enable_checkpointing=True,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(32))
    except SystemExit as end:
        (folder / f"{rank}.txt").write_text(f"{end.code} {trainer.global_step}")


def test_two_processes_end_after_the_same_step(tmp_path, tiny_checkpoint):
    two_processes.run(one_of_two, tiny_checkpoint, tmp_path)
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["143 3", "143 3"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 3


class EndSecond(Callback):
    """The second process is gone when the first waits for it, as `ModelCheckpoint` does in this hook."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank:
            os._exit(0)
        trainer.strategy.barrier()


def left_alone(rank, checkpoint, folder):
    from training_loop import Loop

    loop = Loop(checkpoint)
    trainer = loop.trainer(EndSecond(), strategy="ddp", devices=2, limit_val_batches=0, use_distributed_sampler=False)
    with pytest.raises(RuntimeError) as error:
        trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8))
    (folder / "notes").write_text("\n".join(getattr(error.value, "__notes__", [])))
    os._exit(0)  # without the barrier of `two_processes`


def test_the_end_of_another_process_is_explained_in_barriers_of_lightning_too(tmp_path, tiny_checkpoint):
    two_processes.run(left_alone, tiny_checkpoint, tmp_path)
    assert "process 0 of 2 ends because another process of this run has ended" in (tmp_path / "notes").read_text()
