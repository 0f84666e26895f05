"""`masa test|validate|predict --ckpt_path RUN` without a configuration: the checkpoint and its run say what is needed.

The checkpoint may be a stranger's, and so may the `config.yaml` beside it. What they name is made only if it is of this
package; a configuration that the command line names is the user's, and is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from lightning.pytorch.utilities import rank_zero_info

from masa_lightning.cli.configs import config_path
from masa_lightning.cli.words import laid_over, named_settings, taken
from masa_lightning.models.checkpoints import find_checkpoint
from masa_lightning.models.trained_with import trained_with
from masa_lightning.modules.hyperparameters import Record, read_record, untrusted_model
from masa_lightning.modules.saved_run import config_of, folder_of, name_of, needed, strange, strange_data, strange_model

_MACHINE: Final = ("accelerator", "devices", "num_nodes", "precision", "strategy")  # of a trainer
_STRATEGIES: Final = ("lightning.pytorch.strategies.ModelParallelStrategy", "lightning.pytorch.strategies.DDPStrategy")


def with_run(words: Sequence[str]) -> list[str]:
    """Puts what a run says in place of its folder, and problems in place of `--problem` and `--problems`.

    Args:
        words: The command and its arguments, as `words.arguments` leaves them.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the run does not say all, or names what is not made.
    """
    command, *rest = words
    data: dict[str, Any] | None = None
    if command == "predict":
        texts, rest = taken(rest, "--problem")
        files, rest = taken(rest, "--problems")
        data = _problems(texts, files)
    paths, others = taken(rest, "--ckpt_path")
    checkpoint = find_checkpoint(paths[-1]) if paths else None
    if checkpoint is not None:
        rest = [*others, "--ckpt_path", str(checkpoint)]
        if not _is_there(checkpoint):
            raise FileNotFoundError(
                f"there is no checkpoint {str(checkpoint)!r}; expected a file, the folder of a run, or last, best or hpc"
            )
    configured = [value for value in taken(rest, "--config")[0] if not value.startswith("{")]
    if command == "predict":
        rest = _with_lengths(rest)
    if command == "fit" or configured or checkpoint is None:
        if data is not None and not configured:
            raise ValueError(
                "these problems are for a model, and none is named; expected --ckpt_path RUN, the folder of a run or one "
                "of its checkpoints, or --config predict with --model.model PATH"
            )
        return [command, *(_laid_over(rest, {"data": data}) if data else rest)]
    if not Path(checkpoint).exists():
        raise ValueError(f"--ckpt_path {checkpoint} names no file or folder; expected one, or --config FILE besides")
    named = named_settings(rest)
    _check_trust(Path(checkpoint), _model_settings(named))
    settings = _settings_of(command, Path(checkpoint), data, named)
    return [command, *_inline(settings), *rest]


def _with_lengths(words: list[str]) -> list[str]:
    """Takes the lengths of the shipped configuration away where the model brings those that it was trained with.

    They are for models that do not say theirs, and a limit is a part of what a model is asked.
    """
    model = _model_settings(named_settings(words)).get("model")
    own, shipped = trained_with(model) if isinstance(model, str) else None, config_path("predict")
    if own is None or own.max_completion_length is None or shipped not in words:
        return words
    behind = words.index(shipped) + 1  # a configuration that is laid over it still counts
    lengths = {"max_prompt_length": None, "max_completion_length": None}
    return [*words[:behind], *_inline({"model": {"init_args": lengths}}), *words[behind:]]


def _laid_over(words: list[str], settings: Mapping[str, Any]) -> list[str]:
    """Lays settings over the configurations among words, and under all single words."""
    behind = max(index for index, word in enumerate(words) if word == "--config") + 2
    return [*words[:behind], *_inline(settings), *words[behind:]]


def _model_settings(named: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the module among the settings that words name."""
    model = named.get("model")
    settings = model.get("init_args") if isinstance(model, Mapping) else None
    return settings if isinstance(settings, dict) else {}


def _check_trust(checkpoint: Path, named: Mapping[str, Any]) -> None:
    """Refuses trust in the code of a model that the checkpoint names alone."""
    if named.get("trust_remote_code") and "model" not in named:
        raise ValueError(untrusted_model(read_record(checkpoint).settings.get("model"), "--model.model PATH"))


def _is_there(checkpoint: str | Path) -> bool:
    text = str(checkpoint)
    return (
        text in ("last", "best", "hpc", "null") or text.startswith("registry") or "://" in text or Path(text).exists()
    )


def _problems(texts: list[str], files: list[str]) -> dict[str, Any] | None:
    if (texts and files) or len(files) > 1:
        raise ValueError("expected either --problem TEXT, once or more, or one --problems FILE")
    if texts:
        return {"class_path": "masa_lightning.TextDataModule", "init_args": {"problems": texts}}
    if not files:
        return None
    if not Path(files[0]).exists():
        raise FileNotFoundError(
            f"there is no file {files[0]!r} for --problems; expected .txt with a problem on each line, .jsonl, .json or "
            ".parquet. A problem itself is given with --problem TEXT"
        )
    return {"class_path": "masa_lightning.MathDataModule", "init_args": {"predict": files[0]}}


def _settings_of(command: str, checkpoint: Path, data: dict[str, Any] | None, named: dict[str, Any]) -> dict[str, Any]:
    record = read_record(checkpoint)
    folder = folder_of(checkpoint)
    remedy = (
        f"if the run is yours, name its configuration: --config {folder / 'config.yaml'}"
        if (folder / "config.yaml").is_file()
        else "give a configuration: --config FILE"
    )
    model = _model_of(command, record, checkpoint, _model_settings(named), remedy)
    config = config_of(folder)
    given: dict[str, Any] = config["trainer"] if isinstance(config.get("trainer"), dict) else {}
    shipped = yaml.safe_load(Path(config_path("predict")).read_text(encoding="utf-8"))
    trainer = shipped["trainer"] | _on_this_machine(_machine(given), named.get("trainer") or {})
    name, of = model["class_path"].rpartition(".")[2], _model_settings(named).get("model", record.settings.get("model"))
    said = f"checkpoint {checkpoint} of a {name}, with its settings; model {of}"
    if command != "predict":
        trainer["callbacks"], left_out = _callbacks(given, folder)
        if left_out:
            rank_zero_info(f"left out of {folder / 'config.yaml'}: {', '.join(left_out)}; {remedy}")
        trainer["logger"] = {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": str(folder.parent), "name": folder.name, "version": ""},
        }
    settings: dict[str, Any] = {"trainer": trainer, "model": model}
    if type(seed := config.get("seed_everything")) is int:
        settings["seed_everything"] = seed
    if command == "predict":
        settings["return_predictions"] = shipped["return_predictions"]
    if data is None:
        own, other = config.get("data"), (named.get("data") or {}).get("class_path")
        if other is None or (_same_class(own, other) and not strange_data(own)):
            data = _data_of(own, folder, command, remedy)
            shown = laid_over(data, {"init_args": (named.get("data") or {}).get("init_args") or {}})
            said += f"; problems of {folder / 'config.yaml'}: {_sources(shown, command)}"
        else:
            said += f"; problems of {other}, which takes the place of the run's {name_of(own)} with all its settings"
    if data is not None:
        settings["data"] = data
    rank_zero_info(said)
    return settings


def _same_class(settings: Any, path: str) -> bool:
    """Whether settings are of a class, which may be named in short."""
    own = settings.get("class_path") if isinstance(settings, Mapping) else None
    return isinstance(own, str) and path in (own, own.rpartition(".")[2])


def _model_of(command: str, record: Record, checkpoint: Path, named: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    if not record.settings:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} does not say with which settings it was trained, as those of earlier versions; "
            f"expected one of `masa fit` or Trainer.fit; {remedy}"
        )
    settings = needed(record.settings, command, solve=_solves(record.settings, named))
    refused = strange_model(record.class_path, settings)
    if refused:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} names what `masa` does not make because a checkpoint says so, for it may be a "
            f"stranger's: {'; '.join(refused)}. Expected classes of masa_lightning; {remedy}"
        )
    return {"class_path": record.class_path, "init_args": settings}


def _solves(settings: Mapping[str, Any], named: Mapping[str, Any]) -> bool:
    """Whether problems are solved."""
    evaluation = laid_over(settings.get("evaluation"), named.get("evaluation", {}))
    return isinstance(evaluation, Mapping) and bool(evaluation.get("solve"))


_SOURCES: Final = {"validate": "validation", "test": "test", "predict": "predict"}


def _data_of(data: Any, folder: Path, command: str, remedy: str) -> dict[str, Any]:
    if data is None:
        also = "--problem TEXT or --problems FILE, or " if command == "predict" else ""
        raise ValueError(
            f"there is no config.yaml of `masa fit` in {folder}, and so no problems to {command}; expected {also}"
            f"--data CLASS with its arguments, such as --data MathDataModule --data.{_SOURCES[command]} FILE"
        )
    refused = strange_data(data)
    if refused:
        raise ValueError(
            f"{folder / 'config.yaml'} names what `masa` does not make unless you name that file: {'; '.join(refused)}. "
            f"Expected a datamodule of masa_lightning; {remedy}, or give --data CLASS with its arguments"
        )
    return dict(data)


def _machine(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's trainer says of devices."""
    found = {name: trainer[name] for name in _MACHINE if name in trainer}
    strategy = found.get("strategy")
    if isinstance(strategy, Mapping):
        settings = strategy.get("init_args") or {}
        # Strings with a point would be imported: Lightning's strategies take objects and functions.
        plain = isinstance(settings, Mapping) and all(
            value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "." not in value)
            for value in settings.values()
        )
        if strategy.get("class_path") not in _STRATEGIES or not plain or strategy.get("dict_kwargs"):
            del found["strategy"]
    return {
        name: value for name, value in found.items() if name == "strategy" or isinstance(value, str | int | list | None)
    }


def _on_this_machine(machine: dict[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Fits the strategy of a run to the number of processes that the command line names, if it names one."""
    if "strategy" in named:
        return machine
    counts = {}
    for name in ("devices", "num_nodes"):
        value = named.get(name, machine.get(name, 1))
        counts[name] = len(value) if isinstance(value, list) else value
    strategy, processes = machine.get("strategy"), counts["devices"]
    if not isinstance(strategy, Mapping) or strategy["class_path"] != _STRATEGIES[0] or type(processes) is not int:
        return machine
    processes *= counts["num_nodes"] if type(counts["num_nodes"]) is int else 1
    if processes < 1:  # all devices that there are
        return machine
    settings = (strategy.get("init_args") or {}) | {"data_parallel_size": processes, "tensor_parallel_size": 1}
    return machine | {"strategy": {**strategy, "init_args": settings} if processes > 1 else "auto"}


def _sources(data: Mapping[str, Any], command: str) -> str:
    """The class of the problems, and where it reads them."""
    settings: Mapping[str, Any] = data.get("init_args") or {}
    own = ("validation", "train") if command == "validate" else (command,)
    read = [f"{name} {settings[name]}" for name in (*own, "sources") if settings.get(name) is not None]
    return ", ".join([name_of(data).rpartition(".")[2], *read])


def _callbacks(trainer: Mapping[str, Any], folder: Path) -> tuple[list[Any], list[str]]:
    """Those callbacks of a run that are of this package, and the names of the others but Lightning's own.

    One that would write into another folder than the run's is left out too.
    """

    def stays(callback: Mapping[str, Any]) -> bool:
        place = (callback.get("init_args") or {}).get("dirpath")
        return place is None or (isinstance(place, str) and Path(place).resolve().is_relative_to(folder.resolve()))

    given = trainer.get("callbacks") or []
    given = given if isinstance(given, list) else [given]
    named = [c for c in given if isinstance(c, Mapping) and "class_path" in c]
    kept = [c for c in named if not [*strange(c, "callback")] and stays(c)]
    names = [name_of(c) for c in given if c not in kept]
    return kept, [name for name in names if not name.startswith("lightning.")]


def _inline(settings: Mapping[str, Any]) -> list[str]:
    return ["--config", yaml.safe_dump(dict(settings), default_flow_style=True, width=float("inf"), allow_unicode=True)]
