"""Settings of earlier versions, and where they are now: for what a YAML has, and for what a checkpoint holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from masa_lightning.checks import parameters

_OPTIMIZATION: Final = (
    "num_iterations",
    "num_mini_batches",
    "max_tokens_per_micro_batch",
    "max_grad_norm",
    "max_skipped_steps",
)
_META: Final = (
    "pass_rate_scale",
    "difficulty_scoring",
    "difficulty_base",
    "notion_counting",
    "min_expert_reward",
)
MOVED: Final = {
    "learning_rate": "optimization.optimizer.lr",
    "weight_decay": "optimization.optimizer.weight_decay",
    "warmup_steps": "optimization.lr_scheduler.num_warmup_steps",
    **{name: f"optimization.{name}" for name in _OPTIMIZATION},
    "importance_sampling_cap": "algorithm.importance_sampling_clip_max",
    "meta_reward_weights": "meta.reward_weights",
    "meta_weight": "meta.loss_weight",
    "solution_weight": "meta.solution_loss_weight",
    **{name: f"meta.{name}" for name in _META},
}
"""Arguments of modules by their old names -> the keys that they have now."""

GONE: Final = {
    "inference": "evaluation.solve, evaluation.compare, and for the controls callbacks of the Trainer: PredictiveGating, "
    "EarlyCutoff, NotionHinting, SampleAllocation (configs/predict.yaml)",
}
"""Arguments of modules that are no more, and what there is in their place."""

_METHODS: Final = {
    "messages": "chats(), which gives a function of a group by kind of rollout",
    "prompt_ids": "chats(), which gives a function of a group by kind of rollout",
    "completion_limit": "the attribute completion_limits, a dictionary by kind of rollout",
}
"""Methods of modules that nobody calls any more, and what there is in their place."""

_CLASSES: Final = {"optimizer": "masa_lightning.AdamW", "lr_scheduler": "masa_lightning.ConstantWithWarmup"}


_GROUPS: Final = ("algorithm", "evaluation", "meta", "optimization", "sampling")


def translated(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a module as they are called now, without those that are no more.

    Args:
        settings: As plain values (`plain.plain`); of this version or an earlier one.

    >>> translated({"model": "tiny", "max_grad_norm": None, "learning_rate": 1e-5})["optimization"]["max_grad_norm"]
    """
    found = {name: value for name, value in settings.items() if name not in MOVED and name not in GONE}
    for name in MOVED.keys() & settings.keys():
        group, *between, last = MOVED[name].split(".")
        into = found.setdefault(group, {})
        for part in between:
            into = into.setdefault(part, {"class_path": _CLASSES[part], "init_args": {}})["init_args"]
        into[last] = settings[name]
    if isinstance(algorithm := found.get("algorithm"), Mapping):
        found["algorithm"] = translated_algorithm(algorithm)
    return found


def translated_algorithm(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of `Algorithm` as they are called now: corrections were only truncated, and so had no mode in their names.

    >>> translated_algorithm({"importance_sampling": "token", "importance_sampling_cap": 2.0})
    {'importance_sampling': 'token_truncate', 'importance_sampling_clip_max': 2.0}
    """
    found = {"importance_sampling_clip_max" if n == "importance_sampling_cap" else n: v for n, v in settings.items()}
    if found.get("importance_sampling") in ("token", "sequence"):
        found["importance_sampling"] += "_truncate"
    return found


def old_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """All that a module's arguments have of earlier versions, as a configuration writes it, and what is expected now.

    >>> old_names({"meta_reward_weights": {"length": 0}, "algorithm": {"warmup_steps": 3}, "seed": 1})
    {'meta_reward_weights': 'meta.reward_weights', 'algorithm.warmup_steps': 'optimization.lr_scheduler.num_warmup_steps'}
    """
    now = MOVED | GONE
    found = {name: now[name] for name in settings if name in now}
    for group, values in settings.items():
        if group in _GROUPS and isinstance(values, Mapping):
            old = {f"{group}.{name}": MOVED[name] for name in values if name in MOVED}
            found |= {name: place for name, place in old.items() if name != place}
    return found


def check_names(kind: type, given: Iterable[str], taken: Iterable[str]) -> None:
    """Refuses arguments that no class takes to which they are passed on, by the name of the one that was called.

    Args:
        kind: Of the module that is made.
        given: Names that are passed on.
        taken: Those that the class above takes.

    Raises:
        TypeError: If one is not among these.
    """
    for name in set(given) - set(taken):
        if now := MOVED.get(name) or GONE.get(name):
            raise TypeError(f"{kind.__name__} has no argument {name!r} any more; expected {now}")
        close = difflib.get_close_matches(name, parameters(kind), n=1)
        meant = f"; did you mean {close[0]!r}?" if close else f"; expected of {', '.join(parameters(kind))}"
        raise TypeError(f"{kind.__name__} has no argument {name!r}{meant}")


def check_methods(kind: type) -> None:
    """Refuses a module that overrides what nobody calls any more.

    Raises:
        TypeError: If it has one of these methods.
    """
    for name, now in _METHODS.items():
        if callable(getattr(kind, name, None)):
            raise TypeError(f"{kind.__name__} overrides {name}(), which is not called any more; expected {now}")


def phrases(names: Iterable[str]) -> str:
    """Says where settings are now: ``learning_rate is optimization.optimizer.lr``."""
    return ", ".join(f"{name} is {MOVED[name]}" for name in names)
