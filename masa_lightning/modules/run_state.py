"""What a run has counted, logged and validated so far, over all its sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from lightning.pytorch import LightningModule, Trainer

from masa_lightning.modules.provenance import evaluation_settings, fingerprint
from masa_lightning.types import Kind, RolloutGroup

if TYPE_CHECKING:
    from masa_lightning.modules.grpo import GRPOLightningModule
    from masa_lightning.rollouts.measurement import Measurement


_SAVED = ("rollout_steps", "num_tokens", "ledger", "metrics", "expected_lengths", "reserve_taken")


class Validation(TypedDict):
    """What a validation found, as checkpoints hold it."""

    problems: int
    """Their number."""
    measured: str
    """Tells apart what was measured (`provenance.fingerprint`)."""
    settings: dict[str, Any]
    """How rollouts were asked for, drawn and graded (`provenance.evaluation_settings`)."""
    pass_rates: list[tuple[str, str, float]]
    """Source, id and pass rate of each problem."""
    rollout_steps: int
    """After how many training steps it was."""
    metrics: dict[str, float]
    """By name, as logged."""


class RunState:
    """Counts the training steps and tokens of a run, and keeps what it logged and validated last; checkpoints have it."""

    def __init__(self) -> None:
        self.rollout_steps = 0
        """Training steps so far."""
        self.session_steps = 0
        """Training steps since the run was started or resumed; in no checkpoint."""
        self.num_tokens = 0
        """Prompt and completion tokens of training rollouts so far."""
        self.ledger: dict[str, float] = {}
        """Sums of the ``tokens/`` metrics over all training steps so far."""
        self.metrics: dict[str, float] = {}
        """Metrics of the last training step."""
        self.expected_lengths: dict[Kind, float] = {}
        """Tokens of a completion, by kind, as far as known."""
        self.reserve_taken = 0
        """Problems of the reserve that dynamic sampling has looked at."""
        self.first_validation: Validation | None = None
        """The one before the first step; None if there was none."""
        self.last_validation: Validation | None = None

    def state_dict(self) -> dict[str, Any]:
        """What goes into a checkpoint, without `validations`."""
        return {name: copy(getattr(self, name)) for name in _SAVED}

    def validations(self, trainer: Trainer) -> dict[str, Validation | None]:
        """First and last validation, for a checkpoint; with what callbacks logged after ``on_validation_epoch_end``."""
        if self.last_validation is not None:
            self.last_validation["metrics"] |= _logged(trainer)
        return {"validation": self.last_validation, "first_validation": self.first_validation}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores counts and validations from a checkpoint."""
        vars(self).update({name: copy(state[name]) for name in _SAVED})
        run = state.get("run", {})
        self.first_validation, self.last_validation = run.get("first_validation"), run.get("validation")

    def count(self, groups: Sequence[RolloutGroup]) -> None:
        """Counts the training step of these groups as taken."""
        self.rollout_steps += 1
        self.session_steps += 1
        self.num_tokens += sum(len(r.prompt_ids) + r.length for g in groups for r in g.rollouts)
        self.metrics = {}

    def note(self, metrics: Mapping[str, float]) -> None:
        """Keeps metrics of the training step as loggers get them, in float32."""
        self.metrics |= {n: torch.tensor(value, dtype=torch.float32).item() for n, value in metrics.items()}

    def validated(self, module: GRPOLightningModule, measured: Measurement) -> None:
        """Keeps what a validation of these weights found and logged."""
        self.last_validation = {
            "problems": len(measured.problems),
            "measured": fingerprint(module, measured.problems),
            "settings": evaluation_settings(module),
            "pass_rates": measured.pass_rates,
            "rollout_steps": self.rollout_steps,
            "metrics": _logged(module.trainer),
        }
        if not self.rollout_steps:
            self.first_validation = self.last_validation

    def last_logged(self) -> dict[str, float]:
        """Metrics of the last validation and of the last training step."""
        validation = {} if self.last_validation is None else self.last_validation["metrics"]
        return {**validation, **self.metrics}


def run_state(module: LightningModule) -> RunState:
    """The `RunState` of a module, for callbacks; an empty one for a module of another package."""
    state = getattr(module, "run_state", None)
    return state if isinstance(state, RunState) else RunState()


def _logged(trainer: Trainer) -> dict[str, float]:
    return {n: value.item() for n, value in trainer.callback_metrics.items() if n.startswith("val/")}
