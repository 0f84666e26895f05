"""Checkpoints on a full disk, killed at every point of a save, across file systems, and files that are none."""

import errno
import os
import resource
import signal
import subprocess
import warnings
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from masa_lightning.models.checkpoints import linked, replaced
from masa_lightning.modules.checkpointing import DurableCheckpointIO
from masa_lightning.modules.grpo import GRPOLightningModule


def checkpoint(value, size=1000):
    return {"state_dict": {"w": torch.full((size,), value)}, "pytorch-lightning_version": "2.6.0"}


def value_of(path):
    return torch.load(path, weights_only=True)["state_dict"]["w"].unique().tolist()


@contextmanager
def tmpfs(folder):
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def file_size_limit(folder):
    """For every user: files of more than 300 kB cannot be written."""
    folder.mkdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(("disk", "number"), [(tmpfs, errno.ENOSPC), (file_size_limit, errno.EFBIG)])
def test_a_full_disk_leaves_the_last_good_one(tmp_path, disk, number):
    with disk(tmp_path / "disk") as folder:
        path = folder / "checkpoints" / "last.ckpt"
        io = DurableCheckpointIO()
        io.save_checkpoint(checkpoint(1.0), path)
        with pytest.raises(
            OSError, match=r"last\.ckpt' could not be written: .* The one before is still there"
        ) as error:
            io.save_checkpoint(checkpoint(2.0, size=300_000), path)
        assert error.value.errno == number
        assert value_of(path) == [1.0]
        assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
        io.save_checkpoint(checkpoint(3.0), path)
        assert value_of(path) == [3.0]


def test_a_run_on_a_full_disk(tmp_path, loop):
    """With Lightning's own way last.ckpt is there with 0 bytes."""
    with tmpfs(tmp_path / "disk") as folder:
        module = loop.module(GRPOLightningModule)
        saver = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
        trainer = loop.trainer(saver, enable_checkpointing=True, limit_val_batches=0)
        grown = torch.nn.Parameter(torch.zeros(1))
        module.register_parameter("grown", grown)

        class Grow(Callback):
            def on_train_batch_start(self, trainer, module, batch, batch_idx):
                if batch_idx == 2:
                    grown.data = torch.zeros(300_000)

        trainer.callbacks.insert(0, Grow())
        with pytest.raises(OSError, match="Make room and go on: --ckpt_path last"):
            trainer.fit(module, loop.Problems(8))
        assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2


def save_file(folder, value):
    DurableCheckpointIO().save_checkpoint(checkpoint(value), folder / "file.ckpt")


def save_folder(folder, value):
    with replaced(folder / "folder.ckpt", folder=True) as temporary:
        for name in "ab":
            torch.save(checkpoint(value), temporary / name)


CALLS = {
    os: ("open", "fsync", "close", "rename", "replace", "unlink", "mkdir"),
    Path: ("replace", "rename", "open", "unlink", "mkdir"),
    torch: ("save",),
}


def save_in_a_process(save, folder, value, killed_at):
    """Returns the status of a child that is killed before the n-th call of those that change files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, about threads
        child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    left = killed_at

    def counted(function):
        def call(*args, **kwargs):
            nonlocal left
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    try:
        for place, names in CALLS.items():
            for name in names:
                setattr(place, name, counted(getattr(place, name)))
        save(folder, value)
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("save", [save_file, save_folder])
def test_killed_at_every_point_of_a_save(tmp_path, save):
    """The last good one, or the new one, whole; what was left unfinished goes with the next save."""
    save(tmp_path, 0.0)
    place, last, kills = next(tmp_path.iterdir()), 0.0, 0
    while status := save_in_a_process(save, tmp_path, last + 1, killed_at=kills + 1):
        assert status == signal.SIGKILL
        kills += 1
        values = [value_of(place)] if place.is_file() else [value_of(place / name) for name in "ab"]
        assert values in ([[last]] * len(values), [[last + 1]] * len(values)), kills
        (last,) = values[0]
    assert kills > 10
    save(tmp_path, 0.0)
    assert [*tmp_path.iterdir()] == [place]


@pytest.mark.parametrize("save", [save_file, save_folder])
def test_what_is_renamed_is_on_the_disk(tmp_path, save, monkeypatch):
    """A power cut between the two would leave a file of that name without its bytes, and behind them the old name."""
    done, fsync, replace = [], os.fsync, Path.replace

    def noted_fsync(descriptor):
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noted_replace(path, target):
        done.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    save(tmp_path, 1.0)
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    (written,) = {path for path in before if path.parent == tmp_path}
    assert written.name.startswith(".") and written.name.endswith(".unfinished")
    inside = {path.name for path in before if path.parent == written}
    assert inside == (set("ab") if save is save_folder else set())
    assert after == [tmp_path]


def test_another_file_system_under_the_temporary_folder(tmp_path, monkeypatch):
    """Lightning would copy from there, or fail where there is no room."""
    with tmpfs(tmp_path / "small") as folder:
        monkeypatch.setenv("TMPDIR", str(folder))
        monkeypatch.setattr("tempfile.tempdir", None)
        DurableCheckpointIO().save_checkpoint(checkpoint(1.0, size=300_000), tmp_path / "last.ckpt")
        assert value_of(tmp_path / "last.ckpt") == [1.0]
        assert not list(folder.iterdir())


def test_what_another_process_is_writing_stays(tmp_path):
    with replaced(tmp_path / "a.ckpt") as first:
        first.write_bytes(b"a")
        with replaced(tmp_path / "b.ckpt") as second:
            second.write_bytes(b"b")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.ckpt": b"a", "b.ckpt": b"b"}


@pytest.mark.parametrize("old", ["nothing", "file", "folder", "link"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_files_folders_and_links_take_each_others_place(tmp_path, old, new):
    path, elsewhere = tmp_path / "x.ckpt", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if old == "file":
        path.write_text("old")
    elif old == "folder":
        path.mkdir()
        (path / "shard").write_text("old")
    elif old == "link":
        linked(elsewhere, path)
    with replaced(path, folder=new == "folder") as temporary:
        (temporary / "shard" if new == "folder" else temporary).write_text("new")
    assert (path / "shard" if new == "folder" else path).read_text() == "new"
    assert not path.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "x.ckpt"]


def test_links_are_never_away(tmp_path, loop, monkeypatch):
    """Whenever Lightning removes or makes something, last.ckpt leads to a whole checkpoint."""
    checks = []

    def checked(function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            if list(tmp_path.glob("epoch*")) and (checks or (tmp_path / "last.ckpt").exists()):
                checks.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"])
            return result

        return call

    for name in ("rename", "remove", "unlink", "symlink", "replace"):
        monkeypatch.setattr(os, name, checked(getattr(os, name)))
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, monitor="step", mode="max", save_last="link", save_top_k=1)
    trainer = loop.trainer(saver, enable_checkpointing=True, limit_val_batches=0)
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(8))
    assert {*checks} == {1, 2, 3, 4}
    assert checks == sorted(checks)
    assert (tmp_path / "last.ckpt").is_symlink()


def test_a_saver_that_goes_by_the_clock_is_refused(tmp_path, loop):
    """Lightning would never ask it, as the modules take their optimiser steps themselves."""
    saver = ModelCheckpoint(tmp_path, train_time_interval=timedelta(0))
    trainer = loop.trainer(saver, enable_checkpointing=True, limit_val_batches=0)
    module = loop.module(GRPOLightningModule)
    with pytest.raises(ValueError, match=r"train_time_interval=0:00:00.*expected every_n_train_steps=N"):
        trainer.fit(module, loop.Problems(2))
    assert module.policy is None  # before any weights


def test_a_plugin_of_the_user_stays(tmp_path, loop):
    class Own(TorchCheckpointIO):
        pass

    own = Own()
    trainer = loop.trainer(plugins=[own], limit_val_batches=0)
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(2))
    assert trainer.strategy.checkpoint_io is own


def test_trainer_save_checkpoint(tmp_path, loop):
    trainer = loop.trainer(limit_val_batches=0)
    trainer.fit(loop.module(GRPOLightningModule), loop.Problems(2))
    with file_size_limit(tmp_path / "disk") as folder:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        with pytest.raises(OSError, match="could not be written: File too large"):
            trainer.save_checkpoint(folder / "x.ckpt")
        assert not list(folder.iterdir())


def zeros(path, whole):
    path.write_bytes(b"")


def cut(path, whole):
    path.write_bytes(whole.read_bytes()[:-500])


def text(path, whole):
    path.write_text("version https://git-lfs.github.com/spec/v1")


def weights_alone(path, whole):
    torch.save({"model.embed": torch.zeros(2)}, path)


def foreign(path, whole):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.0", "epoch": 0, "global_step": 0}, path)


def folder(path, whole):
    path.mkdir()


def shards(path, whole):
    path.mkdir()
    for name in ("meta.pt", ".metadata"):
        (path / name).touch()


WRONG = {
    zeros: r"is cut short: its 0 bytes",
    cut: r"is cut short: its \d+ bytes",
    text: r"is no checkpoint: its 42 bytes",
    weights_alone: r"a Lightning checkpoint has a state_dict, and this has \['model.embed'\]",
    foreign: r"has nothing of a GRPOLightningModule",
    folder: r"is a folder without meta.pt and .metadata",
    shards: r"is a folder with shards that are missing, cut short",
}


@pytest.mark.parametrize("make", WRONG, ids=lambda make: make.__name__)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_what_is_no_checkpoint_is_named(tmp_path, loop, make, stage):
    trainer = loop.trainer(limit_val_batches=0)
    module = loop.module(GRPOLightningModule)
    trainer.fit(module, loop.Problems(2))
    good = tmp_path / "good.ckpt"
    trainer.save_checkpoint(good)
    make(tmp_path / "bad.ckpt", good)
    of_shards = (make, stage) == (shards, "fit")
    said = r"is a folder of shards, which ModelParallelStrategy .* masa export" if of_shards else WRONG[make]
    with pytest.raises(ValueError, match=said) as error:
        getattr(loop.trainer(), stage)(
            loop.module(GRPOLightningModule), datamodule=loop.Problems(2, 2), ckpt_path=str(tmp_path / "bad.ckpt")
        )
    assert str(tmp_path / "bad.ckpt") in str(error.value)
    if make is not foreign and not of_shards:
        assert f"take the newest other one of its folder: {good}" in str(error.value)
