"""What the files of a run say: its settings, and what of them is not made because a file says so.

A checkpoint, and the `config.yaml` of its run, may be a stranger's: what they name is made only if it is of this package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from lightning.pytorch import LightningDataModule

from masa_lightning.modules.grpo import GRPOLightningModule
from masa_lightning.modules.hyperparameters import allowed_class, annotations_of, element_of, unmade

_OBJECTS: Final = ("sampler", "grader", "prompts", "sampling", "evaluation", "algorithm", "lora")
_REWARDS: Final = ("reward_functions", "reward_weights")


def folder_of(checkpoint: Path) -> Path:
    """The folder of the run that wrote a checkpoint: the nearest above it with a `config.yaml` or `hparams.yaml`."""
    above = [*checkpoint.absolute().parents][:3]
    marked = [f for f in above if (f / "config.yaml").is_file() or (f / "hparams.yaml").is_file()]
    found = marked[0] if marked else above[1] if above[0].name == "checkpoints" else above[0]
    return found.relative_to(Path.cwd()) if found.is_relative_to(Path.cwd()) and found != Path.cwd() else found


def config_of(folder: Path) -> dict[str, Any]:
    """What `masa fit` wrote of a run into its folder; empty if there is no such file.

    Raises:
        ValueError: If it is no YAML.
    """
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, said = (f", line {mark.line + 1}" if mark else ""), getattr(error, "problem", None) or str(error)
        raise ValueError(
            f"{folder / 'config.yaml'}{line} cannot be read: {said}; expected what `masa fit` wrote"
        ) from error
    return config if isinstance(config, dict) else {}


def needed(settings: Mapping[str, Any], command: str, *, solve: bool = False) -> dict[str, Any]:
    """Those arguments of a module that a command needs.

    An optimiser, which may be of any package, is for training alone. To predict takes no rewards, and without solutions no
    grader.

    Args:
        settings: All of them, as `plain.plain` writes them.
        command: "validate", "test" or "predict".
        solve: Whether `predict` also solves the problems.
    """
    idle = ["optimization"]
    if command == "predict":
        idle += _REWARDS if solve else (*_REWARDS, "grader")
    return {name: value for name, value in settings.items() if name not in idle}


def strange_model(class_path: str, settings: Mapping[str, Any]) -> list[str]:
    """What a module names that is not made: its class, or objects among its arguments."""
    kind = allowed_class(class_path)
    refused = [] if kind is not None and issubclass(kind, GRPOLightningModule) else [f"model: {class_path}"]
    hints = annotations_of(kind) if kind is not None else {}
    for name, value in settings.items():
        if name in _OBJECTS and not isinstance(value, Mapping | None):
            refused.append(f"{name}: {value!r}")
        if name == "reward_functions" and not (value is None or all(isinstance(each, Mapping) for each in value)):
            refused.append(f"{name}: {value!r}")
        refused += strange(value, name, hints.get(name))
    return refused


def strange_data(data: Any) -> list[str]:
    """What is named in the settings of a datamodule, as a configuration has them, that is not made."""
    kind = allowed_class(data.get("class_path")) if isinstance(data, Mapping) else None
    refused = [] if kind is not None and issubclass(kind, LightningDataModule) else [f"data: {name_of(data)}"]
    return [*refused, *strange(data, "data")]


def strange(value: Any, place: str, annotation: Any = None) -> Iterator[str]:
    """What is named in plain values that is not made.

    Args:
        value: As `plain.plain` writes it, or as a YAML has it.
        place: Where it stands.
        annotation: Of the argument that it is for.
    """
    if wrong := unmade(value, annotation):
        yield f"{place}: {wrong}"
    elif isinstance(value, Mapping):
        kind = allowed_class(value["class_path"]) if "class_path" in value else None
        hints = annotations_of(kind) if kind is not None else {}
        for name, each in (value.get("init_args") or {} if kind is not None else value).items():
            yield from strange(each, f"{place}.{name}", hints.get(name))
    elif isinstance(value, list):
        for index, each in enumerate(value):
            yield from strange(each, f"{place}[{index}]", element_of(annotation))


def name_of(thing: Any) -> str:
    """The class path of what a YAML has, or the thing itself as text."""
    return str(thing.get("class_path", thing)) if isinstance(thing, Mapping) else str(thing)


def words_besides(command: str, checkpoint: Path, class_path: str, settings: Mapping[str, Any]) -> list[str] | None:
    """What `masa COMMAND --ckpt_path RUN` needs besides, of a run that is the user's own.

    Args:
        command: "test" or "predict".
        checkpoint: Of the run.
        class_path: Of its module.
        settings: Of its module, as `plain.plain` writes them.

    Returns:
        Words of a command line, in which FILE stands for what is not known; None if no words will do, as for what a script
        made of its own.
    """
    folder = folder_of(checkpoint)
    data, trusted = config_of(folder).get("data"), bool(settings.get("trust_remote_code"))
    refused, words = strange_model(class_path, needed(settings, command)), []
    if command != "predict" and data is None:
        words = ["--data", "MathDataModule", f"--data.{command}", "FILE"]
    elif command != "predict":
        refused += strange_data(data)
        given = data.get("init_args") if isinstance(data, Mapping) else None
        if isinstance(given, Mapping) and given.get(command, "") is None:
            words = [f"--data.{command}", "FILE"]
    if refused:
        return ["--config", str(folder / "config.yaml"), *words] if data is not None else None
    return [
        *words,
        *(["--model.trust_remote_code", "true", "--model.model", str(settings["model"])] if trusted else []),
    ]
