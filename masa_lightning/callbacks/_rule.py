"""The two rules of gating and cutoff: thresholds that are given, or found within a limit on what is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from masa_lightning.callbacks._control import PredictionControl
from masa_lightning.checks import check_choice

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


def check_stage(control: PredictionControl, stage: str) -> None:
    """Refuses a control with the rule "risk" where nothing is audited.

    Raises:
        ValueError: In `masa predict`.
    """
    if stage == "predict" and control.mode != "off":
        raise ValueError(
            f"{type(control).__name__} has rule: risk, which learns from audits, and `masa predict` has none; expected "
            "rule: fixed with thresholds of yours, or mode: off"
        )
