"""Resuming: where a checkpoint was written, and how Lightning's loops go on from there as if nothing had happened.

Lightning 2.6 restores the counters of its loops as they stood, and guesses from them what was done and what was not. It
guesses wrong for a run that stopped inside an epoch (the epoch counts as done), for a validation that was interrupted or
not begun (it counts as done), and for its count of logged steps after a second interruption. So nothing is left to guess:
`ResumePoint.of` sets the counters to those of a whole number of training steps before Lightning reads them, and
`ResumePoint.reach`, called when training starts, does what of the last step was still to come: its validation and the
end of its epoch, by the loops' own methods and so with all hooks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from masa_lightning.modules.resumed_settings import OptimizerSettings, changed_settings, message

if TYPE_CHECKING:
    from masa_lightning.modules.grpo import GRPOLightningModule
    from masa_lightning.modules.run_state import RunState

FORMAT = 2
"""Version of the entry in checkpoints; in those without a number, steps are optimiser steps."""

_COUNTS = ("ready", "started", "processed", "completed")  # of an epoch or a batch, in the order they are raised


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A point in training, after a whole number of training steps.

    Args:
        steps: Training steps taken.
        unfinished: Whether validation and the end of the epoch, where they are due, may still have to come.
        validated: Whether the validation after these steps was done.
    """

    steps: int
    unfinished: bool
    validated: bool

    @classmethod
    def of(cls, fit_loop: dict[str, Any], steps: int, *, validated: bool, max_steps: int) -> ResumePoint:
        """Sets the saved state of the fit loop to what it is between two steps, in place, and says where that is.

        Args:
            fit_loop: ``checkpoint["loops"]["fit_loop"]``, from any hook.
            steps: Training steps taken, whole ones.
            validated: Whether the validation after these steps was done.
            max_steps: Of the trainer that resumes.
        """
        epoch, batch = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
        done = batch["current"]["processed"]  # batches of the epoch that was the last to begin
        in_step = batch["current"]["ready"] > done
        last = batch["is_last_batch"] and not in_step
        inside = epoch["current"]["started"] > epoch["current"]["processed"]
        cut = not inside and done > 0 and not last  # a stop inside the epoch, which Lightning counts as its end
        goes_on = (inside or cut) and done > 0
        for part in ("current", "total"):
            ended = epoch[part]["processed"] - cut
            epoch[part] |= dict.fromkeys(_COUNTS, ended)
            if goes_on:
                epoch[part] |= {"ready": ended + 1, "started": ended + 1}
        batch["current"] |= dict.fromkeys(_COUNTS, done if goes_on else 0)
        batch["total"] |= dict.fromkeys(_COUNTS, batch["total"]["processed"])
        batch["is_last_batch"] = goes_on and last
        validation = fit_loop["epoch_loop.val_loop.batch_progress"]
        for part in ("current", "total"):
            validation[part] |= dict.fromkeys(_COUNTS, 0)
        unfinished = inside and done > 0
        # A trainer that has taken its steps ends before any hook is called; `reach` puts the number right.
        counted = steps - (unfinished and 0 <= max_steps <= steps)
        for tracker in fit_loop["epoch_loop.manual_optimization.optim_step_progress"].values():
            tracker |= {"ready": counted, "completed": counted}
        return cls(steps, unfinished, validated)

    def reach(self, trainer: Trainer) -> None:
        """Brings the loops to this point, with what is still to come of the last step; for ``on_train_start``."""
        fit: Any = trainer.fit_loop
        epoch, fetcher = fit.epoch_loop, fit._data_fetcher
        counted = epoch.manual_optimization.optim_step_progress
        for tracker in (counted.total, counted.current):
            tracker.ready = tracker.completed = self.steps
        self._place_loaders(fit)
        epoch.restarting = False
        epoch._batches_that_stepped = self.steps
        if self.unfinished:
            epoch._batches_that_stepped -= 1  # what comes now belongs to the last step
            epoch._skip_next_val = self.validated
            epoch.on_advance_end(fetcher)
            if epoch.done:
                fit.on_advance_end()
                fit.on_iteration_done()
                return
        if epoch.batch_progress.current.ready:  # the epoch goes on: `restarting` keeps its batches counted
            epoch.restarting = True
            # Where validation is due here, the loop will find it done and pass by, and count a step once more.
            epoch._batches_that_stepped -= epoch._should_check_val_fx(fetcher)

    @staticmethod
    def _place_loaders(fit: Any) -> None:
        """Restores the position of a `ProblemLoader` where Lightning does not: after a whole number of epochs."""
        loaders, states = fit._combined_loader.flattened, fit._combined_loader_states_to_load
        if states and all(hasattr(loader, "problems") for loader in loaders):
            fit._combined_loader._load_state_dicts(states)
            fit._combined_loader_states_to_load = []


class Resumption:
    """What a module needs to go on from a checkpoint of its own as if nothing had happened, beside weights and metrics."""

    def __init__(self) -> None:
        self.steps = 0
        """Whole training steps so far, as the trainer counts them."""
        self.updating = False
        """Whether optimiser steps of a training step that is not whole yet may have been taken."""
        self._point: ResumePoint | None = None
        self._rng_state: Tensor | None = None
        self._explained: list[str] = []  # changes that the user was told
        self._optimizers: OptimizerSettings | None = None
        self._optimizers_then: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint; also one that is written before the one it was loaded from took effect."""
        return {
            "format": FORMAT,
            "steps": self.steps,
            "updating": self.updating,
            "rng_state": torch.get_rng_state() if self._rng_state is None else self._rng_state,
            "optimizer_settings": None if self._optimizers is None else self._optimizers.state_dict(),
        }

    def load(self, module: GRPOLightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores what a resumed run needs; nothing where no training is resumed. For ``on_load_checkpoint``.

        Args:
            module: The one whose checkpoint it is.
            checkpoint: Lightning's; its loops are set to a whole number of steps.

        Raises:
            ValueError: If training cannot be resumed from the checkpoint.
        """
        state, trainer = checkpoint["masa"], getattr(module, "_trainer", None)
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        if (found := state.get("format", 1)) != FORMAT:
            raise ValueError(
                f"the checkpoint is of format {found}, of another version of masa_lightning; expected {FORMAT}, in which "
                "max_steps, checkpoints and logs count training steps. Go on with the version that wrote it, or start a "
                "new run from its weights: masa export CHECKPOINT FOLDER, then model: FOLDER"
            )
        if "loops" not in checkpoint or "lr_schedulers" not in checkpoint:  # optimisers may be in shards of their own
            raise ValueError(
                "the checkpoint holds weights alone, as ModelCheckpoint writes with save_weights_only; expected one with "
                "optimisers and loops, to go on from. Start a new run from its weights: masa export CHECKPOINT FOLDER, then "
                "model: FOLDER"
            )
        _check_base(module, state)
        if state["updating"]:
            rank_zero_warn(
                f"the checkpoint was written inside training step {state['steps'] + 1}, in the middle of its update: the "
                "step is taken again, from weights that a part of it has already changed. To go on exactly, resume from "
                "an earlier checkpoint"
            )
        self._explained = changed_settings(module, state["run"])
        if self._explained:
            rank_zero_warn(message(self._explained, state["steps"]))
        self.steps, self._rng_state = state["steps"], state["rng_state"]
        self._optimizers_then = state["optimizer_settings"]
        validation = state["run"]["validation"] or {}
        self._point = ResumePoint.of(
            checkpoint["loops"]["fit_loop"],
            self.steps,
            validated=validation.get("rollout_steps") == state["rollout_steps"],
            max_steps=trainer.max_steps,
        )

    def prepare(self, trainer: Trainer) -> None:
        """Notes the optimisers' settings before a checkpoint changes them; for ``on_fit_start``."""
        self._optimizers = OptimizerSettings(trainer.optimizers, [c.scheduler for c in trainer.lr_scheduler_configs])

    def begin(self, trainer: Trainer, run_state: RunState) -> None:
        """Goes to where the checkpoint was written, if there is one; for ``on_train_start``.

        Args:
            trainer: With all of the checkpoint restored.
            run_state: Likewise. Lightning forgets what callbacks monitor; and it logs a step after its checkpoint is
                written, which a kill in between would lose: what the last step logged is logged again.
        """
        if trainer.ckpt_path is not None:
            trainer.callback_metrics.update({n: torch.tensor(v) for n, v in run_state.last_logged().items()})
        point, self._point = self._point, None
        if point is None:
            self.steps = trainer.global_step
            return
        assert self._rng_state is not None and self._optimizers is not None
        torch.set_rng_state(self._rng_state)
        self._rng_state = None
        schedules = [c.scheduler for c in trainer.lr_scheduler_configs]
        changes = self._optimizers.hold(self._optimizers_then, trainer.optimizers, schedules)
        told = {re.sub(r"^optimization\.(optimizer|lr_scheduler)\.", "", _name(change)) for change in self._explained}
        if changes := [change for change in changes if _name(change).rpartition(".")[2] not in told]:
            rank_zero_warn(message(changes, self.steps))
        if run_state.metrics and self.steps % getattr(trainer, "log_every_n_steps", 1) == 0:
            for logger in trainer.loggers:
                logger.log_metrics(dict(run_state.metrics), step=self.steps)
        point.reach(trainer)


def _name(change: str) -> str:
    """The name of the setting that a phrase is about."""
    return change.partition(" was ")[0]


def _check_base(module: GRPOLightningModule, state: Mapping[str, Any]) -> None:
    """Refuses adapters of another model, whose weights they would be added to without a word."""
    if module.lora is not None and Path(state["model"]).name != Path(module.model_name).name:
        raise ValueError(
            f"the checkpoint holds adapters of model {state['model']!r}, and this run's model is {module.model_name!r}; "
            "expected the same, under the same name. Set model as it was, or train without the checkpoint"
        )
