"""Folders of shards that a stranger may have written, read without running what they hold, also whole by one process.

torch.distributed.checkpoint unpickles the file ``.metadata`` and every value that is no tensor, which runs code if the file
says so. Here the former is read into objects that do nothing, and checked, and the latter are tried with ``weights_only``.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load

from masa_lightning.models.checkpoints import reading

T = TypeVar("T")

META = "meta.pt"
"""Lightning's file in a folder of shards, with all that is spread over no processes."""
_METADATA = ".metadata"
_WEIGHTS = "state_dict."  # the names of weights begin with it
_OF_METADATA = "torch.distributed.checkpoint.metadata"
_KNOWN = {  # all that torch writes, by module
    _OF_METADATA: {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},  # as Python 3.13 calls it
}


class SafeReader(FileSystemReader):
    """Reads tensors of a folder of shards, for `torch.distributed.checkpoint.load`.

    Args:
        folder: Of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """As torch's, by `read_metadata`."""
        metadata = read_metadata(self._folder)
        metadata.storage_meta = StorageMeta(load_id=self.load_id)
        return metadata


def read_metadata(folder: Path) -> Metadata:
    """Reads which tensors and other values a folder of shards has, and where.

    Raises:
        FileNotFoundError: If it has no ``.metadata``.
        ValueError: If that holds anything else.
    """
    data = (folder / _METADATA).read_bytes()
    try:
        return _metadata(_Unpickler(io.BytesIO(data)).load())
    except Exception as error:  # whatever hostile bytes lead to
        raise ValueError(
            f"checkpoint {str(folder)!r}: its {_METADATA} is damaged or no metadata of torch.distributed.checkpoint "
            f"({type(error).__name__}: {error}); expected names, shapes and places of tensors. Nothing in it was run"
        ) from error


def check_shards(folder: Path) -> None:
    """Makes sure that a folder of shards holds tensors and plain values alone, before torch unpickles it.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If it holds anything else.
    """
    metadata = read_metadata(folder)
    for index, place in metadata.storage_data.items():
        if not isinstance(metadata.state_dict_metadata.get(index.fqn), BytesStorageMetadata):
            continue  # torch reads tensors with `weights_only`
        with (folder / place.relative_path).open("rb") as file:
            file.seek(place.offset)
            value = io.BytesIO(file.read(place.length))
        try:
            torch.load(value, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"checkpoint {str(folder)!r}: {index.fqn} in {place.relative_path} is damaged or no plain value "
                f"({type(error).__name__}); expected tensors, numbers, texts, lists and dictionaries. Nothing in it was run"
            ) from error


def weight_sizes(folder: Path) -> dict[str, torch.Size]:
    """Reads the names and shapes of a folder's weights, as they are in the module.

    Raises:
        FileNotFoundError: If it has no ``.metadata``.
        ValueError: If that holds anything else.
    """
    return {name: entry.size for name, entry in _weights(folder).items()}


def read_weights(folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Fills whole tensors from the shards of all processes; this one need not be one of several.

    Args:
        folder: Of the checkpoint.
        weights: By their names in the module, in the shapes that `weight_sizes` gives.

    Raises:
        ValueError: If shards are missing, cut short or something else.
    """
    with warnings.catch_warnings(), reading(folder):
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # on purpose: one process
        load({_WEIGHTS[:-1]: dict(weights)}, storage_reader=SafeReader(folder), no_dist=True)


def read_whole(folder: Path) -> dict[str, Any]:
    """Reads a folder of shards as the checkpoint that one process would have written, but for the optimisers' states.

    Raises:
        FileNotFoundError: If files are missing.
        ValueError: If it holds anything else.
    """
    with reading(folder):
        saved: dict[str, Any] = torch.load(folder / META, map_location="cpu", weights_only=True)
        weights = {name: torch.empty(e.size, dtype=e.properties.dtype) for name, e in _weights(folder).items()}
    read_weights(folder, weights)
    return saved | {_WEIGHTS[:-1]: weights}


def _weights(folder: Path) -> dict[str, TensorStorageMetadata]:
    return {
        name.removeprefix(_WEIGHTS): entry
        for name, entry in read_metadata(folder).state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and name.startswith(_WEIGHTS)
    }


class _Place(NamedTuple):
    """Where a piece of a checkpoint lies; has the names of torch's `_StorageInfo`."""

    relative_path: str
    offset: int
    length: int
    transform_descriptors: None = None


class _Inert:
    """Stands for an object of a known class; takes what it was made of and does nothing with it."""

    args: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Makes plain values, dtypes, and an `_Inert` for each object of a class that is known; no attribute is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        dtype = vars(torch).get(name) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if name not in _KNOWN.get(module, ()):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no metadata does")
        return type(name, (_Inert,), {})


def _metadata(found: Any) -> Metadata:
    whole = _state(found, "Metadata")
    entries = {_a(str, name): _entry(value) for name, value in _a(dict, whole["state_dict_metadata"]).items()}
    places = dict(_places(_a(dict, whole["storage_data"])))
    return Metadata(state_dict_metadata=entries, storage_data=places)


def _entry(found: Any) -> TensorStorageMetadata | BytesStorageMetadata:
    if type(found).__name__ == "BytesStorageMetadata" and isinstance(found, _Inert):
        return BytesStorageMetadata()
    tensor = _state(found, "TensorStorageMetadata")
    properties = tensor["properties"]
    if not (isinstance(properties, _Inert) and isinstance(properties.state, tuple)):
        raise ValueError(f"found {type(properties).__name__}, expected the properties of a tensor")
    chunks = []
    for chunk in _a(list, tensor["chunks"]):
        state = _state(chunk, "ChunkStorageMetadata")
        chunks.append(ChunkStorageMetadata(offsets=_size(state["offsets"]), sizes=_size(state["sizes"])))
    dtype = _a(torch.dtype, properties.state[0])
    return TensorStorageMetadata(properties=TensorProperties(dtype=dtype), size=_size(tensor["size"]), chunks=chunks)


def _places(found: dict[Any, Any]) -> Iterator[tuple[MetadataIndex, _Place]]:
    for key, value in found.items():
        index, info = _state(key, "MetadataIndex"), _state(value, "_StorageInfo")
        offset, number = index.get("offset"), index.get("index")
        path, start, length = _a(str, info["relative_path"]), _a(int, info["offset"]), _a(int, info["length"])
        if path in ("", "..") or Path(path).name != path or min(start, length) < 0 or info.get("transform_descriptors"):
            raise ValueError(f"found {path[:80]!r}, {start}, {length}, expected a place in a file of the folder")
        yield (
            MetadataIndex(
                _a(str, index["fqn"]),
                None if offset is None else _size(offset),
                None if number is None else _a(int, number),
            ),
            _Place(path, start, length),
        )


def _size(found: Any) -> torch.Size:
    if not (isinstance(found, _Inert) and type(found).__name__ == "Size" and len(found.args) == 1):
        raise ValueError(f"found {type(found).__name__}, expected a shape")
    return torch.Size(_a(int, length) for length in _a(tuple, found.args[0]))


def _state(found: Any, name: str) -> dict[str, Any]:
    if not (isinstance(found, _Inert) and type(found).__name__ == name):
        raise ValueError(f"found {type(found).__name__}, expected {name}")
    return _a(dict, found.state)


def _a(kind: type[T], found: Any) -> T:
    if type(found) is not kind:
        raise ValueError(f"found {type(found).__name__}, expected {kind.__name__}")
    return found
