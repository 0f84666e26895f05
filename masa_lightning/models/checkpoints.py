"""Files and folders that are there whole or not at all, and errors that name a checkpoint that cannot be read."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

_UNFINISHED = ".unfinished"  # ends the names of what is being written or removed
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


class OtherSettingsError(ValueError):
    """A checkpoint is whole, and of other settings than those of the module that is to load it."""


def find_checkpoint(path: str) -> str:
    """The checkpoint that is meant by a path.

    Args:
        path: A checkpoint; or a run's folder, or that of its checkpoints, for the newest ``last.ckpt``, or the newest one
            where there is none; or a word of Lightning's, such as "last".

    Raises:
        FileNotFoundError: If a folder has none.
    """
    folder = Path(path)
    if not folder.is_dir() or (folder / "meta.pt").is_file():  # a folder of shards is a checkpoint
        return path
    places = [place for place in (folder / "checkpoints", folder) if place.is_dir()]
    for pattern in ("last*.ckpt", "*.ckpt"):
        if found := [file for place in places for file in place.glob(pattern)]:
            return str(max(found, key=lambda file: file.stat().st_mtime))
    raise FileNotFoundError(
        f"there is no checkpoint in {path} nor in {folder / 'checkpoints'}; expected the folder of a run, or a file .ckpt"
    )


@contextmanager
def replaced(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Gives a file or folder beside `path` to write to; after the body it is on the disk, and takes the place of `path`.

    A process that is killed, or a disk that is full, leaves what was there before. What earlier ones left unfinished in
    that folder is removed.

    Args:
        path: On a local or network file system; its folder is made.
        folder: Whether it is to be a folder.

    Raises:
        OSError: If it cannot be written; what was there before is still there.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path.parent)
    temporary, lock = _begin(path, folder)
    try:
        yield temporary
        _sync(temporary)
        _put(temporary, path)
        _sync_one(path.parent)
    finally:
        os.close(lock)
        _remove(temporary)  # after an error the new one, and where the two were exchanged the old one


def removed(path: Path) -> None:
    """Removes a file or folder: it is there whole or not at all, should the process be killed meanwhile."""
    aside = path.with_name(_temporary_name(path))
    with suppress(FileNotFoundError):
        path.rename(aside)
        _remove(aside)


def linked(target: Path, link: Path) -> None:
    """Makes `link` a relative link to `target`, in one step in place of what is there."""
    aside = link.with_name(_temporary_name(link))
    os.symlink(os.path.relpath(target, link.parent), aside)
    _put(aside, link)
    _remove(aside)
    _sync_one(link.parent)


def set_aside(path: Path) -> Path:
    """Renames a file or folder of another run to the first free name of those with -1, -2, ... at the end; returns it."""
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    names = (path.with_name(f"{stem}-{number}{suffix}") for number in itertools.count(1))
    return path.rename(next(name for name in names if not os.path.lexists(name)))


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Names the checkpoint that the body cannot read, and says what is wrong with it.

    Raises:
        ValueError: In place of what the body raises, unless that says it all.
    """
    import torch  # here, so that a command which finds no checkpoint says so at once
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (PermissionError, MemoryError, torch.OutOfMemoryError, OtherSettingsError):
        raise
    except (Exception, CheckpointException) as error:
        if isinstance(error, FileNotFoundError) and Path(path) not in Path(str(error.filename)).parents:
            raise
        raise ValueError(
            f"checkpoint {str(path)!r} {_wrong(Path(path), error)}; expected what ModelCheckpoint or "
            f"Trainer.save_checkpoint wrote, whole. {_others(Path(path))}"
        ) from error


def check_sizes(saved: Mapping[str, Any], own: Mapping[str, Any], of: str) -> None:
    """Refuses the weights of another model, such as the one that was embedded in an earlier version.

    Args:
        saved: Tensors of the checkpoint by their names.
        own: Those of the module that is to load them.
        of: The checkpoint, for the message.

    Raises:
        OtherSettingsError: If a tensor that both have is of another shape.
    """
    for name in saved.keys() & own.keys():
        found, expected = tuple(saved[name].shape), tuple(own[name].shape)
        if found != expected:
            raise OtherSettingsError(
                f"{of} is of another model: {name} has shape {found} there; expected {expected}. Give the "
                "model that the run started from; a run of `tiny` that is older than its present checkpoint needs the "
                "version of masa_lightning that trained it"
            )


def _wrong(path: Path, error: BaseException) -> str:
    reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
    if path.is_dir():
        if not (path / "meta.pt").is_file() or not (path / ".metadata").is_file():
            return "is a folder without meta.pt and .metadata, so no folder of shards or not a whole one"
        files = [file for failure in causes(error) if (file := getattr(failure, "filename", None))]
        missing = f"{Path(files[0]).name} is missing" if files else reason
        return f"is a folder with shards that are missing, cut short or of another model ({missing})"
    size = path.stat().st_size if path.is_file() else 0
    if path.is_file() and not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            whole = file.read(2) != b"PK"
        what = "is no checkpoint" if whole and size else "is cut short"
        return f"{what}: its {size} bytes are no whole archive of torch.save"
    return f"cannot be read ({reason})"


def causes(error: BaseException) -> Iterator[BaseException]:
    """Gives an error and those that it came of, those of other processes too."""
    yield error
    for failure, *_ in getattr(error, "failures", {}).values():
        yield from causes(failure)
    origin = error.__cause__ or error.__context__
    if origin is not None:
        yield from causes(origin)


def _others(path: Path) -> str:
    siblings = sorted(p for p in path.parent.glob("*.ckpt") if p.resolve() != path.resolve())
    if not siblings:
        return "There is no other one in its folder: copy it anew, or start without it"
    newest = max(siblings, key=lambda p: p.stat().st_mtime if p.exists() else 0.0)
    return f"Copy it anew, or take the newest other one of its folder: {newest}"


# -- the file system -----------------------------------------------------------------------------------------------------


def _temporary_name(path: Path) -> str:
    return f".{path.name}.{uuid4().hex[:8]}{_UNFINISHED}"


def _begin(path: Path, folder: bool) -> tuple[Path, int]:
    """Makes an empty file or folder and locks it, so that others see that it is being written."""
    while True:
        temporary = path.with_name(_temporary_name(path))
        if folder:
            temporary.mkdir()
        lock = os.open(temporary, os.O_RDONLY if folder else os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: what a kill leaves there stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        if temporary.exists():  # else another process took it for unfinished before it was locked
            return temporary, lock
        os.close(lock)


def _remove_unfinished(folder: Path) -> None:
    for path in folder.glob(f".*{_UNFINISHED}"):
        with suppress(OSError):
            if path.is_symlink():
                path.unlink()
                continue
            lock = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error if its writer lives
                _remove(path)
            finally:
                os.close(lock)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _put(temporary: Path, path: Path) -> None:
    """Renames over what is there; of folders, for which there is no such rename, the two are exchanged."""
    folders = sum(p.is_dir() and not p.is_symlink() for p in (temporary, path))
    if not folders or not os.path.lexists(path):
        temporary.replace(path)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(temporary), os.fsencode(path)
    if hasattr(libc, "renameat2") and not libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE):
        return
    old = path.with_name(f".{path.name}.old")  # a file system that cannot exchange: for a moment the old one is here
    path.rename(old)
    temporary.rename(path)
    _remove(old)


def _sync(path: Path) -> None:
    """Waits until a file, or a folder with all that is in it, is on the disk."""
    if path.is_dir():
        for inner in path.iterdir():
            _sync(inner)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems sync no folders
            raise
    finally:
        os.close(descriptor)
