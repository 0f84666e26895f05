"""What a folder of data may name: files inside itself, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

_NAMING = ("data_files", "data_dir")


def check_metadata(folder: Path) -> None:
    """Refuses a folder whose metadata names files outside of it, before anything looks for them.

    `datasets` takes paths from the YAML of README.md and from .huggingface.yaml, relative ones with ".." and absolute ones
    too, and fetches addresses.

    Raises:
        ValueError: If it does.
    """
    for name in ("README.md", ".huggingface.yaml"):
        for pattern in _patterns(_metadata(folder / name)):
            parts = {*PurePosixPath(pattern).parts, *PureWindowsPath(pattern).parts}
            absolute = PurePosixPath(pattern).is_absolute() or PureWindowsPath(pattern).is_absolute()
            if absolute or ".." in parts or "://" in pattern or "::" in pattern:
                raise ValueError(
                    f"its {name} names {pattern!r}, outside of the folder; expected files inside it. Give what it names as"
                    " a source of its own, or take the line out"
                )


def check_files(folder: Path, files: Iterable[str]) -> None:
    """Refuses files that lie outside of a folder, by links say; those of the hub's cache lead to files of the same data.

    Raises:
        ValueError: If there is one.
    """
    whole = folder.resolve()
    if whole.parent.name == "snapshots":
        whole = whole.parents[1]
    for file in files:
        real = Path(file).resolve()
        if "://" in file or not real.is_relative_to(whole):
            place = file if "://" in file else str(real)
            raise ValueError(
                f"its file {Path(file).name} leads to {place!r}, outside of the folder; expected files inside it. Copy it"
                " there if it belongs to the data"
            )


def check_hub_files(name: str, files: Iterable[str]) -> None:
    """Refuses files that are not in the repository of a data set of the hub: its card may name those of this machine.

    Args:
        name: Of the repository.
        files: As `datasets` resolved them.

    Raises:
        ValueError: If there is one.
    """
    inside = tuple(f"{place}datasets/{name}{end}" for place in ("hf://", "https://huggingface.co/") for end in "@/")
    for file in files:
        if not file.startswith(inside):
            raise ValueError(
                f"it names {file!r}, outside of its repository on the hub; expected files of its own. Give a copy of"
                " the data set from which this is taken out"
            )


def _metadata(file: Path) -> Any:
    if not file.is_file():
        return None
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".md":
        from huggingface_hub import DatasetCard

        return vars(DatasetCard(text, ignore_metadata_errors=True).data)
    return yaml.safe_load(text)


def _patterns(metadata: Any, naming: bool = False) -> Iterator[str]:
    """All texts under the keys that name files."""
    if isinstance(metadata, dict):
        for key, value in metadata.items():
            yield from _patterns(value, naming or key in _NAMING)
    elif isinstance(metadata, list):
        for value in metadata:
            yield from _patterns(value, naming)
    elif naming and isinstance(metadata, str):
        yield metadata
