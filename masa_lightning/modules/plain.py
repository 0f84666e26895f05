"""Settings as plain values: what checkpoints, loggers and cards hold of the objects that a module was made with.

An object, such as a sampler, is written as its class path and its own arguments, as a YAML has it; it is never pickled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from lightning.pytorch.utilities.parsing import collect_init_args

import masa_lightning
from masa_lightning.checks import is_secret, parameters
from masa_lightning.modules.optimization import maker

_OURS: Final = "masa_lightning"
_DEEPEST: Final = 6


def simple(value: Any, inner: Callable[[Any], Any], other: Callable[[Any], Any]) -> Any:
    """Writes what needs no knowledge of classes as None, bool, int, float, str, lists and dictionaries.

    Args:
        value: Anything. Of a dictionary what may be secret is left out.
        inner: Writes what is in a list, a dictionary or an enumeration.
        other: Writes anything else.
    """
    if isinstance(value, Enum):
        return inner(value.value)
    if value is None or isinstance(value, bool):
        return value
    for kind in (int, float, str):  # not subclasses, which `torch.load` would refuse
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): inner(each) for name, each in value.items() if not is_secret(str(name))}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [inner(each) for each in value]
    return other(value)


def arguments(frame: FrameType | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """What constructors were called with, as plain values.

    Args:
        frame: Of a constructor that is running, in that of its subclass and so on.

    Returns:
        The arguments of the outermost constructor, by which the object can be made again; and those of all of them, with
        what the inner ones made of defaults, as far as the class takes them.
    """
    if frame is None:
        return {}, {}
    calls = collect_init_args(frame, [], classes=(HyperparametersMixin,))  # the innermost first
    if not calls:
        return {}, {}
    held = {name: value for call in reversed(calls) for name, value in call.items()}
    kind = type(frame.f_locals["self"])
    takes = parameters(kind)
    # Not of a class of yours: what it passes on may be set by it, and it would not take the same by name.
    defaults = {n: p.default for n, p in takes.items() if p.default is not p.empty} if is_ours(kind) else {}
    given = defaults | calls[-1]
    init = inspect.signature(next(vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base)))
    if len(calls) > 1 and any(p.kind == p.VAR_POSITIONAL for p in init.parameters.values()):
        # What a class of yours passes on as *args has its names one class above.
        by_position = {
            n: v for n, v in calls[-2].items() if n in takes and takes[n].kind == takes[n].POSITIONAL_OR_KEYWORD
        }
        given = by_position | given
    return plain(given), plain({name: held[name] for name in held if name in takes or name in given})


def chosen(which: Sequence[Any], frame: FrameType | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `arguments`, of what Lightning's `save_hyperparameters` is given: nothing for all, names, or a dictionary."""
    if len(which) == 1 and not isinstance(which[0], str):
        return plain(which[0]), plain(which[0])
    given, held = arguments(frame)
    if which:
        given, held = ({name: values[name] for name in which if name in values} for values in (given, held))
    return given, held


def plain(value: Any, depth: int = 0) -> Any:
    """Writes a value as None, bool, int, float, str, lists and dictionaries.

    Returns:
        Settings of this package as dictionaries; another object as ``{"class_path": ..., "init_args": ...}``, with a list
        ``not_kept`` of those of its arguments that it has no attribute of, or that may be secret; a dictionary with such a
        list where entries may be secret; a function or class as ``{"python": its name}``, but for what makes an optimiser or
        a schedule, which is written as an object of it.

    >>> class Brief:
    ...     def __init__(self, scale: float, api_key: str):
    ...         self.scale, self.api_key = scale, api_key
    >>> plain(Brief(2.0, "abc"))["init_args"], plain(Brief(2.0, "abc"))["not_kept"]
    ({'scale': 2.0}, ['api_key'])
    """
    written = simple(value, partial(plain, depth=depth + 1), partial(_object, depth=depth))
    secret = [str(name) for name in value if is_secret(str(name))] if isinstance(value, Mapping) and depth else []
    return written | {"not_kept": secret} if secret else written


def _object(value: Any, depth: int) -> Any:
    if made := maker(value):
        which, given = made
        own = {n: p.default for n, p in parameters(which).items() if is_ours(which) and p.default is not p.empty}
        return {"class_path": class_path(which), "init_args": plain(own | given, depth)}
    if isinstance(value, type) or inspect.isroutine(value):
        return {"python": class_path(value)}
    if is_dataclass(value) and is_ours(type(value)):
        return {field.name: plain(getattr(value, field.name), depth + 1) for field in fields(value) if field.init}
    return _with_arguments(value, depth)


def _with_arguments(thing: object, depth: int) -> dict[str, Any]:
    try:
        parameters = inspect.signature(type(thing)).parameters
    except (TypeError, ValueError):
        return {"class_path": class_path(type(thing)), "init_args": {}, "not_kept": ["its arguments"]}
    slots = {name for base in type(thing).__mro__ for name in getattr(base, "__slots__", ()) if hasattr(thing, name)}
    attributes = {*slots, *getattr(thing, "__dict__", {})}
    kept, lost = {}, []
    for name in parameters:
        if is_secret(name) or name not in attributes or depth > _DEEPEST:
            lost.append(name)
        else:
            kept[name] = plain(getattr(thing, name), depth + 1)
    return {"class_path": class_path(type(thing)), "init_args": kept} | ({"not_kept": lost} if lost else {})


def class_path(thing: Any) -> str:
    """The class path that a YAML would have."""
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    home = getattr(thing, "__module__", None) or type(thing).__module__
    if home.partition(".")[0] == _OURS and getattr(masa_lightning, name, None) is thing:
        return f"{_OURS}.{name}"  # which stays when a file moves
    return f"{home}.{name}"


def is_ours(kind: type) -> bool:
    """Whether a class is of this package."""
    return kind.__module__.partition(".")[0] == _OURS
