"""The paper's three quantities, and the settings of `MetaSettings` that are theirs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Final

from masa_lightning.quantities.notions import Notions
from masa_lightning.quantities.pass_rate import PassRate
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.quantities.solution_length import SolutionLength

SETTINGS: Final[dict[str, tuple[type[Quantity], str]]] = {
    "pass_rate_scale": (PassRate, "scale"),
    "difficulty_scoring": (PassRate, "scoring"),
    "difficulty_base": (PassRate, "base"),
    "notion_counting": (Notions, "counting"),
    "min_expert_reward": (Notions, "expert_reward"),
}
"""Settings of `MetaSettings`, and the arguments of quantities that they are."""


def default_quantities(**settings: Any) -> list[Quantity]:
    """The paper's three, in the order in which the prompt asks for them.

    Args:
        settings: Of `MetaSettings`: pass_rate_scale, difficulty_scoring, difficulty_base, notion_counting and
            min_expert_reward; those of the classes by default.

    Raises:
        TypeError: If there is no such setting.
        ValueError: If one is out of range.
    """
    if unknown := settings.keys() - SETTINGS.keys():
        raise TypeError(f"there is no setting {min(unknown)!r} of quantities; expected of {', '.join(SETTINGS)}")
    made: list[Quantity] = []
    for kind in (Notions, PassRate, SolutionLength):
        own = {argument: settings[name] for name, (of, argument) in SETTINGS.items() if of is kind and name in settings}
        try:
            made.append(kind(**own))
        except ValueError as error:
            said = str(error)
            for name, (of, argument) in SETTINGS.items():
                said = said.replace(f"{argument} of {of.__name__}", f"meta.{name}")
            raise ValueError(said) from None
    return made


def chosen_quantities(quantities: Sequence[Quantity] | None, **settings: Any) -> Sequence[Quantity]:
    """Returns the given ones, or the paper's three where there are none.

    Args:
        quantities: Of a user; None for none.
        settings: Of `default_quantities`.

    Raises:
        ValueError: If quantities are given, and settings that say otherwise than they do.
    """
    if quantities is None:
        return default_quantities(**settings)
    for name, value in settings.items():
        kind, argument = SETTINGS[name]
        default = inspect.signature(kind).parameters[argument].default
        found = [getattr(each, argument) for each in quantities if isinstance(each, kind) and each.name == kind.name]
        # A scale is given or not; of the others the default may be what nobody gave.
        if value not in (found if found and name == "pass_rate_scale" else [default]):
            raise ValueError(
                f"quantities are given, and meta.{name} is {value!r}, which is for the default ones; expected it as "
                f"{kind.__name__}({argument}=...) among the quantities alone"
            )
    return quantities
