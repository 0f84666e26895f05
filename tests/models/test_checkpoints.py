"""Folders of shards that are not whole are named, with what is missing; errors that say it all stay as they are."""

import pytest
import torch
from torch.distributed import checkpoint

from masa_lightning.models.checkpoints import OtherSettingsError, check_sizes, find_checkpoint, reading

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "last.ckpt"
    checkpoint.save({"w": torch.ones(100)}, checkpoint_id=folder, no_dist=True)
    torch.save({}, folder / "meta.pt")
    return folder


def load(folder):
    weights = {"w": torch.zeros(100)}
    with reading(folder):
        checkpoint.load(weights, checkpoint_id=folder, no_dist=True)
    return weights["w"]


def test_whole(shards):
    assert torch.equal(load(shards), torch.ones(100))


def test_a_shard_is_missing(shards):
    (shards / "__0_0.distcp").unlink()
    with pytest.raises(ValueError, match=r"last.ckpt' is a folder with shards .*\(__0_0.distcp is missing\)"):
        load(shards)


def test_a_shard_is_cut_short(shards):
    shard = shards / "__0_0.distcp"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"last.ckpt' is a folder with shards that are missing, cut short or of another"
    ):
        load(shards)


@pytest.mark.parametrize("name", ["meta.pt", ".metadata"])
def test_the_description_is_missing(shards, name):
    (shards / name).unlink()
    with pytest.raises(ValueError, match=r"last.ckpt' is a folder without meta.pt and .metadata"), reading(shards):
        raise RuntimeError


@pytest.mark.parametrize("error", [OtherSettingsError, FileNotFoundError, MemoryError, PermissionError])
def test_errors_that_say_it_all_stay(shards, error):
    with pytest.raises(error, match=r"^as it was$"), reading(shards):
        raise error("as it was")


def test_a_folder_means_its_last_checkpoint(tmp_path):
    places = tmp_path / "runs" / "a" / "checkpoints"
    places.mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint in .*; expected the folder of a run"):
        find_checkpoint(str(places))
    (places / "step=9.ckpt").touch()
    assert find_checkpoint(str(tmp_path / "runs" / "a")) == str(places / "step=9.ckpt")
    (places / "last.ckpt").mkdir()
    (places / "last.ckpt" / "meta.pt").touch()
    assert find_checkpoint(str(tmp_path / "runs" / "a")) == str(places / "last.ckpt") == find_checkpoint(str(places))
    assert find_checkpoint(str(places / "last.ckpt")) == str(places / "last.ckpt")
    assert find_checkpoint("last") == "last"


def test_weights_of_another_model_are_refused():
    own = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    check_sizes({"a": torch.ones(2, 3), "more": torch.ones(1)}, own, "checkpoint 'x'")
    with pytest.raises(
        OtherSettingsError,
        match=r"checkpoint 'x' is of another model: b has shape \(5,\) there; expected \(4,\)\. Give",
    ):
        check_sizes({"a": torch.ones(2, 3), "b": torch.ones(5)}, own, "checkpoint 'x'")
