"""Calls of the methods that a quantity has: what it gives is checked, and errors in it are told with its name."""

from __future__ import annotations

import inspect
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from masa_lightning.functional.parsing import Unreadable
from masa_lightning.quantities.confidence import StatedConfidence
from masa_lightning.quantities.quantity import Quantity
from masa_lightning.types import RolloutGroup


def who(quantity: Quantity | StatedConfidence) -> str:
    """Its name in errors."""
    return f"the quantity {getattr(quantity, 'key', quantity.metric_name)!r} ({type(quantity).__name__})"


def called(quantity: Quantity | StatedConfidence, method: str, *given: Any, **settings: Any) -> Any:
    """What a method of a quantity gives.

    Raises:
        ValueError: If it fails; the cause is kept.
    """
    try:
        return getattr(quantity, method)(*given, **settings)
    except Exception as error:
        raise ValueError(f"{who(quantity)} failed in `{method}` with {type(error).__name__}: {error}") from error


def is_row(row: Any) -> bool:
    """Whether a quantity compared with numbers, tensors of one among them."""
    try:
        return isinstance(row, (list, tuple)) and not any(map(math.isinf, row))
    except (RuntimeError, TypeError, ValueError):  # what is no number, or several
        return False


def _is_finite(value: Any) -> bool:
    """Whether no number in a value is NaN or infinite, which JSON has no way to write."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def reading(quantity: Quantity) -> Callable[[Any], Any]:
    """Its `read`, which gives a finite value or raises `Unreadable`, or a ValueError if it fails otherwise."""

    def read(value: Any) -> Any:
        try:
            found = quantity.read(value)
        except Unreadable:
            raise
        except Exception as error:
            raise ValueError(
                f"{who(quantity)} failed to read {reprlib.repr(value)} with {type(error).__name__}: {error}; expected a "
                'value, or functional.parsing.Unreadable("wrong_type"): a model may write anything'
            ) from error
        if not _is_finite(found):  # JSON of Python has NaN, and 1e999
            raise Unreadable("out_of_range")
        if found is None:
            raise ValueError(f"{who(quantity)} read {reprlib.repr(value)} as None; expected a value, or Unreadable")
        return found

    return read


def reward_of(quantity: Quantity, predicted: Any, group: RolloutGroup) -> float:
    """The reward of a prediction.

    Raises:
        ValueError: If it is no number in [0, 1].
    """
    reward = called(quantity, "reward", predicted, group)
    if not isinstance(reward, Real) or not 0 <= float(reward) <= 1:
        raise ValueError(
            f"{who(quantity)} gave the reward {reward!r} for the prediction {reprlib.repr(predicted)} of problem "
            f"{group.problem.id!r}; expected a number in [0, 1]"
        )
    return float(reward)


def check_truth(quantity: Quantity, truth: Any, group: RolloutGroup) -> None:
    """Refuses a truth that is not read back as it is, with a ValueError."""
    try:
        found = quantity.read(json.loads(json.dumps(truth, allow_nan=False)))
        shown = reprlib.repr(found)
    except Exception as error:
        found, shown = None, f"nothing ({type(error).__name__}: {error})"
    if found is None or found != truth:
        raise ValueError(
            f"{who(quantity)} has {reprlib.repr(truth)} as its truth of problem {group.problem.id!r}, which it reads "
            f"back as {shown}; expected what `read` makes of JSON: experts are to write it"
        )


def check_metric(quantity: Quantity, metric: Any) -> None:
    """Refuses a metric that takes no problems and weights, has no points, or is not new, with a TypeError."""
    update, points = (getattr(metric, name, None) for name in ("update", "points"))
    takes = inspect.signature(update).parameters.values() if callable(update) else ()
    names = {p.name for p in takes}
    if not callable(points) or not (names >= {"problem", "weight"} or any(p.kind == p.VAR_KEYWORD for p in takes)):
        raise TypeError(
            f"{who(quantity)} has a {type(metric).__name__} as its metric; expected one of masa_lightning.metrics, such as "
            "ValueCalibration, or one with `update(..., problem=, weight=)` and `points()`, as these have"
        )
    try:
        known = points()
    except Exception:  # of one that has to be updated before, which is known only when it is drawn
        return
    if not hasattr(known, "predicted"):
        raise TypeError(
            f"{who(quantity)} has a {type(metric).__name__} as its metric, whose `points()` gave a {type(known).__name__}; "
            "expected an object with `predicted` [P]"
        )
    if drawn := len(known.predicted):
        raise TypeError(
            f"{who(quantity)} has a {type(metric).__name__} as its metric, which has {drawn} points before the first "
            "update; expected a new metric at each call of `metric`"
        )


def pictures_of(quantity: Quantity | StatedConfidence, points: Any, where: str) -> Mapping[str, Any]:
    """Its pictures, by name.

    Raises:
        ValueError: If it gives others, or fails; the cause is kept.
    """
    found = called(quantity, "pictures", points, where)
    if not isinstance(found, Mapping):
        raise ValueError(f"`pictures` of {who(quantity)} gave {found!r:.200}; expected a dictionary of figures by name")
    return found
