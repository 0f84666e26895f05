"""What jsonargparse says of a wrong configuration -> which key, what was found, what is expected.

jsonargparse tries every type that a key could have and tells of all of them, nested: of `model: {init_args: {algorithm:
{loss_type: ppo}}}` in fifteen lines. Where it says something that is not known here, that is passed on as it is.
"""

from __future__ import annotations

import difflib
import inspect
import linecache
import re
import sys
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

import masa_lightning

_PACKAGE: Final = str(Path(__file__).parents[1])
_KEY: Final = re.compile(r'(?:- )?Parser key "(.+?)":(?: (.*))?$')
_CLASS: Final = re.compile(r"(?:- )?Problem with given class_path '(.+?)':$")
_NOISE: Final = re.compile(
    r"(?:- )?(?:Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |Given value: |"
    r"Expected a <class 'NoneType'>|Expected a path but )"
)
_OPTION: Final = re.compile(r"Option '(.+?)' is not accepted")
_TYPE: Final = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>|typing\.Literal(\[.*?\])")


def readable(message: str) -> str:
    """Shortens a message of jsonargparse to a line a fault.

    Args:
        message: As `ArgumentParser.error` is given it.

    Returns:
        Lines like "model.init_args.num_generations: expected int, got abc"; the message itself if nothing is recognised.
    """
    lines: list[str] = []
    keys: list[tuple[int, str]] = []  # (indentation, part of the key), from the outermost
    kinds: list[tuple[int, Any]] = []  # (indentation, class, or its path if there is none)
    for line in message.splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip()) + 2 * text.startswith("- ")
        if not text or _NOISE.match(text):
            continue
        keys = [entry for entry in keys if entry[0] < depth]
        kinds = [entry for entry in kinds if entry[0] < depth]
        if match := _KEY.match(text):
            inside = bool(kinds) and bool(keys) and kinds[-1][0] > keys[-1][0] and not is_dataclass(kinds[-1][1])
            keys.append((depth, f"init_args.{match[1]}" if inside else match[1]))
            text = match[2] or ""
        elif match := _CLASS.match(text):
            kinds.append((depth, _imported(match[1]) or match[1]))
            text = ""
        if text:
            lines.append(": ".join(filter(None, [".".join(part for _, part in keys), _said(text, kinds)])))
    return "\n".join(dict.fromkeys(lines)) or message


def is_mistake(error: BaseException) -> bool:
    """Whether an error says all that its reader needs: this package raised it on purpose, or Lightning for a wrong setup."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = trace.tb_frame.f_code.co_filename
    raised = linecache.getline(file, trace.tb_lineno).lstrip().startswith("raise ")
    return (raised and file.startswith(_PACKAGE)) or type(error).__name__ == "MisconfigurationException"


def stop(error: BaseException, status: int = 2) -> NoReturn:
    """Ends the command with what an error says.

    Raises:
        SystemExit: Always.
    """
    sys.stderr.write(f"error: {error}\n")
    if status == 1:
        sys.stderr.write("With --debug it is shown where this comes from.\n")
    raise SystemExit(status) from None


def _said(text: str, kinds: list[tuple[int, Any]]) -> str:
    text = text.removeprefix("- ")
    kind = kinds[-1][1] if kinds else None
    if isinstance(kind, str) and _of_this_package(kind) and "masa_lightning" in text:  # and no package is missing
        return f"there is no class {kind!r}; expected {_of_this_package(kind)}"
    if isinstance(kind, type) and (match := _OPTION.match(text)):
        names = [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]
        close = difflib.get_close_matches(match[1], names, n=1)
        meant = f"did you mean {close[0]}?" if close else f"it has {', '.join(names)}"
        return f"{kind.__name__} has no setting {match[1]!r}; {meant}"
    if text.startswith("Expected a dot import path string: "):
        path = text.rpartition(" ")[2]
        expected = _of_this_package(path) or "package.module.Class, such as masa_lightning.VLLMSampler"
        return f"there is no class {path!r}; expected {expected}"
    if text.endswith("masa_lightning.protocols.Sampler is a protocol"):
        return "of which class? Expected it first: --model.sampler VLLMSampler"
    text = _TYPE.sub(lambda match: match[1] or f"one of {match[2]}", text)
    return text.replace("Expected a ", "expected ").replace(". Got value: ", ", got ")


def _of_this_package(path: str) -> str | None:
    """Returns the public path of a class of this package, whose files move from version to version."""
    package, name = path.partition(".")[0], path.rpartition(".")[2]
    return f"masa_lightning.{name}" if package == "masa_lightning" and name in masa_lightning.__all__ else None


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
