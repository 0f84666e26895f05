"""The settings of a run, flat, from the files that it left; and which of them make it another experiment."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from masa_lightning.checks import is_secret

Flat = dict[str, str]

FILES: Final = ("config.yaml", "test_config.yaml", "validate_config.yaml", "predict_config.yaml", "hparams.yaml")
LARGEST: Final = 1 << 20
"""Bytes of a file of settings."""
MOST: Final = 2000
"""Settings of a run, and the depth of nesting is at most 20: aliases of YAML can make a small file huge."""

_SEED: Final = re.compile(r"(^|\.)(seed|seed_everything)$")
# Where a run writes and what it shows: the same experiment all the same.
_ELSEWHERE: Final = re.compile(
    r"^(trainer\.(logger|enable_progress_bar|enable_model_summary|default_root_dir|profiler)(\.|$)|ckpt_path$|config$)"
    r"|(^|\.)(dirpath|save_dir|verbose|refresh_rate)$"
)


def read_settings(folder: Path) -> tuple[Flat, str, list[str]]:
    """Reads the first of the files of settings that a run's folder has.

    Args:
        folder: Of the run.

    Returns:
        Settings by their dotted names, the file they are from ("" without one), and what could not be read. What looks like
        a secret is not shown.
    """
    problems: list[str] = []
    for name in (*FILES, "settings.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError(f"larger than {LARGEST >> 20} MiB")
            text = file.read_text(encoding="utf-8")
            loaded = json.loads(text) if name.endswith(".json") else yaml.load(text, _Loader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            problems.append(f"{name} could not be read: {str(error).splitlines()[0]}")
            continue
        if not isinstance(loaded, Mapping):
            problems.append(f"{name} has no settings")
        elif loaded:  # hparams.yaml may be empty
            flat: Flat = {}
            for key, value in _leaves(loaded, "", 0):
                if len(flat) == MOST:
                    problems.append(f"{name} has more than {MOST} settings: the others are left out")
                    break
                flat[key] = value
            return flat, name, problems
    return {}, "", problems


def experiment(settings: Flat, file: str) -> tuple[tuple[str, str], ...] | None:
    """What runs have in common that differ in the seed alone.

    Args:
        settings: Of `read_settings`.
        file: Where they are from: a training and a test are never the same.

    Returns:
        A key to group by; None without settings.
    """
    kept = [(k, v) for k, v in settings.items() if not _SEED.search(k) and not _ELSEWHERE.search(k)]
    # A training that was gone on with is the same training.
    of_checkpoint = file != "config.yaml" and settings.get("ckpt_path", "null") != "null"
    return (("", file), ("", str(of_checkpoint)), *sorted(kept)) if settings else None


def seeds(settings: Flat) -> tuple[tuple[str, str], ...]:
    """The seeds among settings."""
    return tuple(sorted((name, value) for name, value in settings.items() if _SEED.search(name)))


def differing(runs: list[Flat]) -> list[str]:
    """Names of the settings in which runs differ, in the order of their files; no folders, names and displays."""
    names = dict.fromkeys(name for flat in runs for name in flat)
    return [n for n in names if len({flat.get(n) for flat in runs}) > 1 and not _ELSEWHERE.search(n)]


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Makes plain values alone; objects of other tags, as Lightning's hparams.yaml may have, are their names."""


def _named(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> str:
    return f"!{suffix}"


_Loader.add_multi_constructor("", _named)


def _leaves(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value and depth < 20:
        for key, each in value.items():
            yield from _leaves(each, f"{name}.{key}" if name else str(key)[:200], depth + 1)
    elif isinstance(value, list) and any(isinstance(each, (Mapping, list)) for each in value) and depth < 20:
        for index, each in enumerate(value):
            label = str(each.get("class_path", index)) if isinstance(each, Mapping) else str(index)
            yield from _leaves(each, f"{name}.{label.rpartition('.')[2]}", depth + 1)
    else:
        text = "not shown" if is_secret(name) and value is not None else _text(value)
        yield name[:500], text if len(text) <= 500 else f"{text[:500]} [...]"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        texts = ["[...]" if isinstance(each, list) else _text(each) for each in value[:50]]  # which may hold itself
        return f"[{', '.join(texts)}{', ...' if len(value) > 50 else ''}]"
    if isinstance(value, Mapping):
        return "{...}" if value else "{}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
