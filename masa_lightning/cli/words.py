"""What `masa` adds to LightningCLI's command line; looked at before anything heavy is imported."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

import masa_lightning
from masa_lightning.cli.configs import config_path

_PARTS: Final = ("model", "data", "trainer")
_OF_A_CLASS: Final = {"class_path", "init_args", "dict_kwargs"}
_SETTING: Final = re.compile(rf"--(?:{'|'.join(_PARTS)})\.[\w.]+")
_MEANT: Final = {
    "train": "fit",
    "run": "fit",
    "resume": "fit",
    "eval": "test",
    "evaluate": "test",
    "benchmark": "test",
    "val": "validate",
    "infer": "predict",
    "generate": "predict",
    "config": "configs",
}


def check_command(word: str, known: Sequence[str]) -> None:
    """Refuses what is no command.

    Args:
        word: The first one of the command line.
        known: The commands.

    Raises:
        ValueError: If it is none of them; the message says which one may have been meant.
    """
    if word in known or word.startswith("-"):
        return
    close = difflib.get_close_matches(word.lower(), [*known, *_MEANT], n=1)
    meant = f" Did you mean `masa {_MEANT.get(close[0], close[0])}`?" if close else ""
    raise ValueError(f"there is no command {word!r}.{meant} Expected one of {', '.join(known)}")


def check_configured(words: Sequence[str]) -> None:
    """Refuses a command of Lightning's that says neither what to train nor where that is written.

    Args:
        words: The command and its arguments.

    Raises:
        ValueError: If there is nothing to begin with, or only what is laid over something.
    """
    command, *rest = words
    options = {word.partition("=")[0] for word in rest}
    if command.startswith("-") or options & {"-h", "--help", "--ckpt_path", "--problem", "--problems"}:
        return
    if any(option.startswith(("--model", "--data", "--trainer.")) and option.endswith(".help") for option in options):
        return
    layers = [*taken(rest, "--config")[0], *taken(rest, "-c")[0]]
    if not layers and "--model" not in options:
        begin = {
            "fit": "--config tiny",
            "validate": "--ckpt_path RUN",
            "test": "--ckpt_path RUN, or --config eval/math",
        }
        usual = begin.get(command, '--ckpt_path RUN --problem "Compute 354 mod 7."')
        raise ValueError(
            f"masa {command} is told nothing; expected masa {command} {usual}. `masa configs` lists configurations"
        )
    if layers and all(layer.startswith(("with/", "paper/")) for layer in layers) and "--model" not in options:
        base = "tiny" if layers[0].startswith("with/") else "masa"
        raise ValueError(
            f"{layers[0]} is laid over a configuration; expected --config {base} --config {layers[0]}, say"
        )


def is_own(words: Sequence[str]) -> bool:
    """Whether a configuration of the user's own is named, who then trusts the classes that it names.

    A run of a stranger, and a configuration that is shipped, must not make Python look for packages in the current folder.
    """
    return any(os.path.isfile(layer) for option in ("--config", "-c") for layer in taken(words, option)[0])


def debugging(words: list[str]) -> list[str]:
    """Takes `--debug` off the words: errors then come with where they come from, as with JSONARGPARSE_DEBUG=1."""
    if "--debug" in words or os.environ.get("JSONARGPARSE_DEBUG") == "1":
        os.environ["JSONARGPARSE_DEBUG"] = "true"  # jsonargparse knows no other word
    return [word for word in words if word != "--debug"]


def taken(words: Sequence[str], option: str) -> tuple[list[str], list[str]]:
    """Takes an option off the words.

    Returns:
        The values that it was given, and the other words.

    >>> taken(["predict", "--problem", "1+1", "--solve", "--problem=2"], "--problem")
    (['1+1', '2'], ['predict', '--solve'])
    """
    values, others, index = [], [], 0
    while index < len(words):
        word = words[index]
        index += 1
        name, equals, value = word.partition("=")
        if name != option:
            others.append(word)
        elif equals:
            values.append(value)
        elif index < len(words):
            values.append(words[index])
            index += 1
        else:
            raise ValueError(f"{option} is without a value; expected one behind it")
    return values, others


def arguments(words: list[str]) -> list[str]:
    """Translates what `masa` adds to LightningCLI's command line.

    Names of shipped configurations become their paths, and those of our classes their class paths; `--solve` becomes its
    setting; and text stays text where YAML would read a dictionary or a list for a colon or a dash in it (those need
    braces or brackets here).

    Args:
        words: The command and its arguments.

    Raises:
        FileNotFoundError: If a configuration is neither a file nor a name.
        ValueError: If one of them is no YAML.

    >>> arguments(["fit", "--model.prompts.solution", "Solve: {problem}"])
    ['fit', '--config', '{"model": {"init_args": {"prompts": {"solution": "Solve: {problem}"}}}}']
    """
    translated: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        option, equals, value = word.partition("=")
        apart = not equals and option.startswith("-") and index < len(words) and not words[index].startswith("--")
        if apart:
            value = words[index]
        if option in ("-c", "--config") and value:
            translated += ["--config", value if value.lstrip().startswith("{") else _read(config_path(value))]
        elif option.startswith("--") and value in masa_lightning.__all__:  # no short names of protocols otherwise
            translated += [option, f"masa_lightning.{value}"]
        elif _SETTING.fullmatch(option) and _is_text(value):
            translated += ["--config", json.dumps(_nested(option.removeprefix("--"), value))]
        elif word == "--solve" and words[0] == "predict":
            translated.append("--model.init_args.evaluation.solve=true")
            continue
        else:
            translated.append(word)
            continue
        index += apart
    return translated


def named_settings(words: Sequence[str]) -> dict[str, Any]:
    """What words say without a configuration's file: single values, dictionaries for a group, and files of such a group.

    Args:
        words: As `arguments` leaves them. What comes later lies over what came before.

    Returns:
        Settings as a configuration has them.

    >>> named_settings(["--model.evaluation", "{solve: true}", "--model.init_args.evaluation.pass_at=[2]", "--x", "3"])
    {'model': {'init_args': {'evaluation': {'solve': True, 'pass_at': [2]}}}}
    """
    named: dict[str, Any] = {}
    index = 0
    while index < len(words):
        option, equals, text = words[index].partition("=")
        index += 1
        if not equals and index < len(words) and not words[index].startswith("--"):
            text = words[index]
            index += 1
        key = option.removeprefix("--")
        if key == "config" and text.lstrip().startswith("{"):
            named = laid_over(named, _whole(yaml.safe_load(text)))
        elif key.partition(".")[0] in _PARTS and option.startswith("--") and not key.endswith(".help"):
            named = laid_over(named, _whole(_nested(key, _value(text))))
    return named


def all_settings(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the files of configurations, as seen from a folder, and single words say together, as `named_settings`."""
    read: Any = {}
    for file in taken(words, "--config")[0]:
        if not file.lstrip().startswith("{"):
            read = laid_over(read, _whole(yaml.safe_load(Path(folder, file).read_text(encoding="utf-8"))))
    found: dict[str, Any] = laid_over(read, named_settings(words))
    return found


def laid_over(settings: Any, others: Any) -> Any:
    """What is left of settings when others are laid over them; another class leaves nothing."""
    if not isinstance(settings, dict) or not isinstance(others, dict):
        return others
    if "class_path" in others and settings.get("class_path", others["class_path"]) != others["class_path"]:
        return others
    return settings | {name: laid_over(settings.get(name), value) for name, value in others.items()}


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
        if isinstance(value, str) and value.endswith((".yaml", ".yml", ".json")) and os.path.isfile(value):
            read = yaml.safe_load(Path(value).read_text(encoding="utf-8"))  # of a group, if it has keys
            return read if isinstance(read, dict) else value
    except (yaml.YAMLError, UnicodeDecodeError):
        return text
    return value


def _whole(settings: Any) -> Any:
    """Writes model and data out, of which a class alone, and arguments alone, are given too."""
    if not isinstance(settings, dict):
        return {}
    whole = {name: value for name, value in settings.items() if name != "trainer" or isinstance(value, dict)}
    for part in ("model", "data"):
        value = whole.get(part)
        if isinstance(value, str):
            whole[part] = {"class_path": value}
        elif isinstance(value, dict) and not value.keys() & _OF_A_CLASS:
            whole[part] = {"init_args": value}
    return whole


def _read(path: str) -> str:
    """Returns the path of a configuration that YAML can read; jsonargparse would not say which file it is that it cannot."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        read, twice = yaml.safe_load(text), _twice(yaml.compose(text, Loader=yaml.SafeLoader))
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is no text; expected a configuration in YAML. `masa configs show tiny` shows one"
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, said = (f", line {mark.line + 1}" if mark else ""), getattr(error, "problem", None) or str(error)
        raise ValueError(
            f"{path}{line} is no YAML: {said}; expected keys of one block to begin in the same column, and text with ': ' "
            "or '#' in quotes. `masa configs show tiny` shows a configuration"
        ) from None
    if not isinstance(read, dict):
        found = "nothing" if read is None else f"a {type(read).__name__}"
        raise ValueError(f"{path} holds {found}; expected a configuration: keys such as model, data and trainer")
    if twice is not None:
        raise ValueError(
            f"{path}, line {twice[1]} has {twice[0]!r} a second time, and YAML forgets the first; expected all of "
            "it in one place"
        )
    return path


def _twice(node: yaml.Node | None) -> tuple[str, int] | None:
    """Returns a key that one mapping has twice, and the line of the second, if there is one."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    seen: set[str] = set()
    for key, _ in pairs:
        if key.value in seen and isinstance(key, yaml.ScalarNode):
            return key.value, key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            seen.add(key.value)
    inner = [value for _, value in pairs] + (node.value if isinstance(node, yaml.SequenceNode) else [])
    return next((found for part in inner if (found := _twice(part)) is not None), None)


def _is_text(value: str) -> bool:
    try:
        return not value.lstrip().startswith(("{", "[")) and isinstance(yaml.safe_load(value), dict | list)
    except yaml.YAMLError:
        return False


def _nested(key: str, value: Any) -> Any:
    """Returns a configuration that sets one key; "model.prompts" is short for "model.init_args.prompts"."""
    first, *parts = key.split(".")
    if first in ("model", "data") and parts and parts[0] not in _OF_A_CLASS:
        parts = ["init_args", *parts]
    nested = value
    for part in reversed([first, *parts]):
        nested = {part: nested}
    return nested
