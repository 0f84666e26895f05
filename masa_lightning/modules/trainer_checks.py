"""Checks of a Trainer: wrong callbacks, settings that are the module's own, processes that do not fit."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import Optimizer

from masa_lightning.rollouts.measurement import Measurement

if TYPE_CHECKING:
    from masa_lightning.modules.grpo import GRPOLightningModule


def check_trainer(trainer: Trainer) -> None:
    """Checks callbacks, processes, validation and gradients of a trainer, before anything runs.

    Raises:
        TypeError: As `check_callbacks`.
        ValueError: As `check_callbacks`, `check_processes`, `check_validation` and `check_gradients`.
    """
    check_callbacks(trainer)
    check_processes(trainer)
    check_validation(trainer)
    check_gradients(trainer)


def check_callbacks(trainer: Trainer) -> None:
    """Checks the callbacks of a trainer before anything runs.

    Raises:
        TypeError: If one is no callback, such as a class where an instance is wanted, or a control without all methods.
        ValueError: If two `ModelCheckpoint`s write the same files, or weights are to be averaged that are sharded.
    """
    callbacks: list[Any] = [*getattr(trainer, "callbacks", [])]
    if not all(isinstance(callback, Callback) for callback in callbacks):
        # Lightning tells callbacks of an error, and would fail at these, with an error about that.
        trainer.callbacks[:] = [c for c in callbacks if isinstance(c, Callback)]  # type: ignore[attr-defined]
    for index, callback in enumerate(callbacks):
        if isinstance(callback, type):
            raise TypeError(
                f"callbacks[{index}] of the Trainer is the class {callback.__name__}; expected one made of it: "
                f"{callback.__name__}()"
            )
        if (missing := _missing_of_control(callback)) and isinstance(callback, Callback):
            raise TypeError(
                f"callbacks[{index}] of the Trainer, {type(callback).__name__}, decides on rollouts and has no {missing}, "
                "so that nobody would ask it; expected all methods of masa_lightning.protocols.RolloutControl"
            )
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks[{index}] of the Trainer is {_short(callback)}, which is no callback; expected an object of a "
                f"lightning.pytorch.Callback, such as masa_lightning.RolloutTable(){_where_it_belongs(callback)}"
            )
    if trainer.state.fn != TrainerFn.FITTING:
        return
    averages = [c for c in callbacks if isinstance(c, WeightAveraging)]
    if averages and isinstance(trainer.strategy, ModelParallelStrategy):
        raise ValueError(
            f"{type(averages[0]).__name__} makes the model before ModelParallelStrategy can shard it, so that each process "
            "would train alone; expected strategy ddp or one process, or a run without this callback"
        )
    written: dict[tuple[str, str], int] = {}
    for saver in (c for c in callbacks if isinstance(c, ModelCheckpoint)):
        files = [saver.filename or "{epoch}-{step}"] if saver.save_top_k else []
        files += [saver.CHECKPOINT_NAME_LAST] if saver.save_last else []
        for file in files:
            written[str(saver.dirpath), file] = written.get((str(saver.dirpath), file), 0) + 1
    for (folder, file), count in written.items():
        if count > 1:
            where = "the run's folder of checkpoints" if folder == "None" else folder
            raise ValueError(
                f"{count} ModelCheckpoints write {file}.ckpt in {where}, where one would remove or rename the other's; "
                "expected a filename, or a dirpath, of its own for each, and save_last for one alone"
            )


def check_gradients(trainer: Trainer) -> None:
    """Checks that a trainer neither clips nor accumulates gradients, which the module does itself.

    Raises:
        ValueError: If it does.
    """
    if trainer.state.fn != TrainerFn.FITTING:
        return
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    schedules = [c.scheduling for c in callbacks if isinstance(c, GradientAccumulationScheduler)]
    accumulated = max([trainer.accumulate_grad_batches, *(most for each in schedules for most in each.values())])
    if trainer.gradient_clip_val is not None:
        raise ValueError(
            f"gradient_clip_val of the Trainer is {trainer.gradient_clip_val}; the module takes its optimiser steps itself: "
            f"expected max_grad_norm={trainer.gradient_clip_val} of the module's optimization "
            "(model.optimization.max_grad_norm), and none of the Trainer"
        )
    if accumulated > 1:
        raise ValueError(
            f"the Trainer is to accumulate gradients over {accumulated} batches; the module takes its "
            "optimiser steps itself, one for each of num_mini_batches of a batch: expected a larger batch_size of the data, "
            "and for memory a smaller max_tokens_per_micro_batch of the module, which leaves the gradient as it is"
        )


def check_validation(trainer: Trainer) -> None:
    """Checks how often a trainer validates.

    Raises:
        ValueError: If that is no number of steps: Lightning would divide by it after the first one.
    """
    interval: Any = trainer.val_check_interval
    if trainer.state.fn == TrainerFn.FITTING and isinstance(interval, int | float) and interval <= 0:
        raise ValueError(
            f"val_check_interval of the Trainer is {interval}; expected >= 1 training steps between validations, or a share "
            "of an epoch in (0, 1]; without validation: limit_val_batches=0"
        )


def check_monitors(trainer: Trainer, module: GRPOLightningModule) -> None:
    """Checks that callbacks monitor metrics that a validation logs: Lightning finds out when a run has cost much.

    Nothing is said where a class of the user's own may log it, nor of other names that begin with ``val/``.

    Args:
        trainer: Before it trains.
        module: The one that is trained.

    Raises:
        ValueError: If one monitors another name.
    """
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    if any(
        type(each).__module__.partition(".")[0] not in ("masa_lightning", "lightning") for each in (module, *callbacks)
    ):
        return
    for callback in callbacks:
        monitor = callback.monitor if isinstance(callback, (EarlyStopping, ModelCheckpoint)) else None
        if monitor is not None and monitor.startswith("val") and not monitor.startswith("val/"):
            found = Measurement(module.evaluation_metrics()).compute()
            # But the ends of intervals, spreads, and what is not there of no rollouts.
            names = [f"val/{name}" for name in found if not name.endswith(("_low", "_high", "_std"))]
            near = difflib.get_close_matches(monitor, names, n=1)
            raise ValueError(
                f"{type(callback).__name__} monitors {monitor!r}, which no validation logs; expected one of its metrics"
                f"{f', perhaps {near[0]}' if near else ''}. Among them are {', '.join(names)}; docs/metrics.md has all"
            )


def check_strategy(trainer: Trainer) -> None:
    """Checks that the strategy keeps weights in a form that an engine can be given.

    Raises:
        ValueError: If it does not.
    """
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
        check_strategy_name(type(trainer.strategy).__name__)


def check_strategy_name(name: str) -> None:
    """Checks the strategy by its name, before Lightning advises to install one that would not work.

    Args:
        name: As the Trainer takes it, or the path of its class.

    Raises:
        ValueError: If it is one that cannot be used.
    """
    last = name.rpartition(".")[2]
    if last.lower().startswith(("fsdp", "deepspeed")):
        raise ValueError(
            f"the strategy is {last}, from whose flattened weights the sampler cannot be served; expected one process, DDP "
            "(--trainer.strategy ddp), or ModelParallelStrategy (FSDP2), which shards weights, gradients and optimiser as "
            "they do: configs/masa.yaml"
        )


def check_optimizers(optimizers: Sequence[Optimizer], parameters: Iterable[Tensor]) -> None:
    """Checks that the optimisers of `configure_optimizers` have any of the weights that are trained.

    Raises:
        ValueError: If they have none.
    """
    trained = {id(p) for p in parameters if p.requires_grad}
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    if not trained & held:
        raise ValueError(
            "configure_optimizers gave no optimiser of the policy's weights, so nothing would be trained; expected one of "
            "self.parameters(), or of some of them"
        )


def check_batches(counts: Sequence[Sequence[int | float]]) -> None:
    """Checks that all processes have as many batches of an evaluation: else some would wait for ever for the others.

    Args:
        counts: Of each process, of each of its loaders.

    Raises:
        ValueError: If they have not.
    """
    if any(count != counts[0] for count in counts):
        raise ValueError(
            f"processes have different numbers of batches, {counts}; expected equal ones: use a datamodule of this package, "
            "or a loader that deals problems out evenly"
        )


def check_processes(trainer: Trainer) -> None:
    """Checks that `ModelParallelStrategy` spreads the policy over just the processes that there are.

    Raises:
        ValueError: If it does not: Lightning's error would give no remedy.
    """
    strategy = trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy):
        return
    there = trainer.num_nodes * trainer.num_devices
    spread, split = strategy._data_parallel_size, strategy._tensor_parallel_size
    spread, split = trainer.num_nodes if spread == "auto" else spread, trainer.num_devices if split == "auto" else split
    if (spread, split) != (there, 1):
        raise ValueError(
            f"ModelParallelStrategy has data_parallel_size={spread} and tensor_parallel_size={split}, and the Trainer has "
            f"{there} processes (devices x num_nodes); expected data_parallel_size={there} and tensor_parallel_size=1: "
            f"--trainer.strategy.data_parallel_size {there} --trainer.strategy.tensor_parallel_size 1"
        )


def _missing_of_control(callback: object) -> str:
    """The methods that a control lacks; nothing of a callback that is none. By class, as some objects have any name."""
    names = ("acts", "decide", "settle", "metrics")
    there = [name for name in names if hasattr(type(callback), name)]
    return ", ".join(n for n in names if n not in there) if {"acts", "decide"} <= {*there} else ""


def _short(thing: Any) -> str:
    text = repr(thing) if isinstance(thing, (str, dict, list, tuple, type(None))) else f"a {type(thing).__name__}"
    return text if len(text) < 80 else f"{text[:80]}..."


def _where_it_belongs(thing: Any) -> str:
    if hasattr(thing, "generate") and hasattr(thing, "sync_weights"):
        return "; a sampler is an argument of the module"
    if hasattr(thing, "grade"):
        return "; a grader is an argument of the module"
    if isinstance(thing, (list, tuple)):
        return ", without a list in the list"
    return ""
