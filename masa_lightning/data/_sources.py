"""Hub data sets and local files, read by the same code, with errors that say what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from masa_lightning.data._folders import check_files, check_hub_files, check_metadata
from masa_lightning.data._json import JSON_SUFFIXES, JsonRows, is_json

if TYPE_CHECKING:
    from datasets import Dataset

_SUFFIXES = (".parquet", *JSON_SUFFIXES)
_SHORT_FLOATS: dict[str | None, type[np.floating[Any]]] = {"float32": np.float32, "float16": np.float16}
_BATCH = 1000  # rows
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


class Rows(Protocol):
    """A table, which is read anew by each loop over its rows."""

    column_names: list[str]

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def source_label(source: str) -> str:
    """What problems of this source are called: a file's or folder's name without suffix, or the hub name."""
    path = Path(source).expanduser()
    if not path.exists():
        return source
    return Path(path.stem).stem if path.suffix == ".gz" else path.stem


def load_rows(source: str, split: str, setting: str, remedy: str) -> Rows:
    """Loads a split of a source: JSON files as they are written, others and the hub with `datasets`.

    Args:
        source: Local .parquet, .jsonl or .json file (JSON may be compressed, .gz), folder of such files, or hub name
            "org/name" or "org/name:config".
        split: As `datasets` understands it, "train[:1000]" say. A single file is the split it is asked for.
        setting: Name of the setting the source came from, for errors.
        remedy: What to do about a split that does not exist.

    Raises:
        FileNotFoundError: If there is no such file, and it cannot be a hub name.
        ConnectionError: If the hub cannot be reached.
        ValueError: If what is there cannot be read, has no such split, or is empty; if a folder names files outside of it.
    """
    path = Path(source).expanduser()
    what = f"`{setting}` is {source!r}"
    if path.is_file():
        if path.suffix.lower() != ".parquet" and not is_json(path):
            known = ", ".join([*_SUFFIXES, *([".txt (a problem on each line)"] if setting == "predict" else [])])
            raise ValueError(f"{what}, a file of unknown format; expected one of {known}")
        if path.stat().st_size == 0:
            raise ValueError(f"{what}, which is empty; expected rows of problems")
    elif not path.is_dir():
        if not _HUB_NAME.fullmatch(source) or path.suffix.lower() in _SUFFIXES:
            raise FileNotFoundError(
                f"{what}: there is no {path.absolute()}; expected an existing file or folder, or a hub name like"
                ' "org/name" or "org/name:config"'
            )
        what += ", which is no local file and was looked for on the Hugging Face hub"
    try:
        rows = (
            _load_file(path, split)
            if path.is_file()
            else _load_folder(path, split)
            if path.is_dir()
            else _load_hub(source, split)
        )
    except ConnectionError as e:
        raise ConnectionError(
            f"{what}: the hub could not be reached ({e}). Check the name and the connection, or give a local file"
        ) from e
    except Exception as e:  # `datasets` lets through whatever its readers raise
        reason = _innermost(e)
        hint = ""
        if "gated" in reason.lower():
            hint = "; accept its terms on its page of the hub, and log in with `hf auth login`"
        elif "split" in reason.lower():
            hint = f"; {remedy}"
        raise ValueError(f"{what}: its split {split!r} could not be loaded: {reason}{hint}") from e
    if len(rows) == 0:
        raise ValueError(f"{what}, whose split {split!r} has no rows; expected at least one")
    return rows


def _load_file(path: Path, split: str) -> Rows:
    names = re.findall(r"(?:^|\+)\s*([\w.-]+)", split)
    if is_json(path):
        return JsonRows({name: [path] for name in names}, split)
    import datasets  # takes a second: not for those who only import the package
    from pyarrow import parquet  # type: ignore[import-untyped]

    if parquet.read_metadata(path).num_rows == 0:
        raise ValueError("it has no rows")  # `datasets` would say "BatchSize must be greater than 0"
    files = dict.fromkeys(names, str(path.absolute()))
    return _Table(datasets.load_dataset("parquet", data_files=files, split=split))


def _load_folder(path: Path, split: str) -> Rows:
    import datasets

    check_metadata(path)
    builder = datasets.load_dataset_builder(str(path.absolute()))
    files = _named_files(builder)
    check_files(path, [file for part in files.values() for file in part])
    if files and all(is_json(Path(file)) for part in files.values() for file in part):
        return JsonRows({name: [Path(file) for file in part] for name, part in files.items()}, split)
    return _Table(datasets.load_dataset(str(path.absolute()), split=split))


def _load_hub(source: str, split: str) -> Rows:
    import datasets

    name, _, config = source.partition(":")
    files = _named_files(datasets.load_dataset_builder(path=name, name=config or None))
    check_hub_files(name, [file for part in files.values() for file in part])
    return _Table(datasets.load_dataset(path=name, name=config or None, split=split))


def _named_files(builder: Any) -> dict[str, list[str]]:
    """The files of each split, found and not yet read."""
    files = builder.config.data_files or {}
    return {str(split): [str(file) for file in part] for split, part in files.items()}


class _Table:
    """The rows of a `Dataset`, made in batches (ten times sooner than one by one); short floats know their digits."""

    def __init__(self, rows: Dataset) -> None:
        self.rows = rows
        self.column_names = list(rows.column_names)
        self._short = {name: part for name, part in rows.features.items() if _has_short_floats(part)}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Any]:
        for batch in self.rows.iter(_BATCH):
            columns = dict(batch)
            for name, feature in self._short.items():
                columns[name] = [_typed(feature, value) for value in columns[name]]
            for cells in zip(*columns.values(), strict=True):
                yield dict(zip(columns, cells, strict=True))


def _has_short_floats(feature: Any) -> bool:
    if isinstance(feature, dict):
        return any(map(_has_short_floats, feature.values()))
    return getattr(feature, "dtype", None) in _SHORT_FLOATS or _has_short_floats(getattr(feature, "feature", {}))


def _typed(feature: Any, value: Any) -> Any:
    if isinstance(feature, dict) and isinstance(value, dict):
        return {name: _typed(feature.get(name), part) for name, part in value.items()}
    if isinstance(value, list):
        return [_typed(getattr(feature, "feature", None), part) for part in value]
    short = _SHORT_FLOATS.get(getattr(feature, "dtype", None))
    return value if short is None or value is None else short(value)


def load_lines(source: str, setting: str) -> list[dict[str, str]]:
    """Loads the lines of a local text file as rows with the column "problem"; empty lines are skipped.

    Page breaks (form feeds), which text made of a PDF has, are blanks.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no lines.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`{setting}` is {source!r}: there is no {path.absolute()}; expected an existing file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(
            f"`{setting}` is {source!r}, which is no text in UTF-8 ({e}); expected one problem a line"
        ) from e
    rows = [{"problem": line} for line in text.replace("\f", " ").split("\n") if line.strip()]
    if not rows:
        raise ValueError(f"`{setting}` is {source!r}, which is empty; expected one problem a line")
    return rows


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return text[:500] or type(error).__name__
