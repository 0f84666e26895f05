"""Settings that were changed before a run is resumed: all of them hold from there on, and none in silence."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from masa_lightning.modules.moved import MOVED, translated_algorithm
from masa_lightning.modules.provenance import described, module_settings
from masa_lightning.quantities import SETTINGS

if TYPE_CHECKING:
    from masa_lightning.modules.grpo import GRPOLightningModule
    from masa_lightning.modules.provenance import Provenance

_OF_THE_MODEL = (
    "The weights are those of the checkpoint, but tokenizer, stop tokens and the reference of a KL term are those of the "
    "new model."
)

_NO_SETTINGS = {
    "lr",
    "initial_lr",
    "fused",
    "foreach",
}  # of an optimiser's group: its rate is seen to apart, and kernels


def changed_settings(module: GRPOLightningModule, recorded: Provenance) -> list[str]:
    """What module, datamodule and callbacks were made with, where it is not what the checkpoint's were made with.

    Args:
        module: In a trainer.
        recorded: Of the checkpoint's run.

    Returns:
        A phrase each: ``optimization.optimizer.lr was 1e-06, is 1e-05``. Names that only one of the two has are left out.
    """
    trainer: Any = module.trainer
    phrases = list(_differences("", _as_now(recorded["module"]), module_settings(module, arguments_only=True)))
    # An argument of a quantity is told once, by the setting that it is of.
    twins = tuple(
        f"quantities.{kind.name}.{argument} "
        for name, (kind, argument) in SETTINGS.items()
        if any(phrase.startswith(f"meta.{name} ") for phrase in phrases)
    )
    phrases = [phrase for phrase in phrases if not phrase.startswith(twins)]
    data = getattr(trainer, "datamodule", None)
    data = None if data is None else described(data, arguments_only=True)
    if data is not None and recorded["data"] is not None:
        phrases += _differences("data.", recorded["data"], data)
    before = {each["class"]: each for each in recorded["callbacks"]}
    for now in (described(callback, arguments_only=True) for callback in trainer.callbacks):
        if now["class"] in before:
            phrases += _differences(f"{now['class']}.", before[now["class"]], now)
    phrases += _differences("precision.", recorded["precision"], str(trainer.precision))
    if _size(data, trainer.world_size) != _size(recorded["data"], recorded["processes"]):
        return [*phrases, *_differences("processes.", recorded["processes"], trainer.world_size)]
    return [phrase for phrase in phrases if not phrase.startswith(("data.batch_size ", "data.val_batch_size "))]


def _as_now(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of an earlier version's module, but for the learning rate and the like, of which the optimiser tells."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in recorded.items():
        group, _, setting = MOVED.get(name, "").partition(".")
        if setting and "." not in setting:
            groups.setdefault(group, {})[setting] = value
    found = {**groups, **recorded}
    if isinstance(algorithm := found.get("algorithm"), Mapping):
        found["algorithm"] = translated_algorithm(algorithm)
    return found


def _size(data: Mapping[str, Any] | None, processes: int) -> Any:
    """Problems a training step: what counts of batch size and number of processes."""
    return None if data is None or "batch_size" not in data else data["batch_size"] * processes


def message(changes: Sequence[str], steps: int) -> str:
    """What the user is told about them."""
    text = (
        f"resumed after training step {steps} with other settings than the checkpoint's run had: {'; '.join(changes)}. "
        "The new ones hold from here on; with the old ones the run would go on as if it had not been interrupted."
    )
    return f"{text} {_OF_THE_MODEL}" if any(change.startswith("model ") for change in changes) else text


def _differences(name: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        if then.get("class") != now.get("class"):
            yield f"{name.removesuffix('.') or 'the module'} was {then.get('class')}, is {now.get('class')}"
            return
        for key in now:
            if key in then:
                yield from _differences(f"{name}{key.removesuffix('_name')}.", then[key], now[key])
    elif isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        for index, pair in enumerate(zip(then, now, strict=True)):
            yield from _differences(f"{name}{index}.", *pair)
    elif then != now and not (name == "model." and Path(then).name == Path(now).name):  # a folder that was moved
        yield f"{name.removesuffix('.')} was {then!r}, is {now!r}"


class OptimizerSettings:
    """What `configure_optimizers` made: learning rate, weight decay, and the constants of schedules.

    A checkpoint restores them with the optimiser's state, over those of the resumed run. Where the new settings
    differ from those that the checkpoint's run was started with, `hold` puts the new ones into effect. What changed in the
    course of that run, such as a rate that a schedule lowered, keeps its proportion.

    Args:
        optimizers: As `configure_optimizers` made them.
        schedules: As `configure_optimizers` made them.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> None:
        self.groups = [[_constants(group, group) for group in o.param_groups] for o in optimizers]
        self.schedules = [_constants(vars(s), _arguments(s)) for s in _all(schedules)]

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"groups": self.groups, "schedules": self.schedules}

    def hold(self, then: Mapping[str, Any], optimizers: Sequence[Optimizer], schedules: Sequence[Any]) -> list[str]:
        """Puts settings that differ from those in `then` into effect, in place.

        Args:
            then: `state_dict` of the checkpoint's run.
            optimizers: With the state of the checkpoint.
            schedules: With the state of the checkpoint.

        Returns:
            A phrase for each difference: ``lr was 1e-06, is 1e-05``.
        """
        phrases: dict[str, None] = {}
        for optimizer, before, now in zip(optimizers, then["groups"], self.groups, strict=False):
            own = [schedule for schedule in _all(schedules) if schedule.optimizer is optimizer]
            for index, (group, old, new) in enumerate(zip(optimizer.param_groups, before, now, strict=False)):
                for name in sorted((new.keys() & old.keys()) - _NO_SETTINGS):
                    if new[name] != old[name]:
                        group[name] = new[name]
                        phrases[f"{name} was {old[name]}, is {new[name]}"] = None
                old_rate, new_rate = (each.get("initial_lr", each["lr"]) for each in (old, new))
                if old_rate != new_rate:
                    scaled = old_rate and group["lr"] != old_rate
                    group["lr"] = group["lr"] * new_rate / old_rate if scaled else new_rate
                    if "initial_lr" in group:
                        group["initial_lr"] = new_rate
                    for schedule in own:
                        if index < len(getattr(schedule, "base_lrs", [])):
                            schedule.base_lrs[index] = new_rate
                    phrases[f"lr was {old_rate}, is {new_rate}"] = None
            for schedule in own:
                schedule._last_lr = [group["lr"] for group in optimizer.param_groups]
        for schedule, old, new in zip(_all(schedules), then["schedules"], self.schedules, strict=False):
            for name in sorted(new.keys() & old.keys()):
                if new[name] != old[name]:
                    setattr(schedule, name, new[name])
                    phrases[f"{type(schedule).__name__}.{name} was {old[name]}, is {new[name]}"] = None
        return list(phrases)


def _all(schedules: Sequence[Any]) -> list[Any]:
    """Schedules, and those that they are made of."""
    return [s for schedule in schedules for s in (schedule, *getattr(schedule, "_schedulers", []))]


def _arguments(schedule: Any) -> list[str]:
    return [name for name in inspect.signature(type(schedule).__init__).parameters if name != "last_epoch"]


def _constants(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    found = {name: values[name] for name in names if name in values and name != "params"}
    return {name: value for name, value in found.items() if all(map(_is_plain, _items(value)))}


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else [value]


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in (bool, int, float, str)
