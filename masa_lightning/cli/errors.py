"""What jsonargparse says of a wrong configuration -> which key, what was found, what is expected.

jsonargparse tries every type that a key could have and tells of all of them, nested: of `model: {init_args: {algorithm:
{loss_type: ppo}}}` in fifteen lines. Where it says something that is not known here, that is passed on as it is.
"""

from __future__ import annotations

import difflib
import inspect
import linecache
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn

import masa_lightning
from masa_lightning.checks import methods_of, parameters
from masa_lightning.modules.moved import GONE, MOVED, old_names, translated_algorithm

_PACKAGE: Final = str(Path(__file__).parents[1])
_KEY: Final = re.compile(r'(?:- )?Parser key "(.+?)":(?: (.*))?$')
_CLASS: Final = re.compile(r"(?:- )?Problem with given class_path '(.+?)':$")
_NOISE: Final = re.compile(
    r"(?:- )?(?:Does not validate against any of the Union subtypes|Subtypes: |Errors:|Given value type: |Given value: |"
    r"Expected a <class 'NoneType'>|Expected a path but |Not a valid subclass of |Subclass types expect one of:|"
    r"a class path \(str\)|a dict with(?:out)? )"
)
_GIVEN: Final = re.compile(r"Given value: (.+)")
_TYPE_ALONE: Final = re.compile(r"Expected a <class '[\w.]+'>$")
_OPTION: Final = re.compile(
    r"Option '(?P<one>.+?)' is not accepted|unrecognized arguments: --(?P<word>[\w.]+)"
    r"|Group '(?P<group>.+?)' does not accept option '(?P<part>.+?)'"
)
_UNKNOWN_OPTION: Final = re.compile(
    r"unrecognized arguments: --([\w.]+).*|Subcommand '\w+' does not accept option '(.+?)'"
)
_REQUIRED: Final = re.compile(r"arguments are required: ((?:\w+\.)?(?:model|data)(?:, (?:\w+\.)?(?:model|data))*)$")
_NO_CLASS: Final = re.compile(r"Expected a dot import path string: (.+)|module '(.+)' has no attribute '(.+)'")
_NOT_GIVEN: Final = re.compile(r"(?i)the following arguments are required: (\w+(?:, \w+)*)")
_HELP_OF: Final = re.compile(r"--[\w.]+\.help: ")
_OTHER_KIND: Final = re.compile(
    r"Import path(?: (?P<path>\S+))? does not (?:correspond to a subclass of|implement protocol) (?P<kind>\w+)"
)
_EXAMPLES: Final = {  # a class that would do, of the keys that take one
    "model": "masa_lightning.MASALightningModule",
    "data": "masa_lightning.MathDataModule",
    "sampler": "masa_lightning.VLLMSampler",
    "grader": "masa_lightning.AnswerGrader",
    "callbacks": "masa_lightning.ExpertSFT",
    "logger": "lightning.pytorch.loggers.CSVLogger",
}
_OTHERS: Final = {  # what other libraries call a setting, or one would -> its key
    "lr": "model.optimization.optimizer.lr",
    "beta": "model.algorithm.kl_coef",
    "epsilon": "model.algorithm.clip_low",
    "epsilon_high": "model.algorithm.clip_high",
    "reward_funcs": "model.reward_functions",
    "model_name_or_path": "model.model",
    "dataset_name": "data.train",
    "seed": "seed_everything",
    "per_device_train_batch_size": "data.batch_size",
    "num_train_epochs": "trainer.max_epochs",
    "epochs": "trainer.max_epochs",
    "steps": "trainer.max_steps",
    "output_dir": "trainer.logger.save_dir",
}
_OF_CALLBACKS: Final = {  # what other libraries have as a setting, and is an argument of a callback here
    "sync_ref_model": "masa_lightning.ReferenceSync among trainer.callbacks",
    "ref_model_sync_steps": "every_n_steps of masa_lightning.ReferenceSync among trainer.callbacks",
    "ref_model_mixup_alpha": "mixup_alpha of masa_lightning.ReferenceSync among trainer.callbacks",
}
_CALLABLE: Final = re.compile(r"(?:- )?Type collections\.abc\.Callable\[.*\] expects a function or a callable class: ")
_OF_CALLABLE: Final = re.compile(r"\. Got value: (?:Namespace\(class_path=')?([\w.]+)")
_NO_MODULE: Final = re.compile(r"No module named '(.+?)'.*")
_GOT: Final = re.compile(r"\. Got value: .+$")
_GOT_ALL: Final = re.compile(r"\. Got value: Namespace\(.+$")
_ABSTRACT: Final = re.compile(r"Expected an instantiatable class, but ([\w.]+) is abstract")
_SEVERAL: Final = re.compile(
    r"Multiple subclasses with name (\w+)\. Give the full class path to avoid ambiguity: (.+)\."
)
_REFUSED: Final = "torch.optim.lr_scheduler.ReduceLROnPlateau"  # by `Optimization`: it does not say what it monitors
_CHOICES: Final = re.compile(r"typing\.Literal(\[.*?\])\. Got value: (\w+)$")
_TYPE: Final = re.compile(r"<class '(?:[\w.]+\.)?(\w+)'>|typing\.Literal(\[.*?\])")


def readable(message: str, options: Iterable[str] = (), folders: Sequence[Path] = ()) -> str:
    """Shortens a message of jsonargparse to a line a fault.

    Args:
        message: As `ArgumentParser.error` is given it.
        options: All that the command has, such as "--trainer.max_steps"; a near one is named for one that it has not.
        folders: Where the command was started, and where its configurations are; jsonargparse goes from one to the other.

    Returns:
        Lines like "model.num_generations: expected int, got abc", with keys as options are written; the message itself if
        nothing is recognised.
    """
    if match := _UNKNOWN_OPTION.fullmatch(message.strip()):
        option, known = match[1] or match[2], [name.lstrip("-") for name in options]
        if other := _OF_CALLBACKS.get(option):
            return f"there is no option {option!r}; expected {other}"
        if places := _places(option, known):
            return f"there is no option {option!r}; expected {' or '.join(places)}"
        return f"there is no option {option!r}{_meant(option, known)}"
    if match := _REQUIRED.search(message):
        missing = [key.rpartition(".")[2] for key in match[1].split(", ")]
        classes = " and ".join(f"--{key} {_EXAMPLES[key].rpartition('.')[2]}" for key in missing)
        return (
            f"{' and '.join(missing)}: nothing is given; expected a configuration, such as --config tiny, or {classes}"
        )
    given = _GIVEN.search(message)  # the first is that of the innermost key
    lines: list[str] = []
    types: list[str] = []  # the same of a type alone, which is one of several that would do
    keys: list[tuple[int, str]] = []  # (indentation, part of the key), from the outermost
    kinds: list[tuple[int, Any]] = []  # (indentation, class, or its path if there is none)
    for line in message.splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip()) + 2 * text.startswith("- ")
        if not text or _NOISE.match(text):
            continue
        named = _OF_CALLABLE.search(text)
        text = _GOT_ALL.sub("", text)
        keys = [entry for entry in keys if entry[0] < depth]
        kinds = [entry for entry in kinds if entry[0] < depth]
        if match := _CALLABLE.match(text):
            text = _GOT.sub("", text[match.end() :])
            if named:
                kinds.append((depth, imported(named[1]) or named[1]))
        if match := _KEY.match(text):
            keys.append((depth, match[1].replace("init_args.", "")))
            text = match[2] or ""
        elif match := _CLASS.match(text):
            kinds.append((depth, imported(match[1]) or match[1]))
            text = ""
        if text:
            key, alone = ".".join(part for _, part in keys), _TYPE_ALONE.search(text)
            said = ": ".join(filter(None, [key, _said(text, key, kinds, given[1] if given else None, folders)]))
            (types if alone else lines).append(said)
    return "\n".join(dict.fromkeys(lines or types)) or message


def with_old_names(said: str, model: Mapping[str, Any]) -> str:
    """Names all settings of earlier versions where jsonargparse stopped at the first.

    Args:
        said: Of `readable`.
        model: Arguments of the module, as configurations and options have them.
    """
    old = old_names(model)
    lines = {name: f"model: there is no setting {name!r} any more; expected {now}" for name, now in old.items()}
    if isinstance(algorithm := model.get("algorithm"), Mapping):
        given = algorithm.get("importance_sampling")
        if (now := translated_algorithm(algorithm).get("importance_sampling")) != given:
            key = "algorithm.importance_sampling"
            lines[key] = f"model.{key}: there is no {given!r} any more; expected {now}"
    stopped = any(f"'{name}" in said or f"'{name.rpartition('.')[2]}'" in said for name in old) or (
        " algorithm.importance_sampling: " in f" {said}".replace("model.", "")
    )
    return "\n".join(lines.values()) if stopped and len(lines) > 1 else said


def is_mistake(error: BaseException) -> bool:
    """Whether an error says all that its reader needs: this package raised it on purpose, or Lightning for a wrong setup."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = trace.tb_frame.f_code.co_filename
    raised = linecache.getline(file, trace.tb_lineno).lstrip().startswith("raise ")
    ours = raised and file.startswith(_PACKAGE)
    # Where Lightning reads the settings of a Trainer, and where its callbacks find what they monitor.
    places = ("/pytorch/trainer/connectors/", "/pytorch/callbacks/early_stopping.py")
    settings = raised and any(place in Path(file).as_posix() for place in places)
    return ours or settings or type(error).__name__ == "MisconfigurationException"


def stop(error: BaseException, status: int = 2) -> NoReturn:
    """Ends the command with what an error says.

    Raises:
        SystemExit: Always.
    """
    sys.stderr.write(f"error: {error}\n")
    if status == 1:
        sys.stderr.write("With --debug it is shown where this comes from.\n")
    raise SystemExit(status) from None


def _said(text: str, key: str, kinds: list[tuple[int, Any]], given: str | None, folders: Sequence[Path]) -> str:
    text = text.removeprefix("- ")
    kind = kinds[-1][1] if kinds else None
    example = f", such as {_EXAMPLES[last]}" if (last := key.rpartition(".")[2]) in _EXAMPLES else ""
    if isinstance(kind, str) and _of_this_package(kind) and "masa_lightning" in text:  # and no package is missing
        return f"there is no class {kind!r}; expected {_of_this_package(kind)}"
    if isinstance(kind, type) and (match := _OPTION.match(text)):
        name = match["one"] or match["word"] or f"{match['group']}.{match['part']}"
        first, last = name.partition(".")[0], name.rpartition(".")[2]
        if last == "class_path":
            return "beside class_path stands what is none of it; expected its settings under init_args"
        if (moved := MOVED.get(last) or MOVED.get(first) or GONE.get(first)) and _is_module(kind):
            return f"there is no setting {name!r} any more; expected {moved}"
        if name in _settings(kind):  # found with a + behind it
            return f"{name} takes its values at once and not with a +; expected --{key}.{name} [VALUE, VALUE]"
        if other := _OF_CALLBACKS.get(last):
            return f"{kind.__name__} has no setting {name!r}; expected {other}"
        own = [place.removeprefix("model.") for place in _places(name, ()) if place.startswith("model.")]
        own = [place for place in own if place != name]  # of another class
        if own and _is_module(kind):
            return f"{kind.__name__} has no setting {name!r}; expected {' or '.join(own)}"
        return f"{kind.__name__} has no setting {name!r}{_meant(name, _settings(kind), 'it has')}"
    if match := _NOT_GIVEN.fullmatch(text):
        missing = match[1].split(", ")
        return f"{' and '.join(missing)} is missing; expected it in YAML or as --{key}.{missing[0]} VALUE"
    if match := _NO_CLASS.fullmatch(_HELP_OF.sub("", text)):
        path = match[1] or f"{match[2]}.{match[3]}"
        if ours := _of_this_package(path):
            return f"there is no class {path!r}; expected {ours}"
        from lightning.pytorch import callbacks, loggers  # loaded long since, where jsonargparse has something to say

        there = vars(sys.modules[match[2]]) if match[2] in sys.modules else ()
        known = [*there, *masa_lightning.__all__, *callbacks.__all__, *loggers.__all__]
        meant = _meant(path.rpartition(".")[2], known) or f"; expected package.module.Class{example}"
        return f"there is no class {path!r}{meant}"
    if match := _SEVERAL.fullmatch(text):
        paths = [path for path in match[2].split(", ") if path != _REFUSED]
        return f"there are several classes {match[1]}; expected its path, {' or '.join(paths)}"
    if match := _NO_MODULE.fullmatch(text):
        return _no_module(match[1], kind if isinstance(kind, str) else given or "", folders)
    if (match := _OTHER_KIND.fullmatch(text)) and (path := match["path"] or given):
        if other := _other_signatures(path, match["kind"]):
            return f"{path} is not written as a {match['kind']} is; expected these names and annotations: {other}"
        if lacking := _lacking(path, match["kind"]):
            return f"{path} is no {match['kind']}, as it has no {' and no '.join(lacking)}; expected all of its methods"
        return f"{path} is no {match['kind']}; expected one{example}"
    if text.endswith("masa_lightning.protocols.Sampler is a protocol"):
        return "of which class? Expected it first: --model.sampler VLLMSampler, or in a YAML class_path with init_args"
    if text.endswith("to be a class that instantiates into callable or a subclass of typing.Any."):
        return (
            "settings of which function? Expected each in a list, one with settings by its class: "
            f"--{key} '[package.function, {{class_path: package.Class, init_args: {{NAME: VALUE}}}}]'"
        )
    got = f", got {given}" if given and _TYPE_ALONE.match(text) else ""
    if (match := _ABSTRACT.search(text)) and _of_this_package(match[1]):
        return (
            f"{match[1]} is the base of what this takes; expected its classes in a list: "
            f"--{key} '[package.Class, {{class_path: package.Class, init_args: {{NAME: VALUE}}}}]'"
        )
    if match:
        lacking = sorted(getattr(imported(match[1]), "__abstractmethods__", ()))
        return f"{match[1]} lacks {' and '.join(lacking) or 'methods'}; expected a class with all methods of its base"
    if match := _CHOICES.search(text):
        choices = re.findall(r"'(\w+)'", match[1])
        longer = [choice for choice in choices if choice.startswith(match[2])][:1]
        got += f"; did you mean {longer[0]}?" if longer else _meant(match[2], choices)
    text = _TYPE.sub(lambda match: match[1] or f"one of {match[2]}", text)
    return text.replace("Expected a ", "expected ").replace(". Got value: ", ", got ") + got


def _no_module(name: str, path: str, folders: Sequence[Path]) -> str:
    """Says where a module was looked for.

    Args:
        name: Of the module.
        path: Of the class, as it was given.
        folders: As of `readable`.
    """
    parent, _, last = name.rpartition(".")
    said = f"there is no module {name!r}"
    if path.rpartition(".")[0] and not f"{path}.".startswith(f"{name}.") and name.isidentifier():
        return f"{said}, which {path.rpartition('.')[0]} imports; expected it to be installed"
    if parent:
        spec = find_spec(parent)
        places = list(spec.submodule_search_locations or ()) if spec else []
        return said + _meant(last, [module.name for module in pkgutil.iter_modules(places)], f"{parent} has")
    here, *others = folders or [Path.cwd()]
    looked = {(here / folder).resolve() for folder in sys.path}
    beside = [folder for folder in others if folder.resolve() not in looked and (folder / f"{name}.py").is_file()]
    if beside:
        remedy = f"start masa in {beside[0]}, or set PYTHONPATH={beside[0]}"
        return f"{said} in the current folder {here} or installed; {beside[0] / name}.py is not looked at: {remedy}"
    known = [module.name for module in pkgutil.iter_modules([*sys.path, *map(str, folders)])]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
    meant = f"; did you mean {close[0]}?" if close and close[0] != name else ""
    if here.resolve() in looked:
        said += f" in the current folder {here} or installed"
        expected = f"; expected {name}.py in the folder that masa is started in, or PYTHONPATH=FOLDER"
        if path.count(".") > 1:  # a package
            expected = f"; expected it to be installed, or a folder {name} in the one that masa is started in"
        return said + (meant or expected)
    said += f" installed, and the current folder {here} is looked at only with a configuration of your own"
    return f"{said}{meant or '.'} Expected --config FILE with it, or PYTHONPATH={here}"


def _other_signatures(path: str, protocol: str) -> str:
    """The methods of a protocol that a class or function has otherwise; jsonargparse compares annotations too."""
    from masa_lightning import protocols  # here, for it imports torch

    kind, found = getattr(protocols, protocol, None), imported(path)
    if kind is None or not callable(found):
        return ""
    methods = methods_of(kind)
    if not inspect.isclass(found):
        own, first = {"__call__": found}, "self, "
    else:
        own, first = {n: getattr(found, n) for n in methods if inspect.isfunction(getattr(found, n, None))}, ""
    if methods.keys() - own.keys():  # it has not all of them
        return ""
    name = getattr(found, "__name__", "")
    return " and ".join(
        f"def {name if first else method}{_signature(of).replace(first, '', 1)}"
        for method, of in methods.items()
        if _signature(own[method]) != _signature(of).replace(first, "", 1)
    )


def _lacking(path: str, protocol: str) -> list[str]:
    """Methods of a protocol that a class has not, if it has most of them."""
    from masa_lightning import protocols

    kind, found = getattr(protocols, protocol, None), imported(path)
    names = [] if kind is None else [*methods_of(kind)]
    lacking = [name for name in names if not hasattr(found, name)]
    return lacking if inspect.isclass(found) and 2 * len(lacking) <= len(names) else []


def _signature(function: Callable[..., Any]) -> str:
    return re.sub(
        r"['\"]|\b(?:\w+\.)+(?=\w)", "", str(inspect.signature(function))
    )  # as it is written, without modules


def _meant(word: str, known: Sequence[str], otherwise: str | None = None) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    if otherwise and not known:  # as Lightning's own classes, of which the user's is one
        return "; expected its class first, by class_path"
    return f"; {otherwise} {', '.join(known)}" if otherwise else ""


def _settings(kind: type) -> list[str]:
    """Returns the names of a class's arguments, and those of arguments that are groups of settings themselves."""
    from masa_lightning.modules.hyperparameters import alternatives, annotations_of  # torch, which a help does without

    names, annotations = [], annotations_of(kind)
    for name in parameters(kind):
        names.append(name)
        for group in filter(is_dataclass, alternatives(annotations.get(name))):
            names += [f"{name}.{field.name}" for field in fields(group)]
    return names


def _places(word: str, options: Sequence[str]) -> list[str]:
    """The keys of the settings that are called by a word, here or elsewhere; none of a word with points."""
    if other := _OTHERS.get(word):
        return [other]
    if moved := MOVED.get(word):
        return [f"model.{moved}"]
    kinds = {"model": masa_lightning.MASALightningModule, "data": masa_lightning.MathDataModule}
    known = [*options, *(f"{part}.{name}" for part, kind in kinds.items() for name in _settings(kind))]
    return [key for key in known if "." in key and key.rpartition(".")[2] == word]


def _is_module(kind: type) -> bool:
    ours = ("masa_lightning.modules.", "masa_lightning.settings")  # groups of its settings too
    return any(base.__module__.startswith(ours) for base in kind.__mro__)


def _of_this_package(path: str) -> str | None:
    """Returns the public path of a class of this package, given its name alone or a path: files move with versions."""
    package, name = path.partition(".")[0], path.rpartition(".")[2]
    ours = package in ("masa_lightning", name) and name in masa_lightning.__all__
    return f"masa_lightning.{name}" if ours else None


def imported(path: str) -> Any:
    """What a dotted path names; None if there is no such thing."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
