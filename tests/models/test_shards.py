"""Folders of shards as torch writes them are read; nothing else is, and nothing in it is run."""

from __future__ import annotations

import copyreg
import functools
import io
import os
import pickle
import shutil
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import Runs, ran, works
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata

from masa_lightning.models.shards import SafeReader, check_shards, read_metadata, read_whole, weight_sizes

STATE = {
    "state_dict": {"a": torch.arange(6.0).view(3, 2), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.tensor(7)},
    "optimizer_0": {"lr": 0.1, "betas": (0.9, 0.95), "capturable": False, "foreach": None, "names": ["a", "b"]},
}


@pytest.fixture(autouse=True)
def one_process() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("genuine")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.save(STATE, checkpoint_id=folder, no_dist=True)
    return folder


@pytest.fixture
def folder(genuine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(genuine, tmp_path / "shards"))


def torchs(folder: Path) -> Any:
    return pickle.loads((folder / ".metadata").read_bytes())


def test_metadata_is_what_torch_reads(folder: Path) -> None:
    ours, theirs = read_metadata(folder), torchs(folder)
    assert ours.state_dict_metadata == theirs.state_dict_metadata
    assert ours.storage_data.keys() == theirs.storage_data.keys()
    for index, place in ours.storage_data.items():
        info = theirs.storage_data[index]
        assert (place.relative_path, place.offset, place.length) == (info.relative_path, info.offset, info.length)
    kinds = {name: type(entry) for name, entry in ours.state_dict_metadata.items()}
    assert kinds["state_dict.b"] is TensorStorageMetadata
    assert kinds["optimizer_0.lr"] is BytesStorageMetadata
    check_shards(folder)


def test_tensors_are_read(folder: Path) -> None:
    wanted = {name: torch.zeros_like(value) for name, value in STATE["state_dict"].items()}
    dcp.load({"state_dict": wanted}, storage_reader=SafeReader(folder), no_dist=True)
    for name, value in STATE["state_dict"].items():
        assert torch.equal(wanted[name], value)


def test_one_process_reads_the_weights_whole(folder: Path) -> None:
    torch.save({"epoch": 3, "masa": {"lora": None}}, folder / "meta.pt")
    assert weight_sizes(folder) == {name: value.shape for name, value in STATE["state_dict"].items()}
    whole = read_whole(folder)
    weights = whole.pop("state_dict")
    assert whole == {"epoch": 3, "masa": {"lora": None}}
    assert weights.keys() == STATE["state_dict"].keys()
    for name, value in STATE["state_dict"].items():
        assert weights[name].dtype == value.dtype
        assert torch.equal(weights[name], value)
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(
        ValueError, match=r"shards that are missing, cut short or of another model \(__0_0.distcp is missing"
    ):
        read_whole(folder)


class Calls:
    """A call of any function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def hidden(part: str) -> Callable[[Any, Path], Any]:
    """Puts it into an otherwise genuine metadata."""

    def make(genuine: Any, mark: Path) -> Any:
        evil = Runs(mark)
        if part == "entry":
            return replace(genuine, state_dict_metadata=genuine.state_dict_metadata | {"state_dict.a": evil})
        if part == "key":
            return replace(genuine, storage_data={evil: 1} | genuine.storage_data)
        if part == "size":
            return replace(genuine, state_dict_metadata={"a": TensorStorageMetadata(None, (evil, 1), [])})  # type: ignore
        return replace(genuine, **{part: evil})

    return make


def _raw(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def _text(value: str) -> bytes:
    return b"\x8c" + struct.pack("B", len(value)) + value.encode()


PICKLES: dict[str, Callable[[Any, Path], Any]] = {
    "os.mkdir": lambda genuine, mark: Runs(mark),
    "builtins.eval": lambda genuine, mark: Calls(eval, f"__import__('os').mkdir({str(mark)!r})"),
    "builtins.exec": lambda genuine, mark: Calls(exec, f"import os; os.mkdir({str(mark)!r})"),
    "builtins.getattr": lambda genuine, mark: (
        f"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVmkdir\ntR(V{mark}\ntR.".encode()
    ),
    "functools.partial": lambda genuine, mark: [functools.partial(os.mkdir), Runs(mark)],
    "a pickle in a pickle": lambda genuine, mark: Calls(pickle.loads, pickle.dumps(Runs(mark))),
    "torch's storages": lambda genuine, mark: Calls(torch.storage._load_from_bytes, saved(Runs(mark))),
    "torch.load": lambda genuine, mark: Calls(
        functools.partial(torch.load, weights_only=False), io.BytesIO(saved(Runs(mark)))
    ),
    **{f"as {part}": hidden(part) for part in ("entry", "key", "size", "planner_data", "storage_data", "storage_meta")},
    "a state": lambda genuine, mark: Calls(type(genuine), {}, state={"state_dict_metadata": Runs(mark)}),
}


def saved(thing: Any) -> bytes:
    file = io.BytesIO()
    torch.save(thing, file)
    return file.getvalue()


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickles_that_run_code_do_not(folder: Path, tmp_path: Path, name: str, protocol: int) -> None:
    mark = tmp_path / "ran"
    evil = PICKLES[name](torchs(folder), mark)
    pickled = evil if isinstance(evil, bytes) else pickle.dumps(evil, protocol)
    assert works(pickled, mark)
    (folder / ".metadata").write_bytes(pickled)
    for read in read_metadata, check_shards:
        with pytest.raises(
            ValueError, match=r"shards': its \.metadata is damaged or no metadata .* Nothing in it was run"
        ):
            read(folder)
    assert not ran(mark)


RAW = {
    # Metadata.__init__.__globals__ and the like, which a look-up of names with dots would find
    "a name with dots": _raw(_text("torch.distributed.checkpoint.metadata"), _text("Metadata.__init__"), b"\x93"),
    "another name of torch": _raw(_text("torch"), _text("load"), b"\x93"),
    "old names": b"ctorch.distributed.checkpoint.metadata\nMetadata.__class__\n.",
    # BUILD of a class, with (None, {"pickle": 1}): the attributes of torch's class would be set
    "an attribute of a class": _raw(
        _text("torch.distributed.checkpoint.metadata"),
        _text("Metadata"),
        b"\x93",
        b"N}",
        _text("version"),
        b"K\x01s\x86b",
    ),
    "a persistent name": _raw(_text("name"), b"Q"),
    "nothing": b"",
    "an end": b"\x80\x04",
    "a number": pickle.dumps(7),
    "a dictionary": pickle.dumps({"state_dict_metadata": {}}),
}


@pytest.mark.parametrize("name", RAW)
def test_bytes_that_are_no_metadata(folder: Path, name: str) -> None:
    (folder / ".metadata").write_bytes(RAW[name])
    with pytest.raises(ValueError, match=r"its \.metadata is damaged or no metadata"):
        read_metadata(folder)


def test_a_registered_extension_is_none(folder: Path) -> None:
    copyreg.add_extension("os", "mkdir", 0x7F)
    try:
        (folder / ".metadata").write_bytes(_raw(b"\x82\x7f"))
        with pytest.raises(ValueError, match=r"asks for os\.mkdir"):
            read_metadata(folder)
    finally:
        copyreg.remove_extension("os", "mkdir", 0x7F)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "", "sub/file", ".."])
def test_places_are_in_the_folder(folder: Path, path: str) -> None:
    metadata = torchs(folder)
    for info in metadata.storage_data.values():
        info.relative_path = path
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="expected a place in a file of the folder"):
        read_metadata(folder)


def test_no_folder_of_shards(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_metadata(tmp_path)


def test_values_that_are_no_tensors_run_nothing(tmp_path: Path) -> None:
    mark, folder = tmp_path / "ran", tmp_path / "shards"
    dcp.save(STATE | {"optimizer_0": {"lr": Runs(mark)}}, checkpoint_id=folder, no_dist=True)
    dcp.load({"optimizer_0": {"lr": 0.0}}, checkpoint_id=folder, no_dist=True)
    assert ran(mark)  # torch does
    read_metadata(folder)
    with pytest.raises(ValueError, match=r"optimizer_0\.lr in __0_0\.distcp is damaged or no plain value .*was run"):
        check_shards(folder)
    assert not ran(mark)


def test_a_shard_that_is_missing_or_cut(folder: Path) -> None:
    shard = next(folder.glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged or no plain value"):
        check_shards(folder)
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        check_shards(folder)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_or_harmless(genuine: Path, data: st.DataObject, tmp_path_factory: Any) -> None:
    """Flipped bytes either change a name or number, or are refused."""
    bytes_ = bytearray((genuine / ".metadata").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        bytes_[data.draw(st.integers(0, len(bytes_) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / ".metadata").write_bytes(bytes(bytes_))
    try:
        metadata = read_metadata(folder)
    except ValueError:
        return
    assert all(isinstance(name, str) for name in metadata.state_dict_metadata)
