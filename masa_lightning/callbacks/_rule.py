"""The two rules of gating and cutoff: thresholds that are given, or found within a limit on what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from masa_lightning.callbacks._control import PredictionControl
from masa_lightning.checks import check_choice
from masa_lightning.functional.risk import RiskCutoff, RiskGate

Rule = Literal["fixed", "risk"]


def fixed_settings(control: str, rule: str, settings: Mapping[str, tuple[float | None, float]]) -> dict[str, Any]:
    """Returns the settings of a fixed rule, their defaults where they are None.

    Args:
        control: Its name, for errors.
        rule: "fixed" or "risk".
        settings: By name: what was given, and the default.

    Raises:
        ValueError: If there is no such rule, or one is given with the rule that learns it.
    """
    check_choice("rule", rule, get_args(Rule))
    given = {name: value for name, (value, _) in settings.items() if value is not None}
    if rule == "risk" and given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"{control} has {name} = {value} and rule: risk, which finds it by itself; expected none: leave it out, or set "
            "rule: fixed"
        )
    return {name: default if value is None else value for name, (value, default) in settings.items()}


class RuledControl(PredictionControl):
    """A control that decides by thresholds that are given, or by `risk`, which learns from audits and is in checkpoints.

    The arguments are those of `PredictionControl`.
    """

    risk: RiskGate | RiskCutoff | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses modules that it cannot control, and a rule that learns where nothing is audited.

        Raises:
            ValueError: If the rule is "risk" in `masa predict`.
        """
        super().setup(trainer, pl_module, stage)
        if self.risk is not None and stage == "predict" and self.mode != "off":
            raise ValueError(
                f"{type(self).__name__} has rule: risk, which learns from audits, and `masa predict` has none; expected "
                "rule: fixed with thresholds of yours, or mode: off"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state of a control, and what the rule has learned."""
        return super().state_dict() | ({} if self.risk is None else {"risk": self.risk.state_dict()})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it; in a checkpoint of the other rule there is nothing learned, and the rule starts afresh."""
        super().load_state_dict(state_dict)
        if self.risk is not None and "risk" in state_dict:
            self.risk.load_state_dict(state_dict["risk"])
