"""Checks of what a control did to groups and of the metrics it gives: a user's own may do anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from masa_lightning.protocols import RolloutControl
from masa_lightning.types import RolloutGroup


@contextmanager
def checked(control: RolloutControl, groups: list[RolloutGroup], *, acts: bool) -> Iterator[None]:
    """A context that checks what a control decides inside of it.

    Args:
        control: That decides.
        groups: It writes into them.
        acts: What it said of the step.

    Raises:
        TypeError: If it writes something of the wrong type.
        ValueError: If it writes a number that is out of range, takes groups out or puts some in, or changes how a problem
            is solved in a step in which it does not act, after its solutions.
    """
    before = [(group, _orders(group)) for group in groups]
    yield
    name = type(control).__name__
    if len(groups) != len(before) or any(group is not kept for group, (kept, _) in zip(groups, before, strict=True)):
        raise ValueError(
            f"{name}.decide got {len(before)} groups and left {len(groups)} or others; expected the same ones in their "
            "order: to skip a problem, set its `gated`"
        )
    for group, orders in before:
        if (found := _orders(group)) == orders:
            continue
        problem = group.problem.id
        _check(name, problem, group)
        if not acts:
            changed = ", ".join(f"{key} {value!r}" for key, value in found.items() if value != orders[key])
            raise ValueError(
                f"{name}.decide set {changed} of problem {problem!r} in a step for which its `acts` is False, so that "
                "solutions may be drawn before; expected `decisions` alone, or `acts` to be True"
            )


def measured_by(
    control: RolloutControl, groups: Sequence[RolloutGroup], others: Mapping[str, float]
) -> dict[str, float]:
    """Asks a control what is to be logged of a step.

    Args:
        control: Asked.
        groups: Of the step.
        others: Metrics of the step that there are already.

    Raises:
        TypeError: If it gives no numbers by name.
        ValueError: If a name is that of another metric.
    """
    metrics: Any = control.metrics(groups)
    if not isinstance(metrics, Mapping) or not all(
        isinstance(key, str) and _is_number(v) for key, v in metrics.items()
    ):
        raise TypeError(f"{type(control).__name__}.metrics gave {metrics!r}; expected a dictionary of numbers by name")
    if twice := sorted(metrics.keys() & others.keys()):
        raise ValueError(
            f"{type(control).__name__}.metrics gave {twice[0]!r}, which is another metric of the step; expected names of "
            "its own, such as controls/my_control/share"
        )
    return dict(metrics)


def _orders(group: RolloutGroup) -> dict[str, Any]:
    names = ("gated", "token_limit", "num_solutions", "hint")
    return {name: getattr(group, name) for name in names}


def _check(control: str, problem: str, group: RolloutGroup) -> None:
    found, hint = _orders(group), group.hint
    wrong = {
        "gated": (not isinstance(group.gated, bool), "True or False"),
        "token_limit": (not _is_whole(group.token_limit), "a whole number of tokens, or None"),
        "num_solutions": (not _is_whole(group.num_solutions), "a whole number of solutions, or None"),
        "hint": (not isinstance(hint, tuple) or not all(isinstance(n, str) for n in hint), "a tuple of texts"),
    }
    for name, (is_wrong, expected) in wrong.items():
        if is_wrong:
            raise TypeError(f"{control}.decide set {name} {found[name]!r} of problem {problem!r}; expected {expected}")
    for name in ("token_limit", "num_solutions"):
        if found[name] is not None and found[name] < 1:
            raise ValueError(
                f"{control}.decide set {name} {found[name]} of problem {problem!r}; expected >= 1: to skip it, "
                "set its `gated`"
            )


def _is_whole(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str)
