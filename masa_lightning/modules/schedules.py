"""Learning-rate schedules as Lightning users know them, under manual optimisation, where Lightning leaves them alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfig


class Schedules:
    """Steps the schedules that `configure_optimizers` gave, when their ``interval``, ``frequency`` and ``monitor`` say so.

    ``interval: step`` counts optimiser steps, skipped ones among them, and ``interval: epoch``, Lightning's default, epochs.
    A schedule with a monitor (ReduceLROnPlateau) is stepped after the validation that may make its metric: after every
    `frequency` epochs, or with ``step`` after as many training steps.

    Args:
        step: Steps a schedule, given its metric or None: `LightningModule.lr_scheduler_step`.
    """

    def __init__(self, step: Callable[[Any, Any], None]) -> None:
        self._step = step
        self._configs: Sequence[LRSchedulerConfig] = ()
        self._optimizer_steps = 0
        self._monitored = {"training_steps": 0, "epochs": 0}  # as the monitored have seen

    def take(self, configs: Sequence[LRSchedulerConfig]) -> None:
        """Reads the trainer's schedules.

        Raises:
            ValueError: If a frequency is less than 1.
        """
        for config in configs:
            if config.frequency < 1:
                raise ValueError(
                    f"configure_optimizers gave a schedule with frequency {config.frequency}; expected >= 1 step or epoch"
                )
        self._configs = configs

    def state_dict(self) -> dict[str, int]:
        """What was counted; the schedules' own state is in the checkpoint already."""
        return {"optimizer_steps": self._optimizer_steps, **self._monitored}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes on counting from there."""
        self._optimizer_steps = state["optimizer_steps"]
        self._monitored = {name: state[name] for name in self._monitored}

    def after_optimizer_step(self) -> None:
        """Steps what counts optimiser steps, but for monitored schedules."""
        self._optimizer_steps += 1
        self._advance("step", self._optimizer_steps, None)

    def after_epoch(self, epochs: int) -> None:
        """Steps what counts epochs, but for monitored schedules: after the last optimiser step of an epoch.

        Args:
            epochs: Those that ended so far.
        """
        self._advance("epoch", epochs, None)

    def monitor(self, metrics: Mapping[str, Any], *, training_steps: int, epochs: int) -> None:
        """Steps monitored schedules, once for what ended since the last call; so a resumed run makes up for it.

        Args:
            metrics: By name, as logged.
            training_steps: Those that ended so far.
            epochs: As above.

        Raises:
            MisconfigurationException: If a schedule's metric is missing, unless its ``strict`` is False.
        """
        for counted, interval, now in (("training_steps", "step", training_steps), ("epochs", "epoch", epochs)):
            if now > self._monitored[counted]:
                self._monitored[counted] = now
                self._advance(interval, now, metrics)

    def _advance(self, interval: str, count: int, metrics: Mapping[str, Any] | None) -> None:
        for config in self._configs:
            if config.reduce_on_plateau == (metrics is None) or config.interval != interval or count % config.frequency:
                continue
            if metrics is None:
                self._step(config.scheduler, None)
            elif config.monitor is not None and config.monitor in metrics:
                self._step(config.scheduler, metrics[config.monitor])
            else:
                message = (
                    f"the schedule {type(config.scheduler).__name__} monitors {config.monitor!r}, which was not logged; "
                    f"expected one of {sorted(metrics)}"
                )
                if config.strict:
                    raise MisconfigurationException(message)
                rank_zero_warn(f"{message}: the schedule is not stepped")
