"""The arguments of a module, back from the plain values that a checkpoint holds (`modules.plain`).

Only classes of this package are made, and those that the annotations of the module's class name: a checkpoint may be a
stranger's. What else there was, plain functions too, has to be given again, by name.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.cli import ReduceLROnPlateau
from lightning.pytorch.core.saving import CHECKPOINT_PAST_HPARAMS_KEYS
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

import masa_lightning
from masa_lightning.checks import parameters
from masa_lightning.models.checkpoints import reading
from masa_lightning.modules.moved import GONE, MOVED, phrases, translated
from masa_lightning.modules.plain import class_path, is_ours

_OURS: Final = "masa_lightning"
_MADE: Final = (Optimizer, LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)  # by functions that settings are
_TRUST: Final = "trust_remote_code"  # never taken from a checkpoint
_NAMES_CODE: Final = ("engine_kwargs",)  # arguments of our classes whose values name classes and models to others


@dataclass(frozen=True, slots=True)
class Record:
    """What a checkpoint says of the module that it is of.

    Args:
        class_path: Of its class; empty in checkpoints of earlier versions.
        settings: Its arguments, as `plain.plain` writes them.
        old: Names that the file has besides, and that its class does not take: of earlier versions, and notes of its user.
    """

    class_path: str
    settings: dict[str, Any]
    old: tuple[str, ...] = ()


def read_record(checkpoint: Any) -> Record:
    """Reads what a checkpoint says of its module, and runs nothing of it.

    Args:
        checkpoint: A file, its address, an open file, or a folder of shards.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it cannot be read, or names a file as its chat template.
    """
    options: dict[str, Any] = {"map_location": "cpu"}
    if isinstance(checkpoint, (str, Path)):
        file = Path(checkpoint, "meta.pt") if Path(checkpoint).is_dir() else Path(checkpoint)
        with reading(checkpoint):
            if "://" not in str(checkpoint):
                saved = torch.load(file, **options, mmap=True, weights_only=True)
            else:
                with get_filesystem(checkpoint).open(str(checkpoint)) as stream:
                    saved = torch.load(stream, **options, weights_only=True)
    else:
        saved = torch.load(checkpoint, **options, weights_only=True)
        checkpoint.seek(0)
    saved = saved if isinstance(saved, dict) else {}
    other = [key for key in (*CHECKPOINT_PAST_HPARAMS_KEYS, "hparams_type") if key in saved]
    if saved.get("hparams_name") not in (None, "kwargs"):
        other.append("hparams_name")
    if other:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} has settings in places where this package writes none: {', '.join(other)}; "
            "Lightning would take them unseen. Expected a checkpoint as Trainer.save_checkpoint writes it"
        )
    state, settings = saved.get("masa"), saved.get("hyper_parameters")
    if not isinstance(settings, dict):
        return Record("", {})
    state = state if isinstance(state, dict) else {}
    settings = {str(name): value for name, value in settings.items() if not str(name).startswith("_")}
    if _TRUST in settings:
        settings[_TRUST] = False  # not left out: Lightning would take it from the file
    template = state.get("chat_template")
    if "chat_template" in settings:
        if template is not None and not (isinstance(template, str) and "{" in template):
            raise ValueError(
                f"checkpoint {str(checkpoint)!r} has {template!r} as its chat template; expected Jinja text. A file that a "
                "checkpoint names is not read: give it as `chat_template`"
            )
        settings["chat_template"] = template  # its text, where the argument may be the name of a file
    path = state.get("class_path")
    path = path if isinstance(path, str) else ""
    if not path.startswith(f"{_OURS}."):
        return Record(path, settings)
    run = state.get("run")
    used = (
        run["module"].get("pass_rate_scale") if isinstance(run, dict) and isinstance(run.get("module"), dict) else None
    )
    meta = settings.get("meta")
    if isinstance(meta, dict) and used is not None and meta.get("pass_rate_scale") != used:
        # Of a version in which 8 stood for "not given", and the scale was that of the model's training.
        settings["meta"] = meta | {"pass_rate_scale": None}
    old = [name for name in settings if name in MOVED or name in GONE]
    now, kind = translated(settings), allowed_class(path)
    # What a user noted in `hparams`. A class of yours gets it, for it may take what it does not name.
    notes = [] if kind is None else [name for name in now if name not in parameters(kind)]
    return Record(path, {name: value for name, value in now.items() if name not in notes}, (*old, *notes))


def class_to_load(kind: type, record: Record, checkpoint: Any) -> type:
    """Chooses the class that a checkpoint is loaded as: the one that wrote it if that is a subclass of `kind`.

    Args:
        kind: The class that was asked for.
        record: Of the checkpoint.
        checkpoint: For the message.

    Raises:
        ValueError: If `kind` is of this package, and the class that wrote the checkpoint is not and is not imported.
    """
    home, _, name = record.class_path.rpartition(".")
    found = getattr(sys.modules.get(home), name, None)
    if isinstance(found, type) and issubclass(found, kind):
        return found
    if record.class_path and is_ours(kind) and home.partition(".")[0] != _OURS:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} was written by {record.class_path}, which is not imported here, and no module "
            f"is imported because a checkpoint names it; expected {name}.load_from_checkpoint(path), or an import of {home} "
            "before"
        )
    return kind


def to_load(kind: type, checkpoint: Any, given: Mapping[str, Any]) -> tuple[type, dict[str, Any], tuple[str, ...]]:
    """The class that a checkpoint is loaded as, its arguments, and those of the file to pass over (`Record.old`).

    Args:
        kind: The class that was asked for.
        checkpoint: As of `read_record`.
        given: Arguments that take the place of the checkpoint's.

    Raises:
        ValueError: As `class_to_load` and `remade`; or if the checkpoint, of an earlier version, has no settings and none
            are given, or is of a class of yours and has settings that are called otherwise now.
    """
    record = read_record(checkpoint)
    if given.get(_TRUST) and "model" not in given:
        raise ValueError(untrusted_model(record.settings.get("model"), "load_from_checkpoint(path, model=..., ...)"))
    kind = class_to_load(kind, record, checkpoint)
    if not record.settings:
        of = f"checkpoint {str(checkpoint)!r}"
        what = f"{of} does not say with which settings it was trained, as those of earlier versions"
        call = f"{kind.__name__}.load_from_checkpoint(path, model=..., prompts=..., ...)"
        if "model" not in given:
            raise ValueError(f"{what}; expected them by name: {call}")
        rank_zero_warn(f"{what}: all but {', '.join(given)} are the defaults. Give those that were set then: {call}")
    if not is_ours(kind) and (
        old := [name for name in record.settings if name in MOVED.keys() - parameters(kind).keys()]
    ):
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} is of an earlier version of masa_lightning, whose settings had other names: "
            f"{phrases(old)}; expected one of this version, or to be loaded by the version that wrote it"
        )
    remedy = f"give these by name: {kind.__name__}.load_from_checkpoint(path, NAME=...)"
    settings = remade(kind, record.settings, given=given, checkpoint=checkpoint, remedy=remedy)
    return kind, settings | {"_instantiator": None}, record.old  # a stranger's would make what the checkpoint names


def untrusted_model(model: Any, remedy: str) -> str:
    """What to say where code is trusted and not whose: the model that a checkpoint names may be any.

    Args:
        model: The checkpoint's.
        remedy: A call or words that name it.
    """
    return (
        f"{_TRUST} is given, and the model is the one that the checkpoint names, {model!r}: its code would run, whatever it "
        f"is; expected the model by name as well: {remedy}"
    )


def remade(
    kind: type, settings: Mapping[str, Any], *, given: Mapping[str, Any], checkpoint: Any, remedy: str
) -> dict[str, Any]:
    """Makes arguments of plain values.

    Args:
        kind: The class that takes them.
        settings: As `plain.plain` writes them.
        given: Arguments that take the place of those in `settings`.
        checkpoint: For the message.
        remedy: What to do about what is not made, for the message.

    Raises:
        ValueError: If there are objects in them that are not made; the message names them all.
    """
    annotations = annotations_of(kind)
    refused: list[str] = []
    made = {
        name: _remade(value, annotations.get(name), name, refused)
        for name, value in settings.items()
        if name not in given
    }
    if refused:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} names objects that are not made from a checkpoint, which may be a "
            f"stranger's: {'; '.join(refused)}. Expected classes of {_OURS} with all of their arguments; {remedy}"
        )
    return made | dict(given)


def _remade(value: Any, annotation: Any, where: str, refused: list[str]) -> Any:
    kinds = alternatives(annotation)
    before = len(refused)
    if wrong := unmade(value, annotation):
        refused.append(f"{where}: {wrong}")
        return None
    if isinstance(value, Mapping) and "class_path" in value:
        found = allowed_class(value["class_path"], kinds)
        assert found is not None
        hints = annotations_of(found)
        made = {n: _remade(v, hints.get(n), f"{where}.{n}", refused) for n, v in (value.get("init_args") or {}).items()}
        if len(refused) > before:
            return None
        return partial(found, **made) if issubclass(found, _products(kinds)) else _called(found, made, where, refused)
    if isinstance(value, Mapping):
        if kind := next((k for k in kinds if isinstance(k, type) and is_dataclass(k)), None):
            hints = annotations_of(kind)
            made = {n: _remade(each, hints.get(n), f"{where}.{n}", refused) for n, each in value.items()}
            return _called(kind, made, where, refused) if len(refused) == before else None
        return {name: _remade(each, None, f"{where}.{name}", refused) for name, each in value.items()}
    if isinstance(value, list):
        several = _several(annotation)
        made_list = [_remade(each, element_of(annotation), f"{where}[{i}]", refused) for i, each in enumerate(value)]
        return tuple(made_list) if get_origin(several) is tuple else made_list
    return value


def _called(kind: type, settings: dict[str, Any], where: str, refused: list[str]) -> Any:
    try:
        return kind(**settings)
    except TypeError as error:  # arguments that it does not take
        refused.append(f"{where}: {error}")
        return None


def unmade(value: Any, annotation: Any = None) -> str | None:
    """What a plain value names that is not made because a stranger's file says so; what is in it is not looked at.

    Args:
        value: As `plain.plain` writes it, or as a YAML has it.
        annotation: Of the argument that it is for.

    Returns:
        A phrase, or None if nothing is named but classes of this package.
    """
    kinds = alternatives(annotation)
    if isinstance(value, Mapping) and "class_path" in value:
        path, found = str(value["class_path"]), allowed_class(value["class_path"], kinds)
        if found is None:
            return path
        if value.get("not_kept"):
            return f"{path} (without {', '.join(map(str, value['not_kept']))})"
        if value.get("dict_kwargs") or not isinstance(value.get("init_args") or {}, Mapping):
            return f"{path} (with arguments that are no dictionary of its own)"
        if named := [name for name in _NAMES_CODE if (value.get("init_args") or {}).get(name)]:
            return f"{path} (with {', '.join(named)}, which may name code)"
    elif isinstance(value, Mapping) and "python" in value:
        return str(value["python"])
    elif isinstance(value, Mapping) and isinstance(lacking := value.get("not_kept"), list):
        return f"a dictionary (without {', '.join(map(str, lacking))})"
    elif isinstance(value, str):
        held = [*kinds, *alternatives(element_of(annotation))]  # of a list, too, which a text may stand for
        if any(map(_is_of_objects, held)) and not {str, Path} & {*held}:
            return value  # jsonargparse would import what it names, or read the file
    return None


def element_of(annotation: Any) -> Any:
    """The annotation of what is in a list, or None."""
    return next(iter(get_args(_several(annotation))), None)


def _several(annotation: Any) -> Any:
    return next((k for k in alternatives(annotation) if get_origin(k) in (list, tuple, Sequence)), None)


def _is_of_objects(kind: Any) -> bool:
    """Whether a type is one of objects: a class, a protocol, settings or a function."""
    if get_origin(kind) is Callable or kind is Callable:
        return True
    plain_kinds = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset, type(None), object, Path)
    if not isinstance(kind, type) or get_origin(kind) is not None or issubclass(kind, Enum):
        return False
    return kind not in plain_kinds


def allowed_class(path: Any, kinds: Sequence[Any] = ()) -> type | None:
    """The class of a path, if `masa_lightning` exports it or it is among `kinds`; no module is imported by its name.

    Where functions are asked for that make optimisers or schedules, torch's are such classes too.

    Not `ReasoningGymGrader`, say, whose scorers evaluate what a model wrote.
    """
    for kind in kinds:
        if isinstance(kind, type) and path == class_path(kind):
            return kind
    if products := _products(kinds):
        return _of_torch(str(path), products)
    home, _, name = str(path).rpartition(".")
    if home.partition(".")[0] != _OURS or name not in masa_lightning.__all__:
        return None
    found = getattr(masa_lightning, name)
    return found if isinstance(found, type) else None  # by the name alone: files move from version to version


def _of_torch(path: str, products: tuple[type, ...]) -> type | None:
    """An optimiser or a schedule, by its name among those of torch, Lightning and this package."""
    home, _, name = path.rpartition(".")
    found = None
    if home.startswith("torch.optim"):
        found = getattr(torch.optim, name, None) or getattr(torch.optim.lr_scheduler, name, None)
    elif path == class_path(ReduceLROnPlateau):
        found = ReduceLROnPlateau
    elif home.partition(".")[0] == _OURS and name in masa_lightning.__all__:
        found = getattr(masa_lightning, name)
    return found if isinstance(found, type) and issubclass(found, products) else None


def _products(kinds: Sequence[Any]) -> tuple[type, ...]:
    """What functions return that are asked for."""
    returned = [get_args(kind)[1] for kind in kinds if get_origin(kind) is Callable and get_args(kind)]
    return tuple(each for kind in returned for each in alternatives(kind) if isinstance(each, type) and each in _MADE)


def annotations_of(kind: type) -> dict[str, Any]:
    """The annotations of a class's arguments, of those of its bases too."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        init = vars(base).get("__init__")
        try:
            found |= get_type_hints(init) if init is not None else {}
        except (NameError, TypeError):  # names that are imported for type checkers alone
            continue
    return found


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """Those of a union; of another annotation itself, and nothing of None."""
    origin = get_origin(annotation)
    if origin is None:
        return () if annotation is None else (annotation,)
    return get_args(annotation) if origin in (Union, UnionType) else (annotation,)
