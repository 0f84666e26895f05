"""Hub data sets and local files, read by the same code, with errors that say what to change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json"}
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


def source_label(source: str) -> str:
    """What problems of this source are called: a file's or folder's name without suffix, or the hub name."""
    path = Path(source).expanduser()
    return path.stem if path.exists() else source


def load_rows(source: str, split: str, setting: str, remedy: str) -> Dataset:
    """Loads a split of a source with `datasets`.

    Args:
        source: Local .parquet, .jsonl or .json file, folder of such files, or hub name "org/name" or "org/name:config".
        split: As `datasets` understands it, "train[:1000]" say. A single file is the split it is asked for.
        setting: Name of the setting the source came from, for errors.
        remedy: What to do about a split that does not exist.

    Raises:
        FileNotFoundError: If there is no such file, and it cannot be a hub name.
        ConnectionError: If the hub cannot be reached.
        ValueError: If what is there cannot be read, has no such split, or is empty.
    """
    import datasets  # takes a second: not for those who only import the package
    from pyarrow import parquet  # type: ignore[import-untyped]

    path = Path(source).expanduser()
    what = f"`{setting}` is {source!r}"
    if path.is_file():
        builder = _BUILDERS.get(path.suffix.lower())
        if builder is None:
            raise ValueError(f"{what}, a file of unknown format; expected one of {', '.join(_BUILDERS)}")
        if path.stat().st_size == 0:
            raise ValueError(f"{what}, which is empty; expected rows of problems")
        files = dict.fromkeys(re.findall(r"(?:^|\+)\s*([\w.-]+)", split), str(path.absolute()))
        arguments: dict[str, object] = {"path": builder, "data_files": files}
    elif path.is_dir():
        arguments = {"path": str(path.absolute())}
    elif _HUB_NAME.fullmatch(source) and path.suffix.lower() not in _BUILDERS:
        name, _, config = source.partition(":")
        arguments = {"path": name, "name": config or None}
        what += ", which is no local file and was looked for on the Hugging Face hub"
    else:
        raise FileNotFoundError(
            f"{what}: there is no {path.absolute()}; expected an existing file or folder, or a hub name like"
            ' "org/name" or "org/name:config"'
        )
    try:
        if path.is_file() and path.suffix.lower() == ".parquet" and parquet.read_metadata(path).num_rows == 0:
            raise ValueError("it has no rows")  # `datasets` would say "BatchSize must be greater than 0"
        rows = datasets.load_dataset(split=split, **arguments)
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


def load_lines(source: str, setting: str) -> list[dict[str, str]]:
    """Loads the lines of a local text file as rows with the column "problem"; empty lines are skipped.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no lines.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"`{setting}` is {source!r}: there is no {path.absolute()}; expected an existing file")
    rows = [{"problem": line} for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not rows:
        raise ValueError(f"`{setting}` is {source!r}, which is empty; expected one problem a line")
    return rows


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    return text[:500] or type(error).__name__
