"""Checks of settings when they are made: what is out of range is refused with found and expected."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from math import isfinite
from numbers import Integral, Real
from operator import ge, gt, le, lt
from typing import Any

_SECRET = re.compile(
    r"(?i:(^|[._-])(api[_-]?keys?|key|token|secret|password|passwd|authorization)$)|[a-z](Key|Token|Secret|Password)$"
)
_TOKEN_OF_TEXT = re.compile(
    r"(?i:(^|[._-])(bos|eos|pad|unk|sep|cls|mask|stop|begin|start|end|new|special|image|video|audio)[_-]token$)"
)
TRUSTED = "masa_trusts_its_code"
"""Attribute of a model that was loaded with `trust_remote_code`."""
_COMPARE: dict[str, Callable[[Any, float], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}


def check_number(name: str, value: object, least: str, most: str = "", *, whole: bool = False, note: str = "") -> None:
    """Refuses a setting that is no finite number within bounds; True, False and texts are no numbers.

    Args:
        name: Of the setting.
        value: What it is set to.
        least: Lower bound, such as ">= 0" or "> 0"; "" is none.
        most: Upper bound beside a lower one, such as "<= 1" or "< 1"; "" is none.
        whole: Whether it has to be an integer.
        note: Said behind what was expected, such as "(0 is off)".

    Raises:
        ValueError: If it is not as expected.

    >>> check_number("top_p", 1.0, "> 0", "<= 1")
    """
    right_kind = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    fits = right_kind and isfinite(value)  # type: ignore[arg-type]
    for bound in (least, most):
        if fits and bound:
            sign, limit = bound.split()
            fits = _COMPARE[sign](value, float(limit))
    if not fits:
        noun = "" if right_kind and least else "an integer" if whole else "a number"
        words = [f"{name} is {value!r}; expected", noun, least, note]
        if most:
            (low, a), (high, b) = least.split(), most.split()
            words[1:3] = "", f"a value in {'(['[low == '>=']}{a}, {b}{')]'[high == '<=']}"
            if (low, high) == (">", "<"):
                words[2] = f"a value between {a} and {b}"
        raise ValueError(" ".join(word for word in words if word))


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuses a setting that is none of its choices; True is not 1.

    Raises:
        ValueError: If it is none.

    >>> check_choice("level", 1, (None, 1, 2))
    """
    is_truth = type(value).__name__.startswith("bool")  # numpy's too
    if value not in [c for c in choices if isinstance(c, bool) == is_truth]:
        *most, last = map(repr, choices)
        raise ValueError(f"{name} is {value!r}; expected {', '.join(most)} or {last}")


def check_object(name: str, value: object, kind: type, *, note: str = "") -> None:
    """Refuses an argument that is no object of a class, or does not satisfy a protocol; a class itself is no object of it.

    Args:
        name: Of the argument.
        value: What was given.
        kind: Class, or protocol that can be checked at runtime.
        note: Said behind what was expected, such as "such as VLLMSampler()".

    Raises:
        TypeError: If it is none.

    >>> check_object("problems", [], list)
    """
    if isinstance(value, type) or not isinstance(value, kind):
        found = f"the class {value.__name__}, not an object of it" if isinstance(value, type) else f"{value!r:.200}"
        has = ""
        if getattr(kind, "_is_protocol", False) and not isinstance(value, type):
            has = f" (it has no {', '.join(n for n in methods_of(kind) if not hasattr(value, n))})"
        raise TypeError(f"{name} is {found}; expected an object of {kind.__name__}{f', {note}' if note else ''}{has}")


def methods_of(protocol: type) -> dict[str, Callable[..., Any]]:
    """The methods that an object needs to satisfy a protocol, by name."""
    return {n: of for n, of in vars(protocol).items() if callable(of) and (n[0] != "_" or n == "__call__")}


def is_secret(name: str) -> bool:
    """Whether a setting of this name is never written into checkpoints, cards, logs or pages.

    >>> [is_secret(name) for name in ("api_key", "hub.token", "X-API-Key", "accessToken", "Authorization")]
    [True, True, True, True, True]
    >>> [is_secret(name) for name in ("max_tokens", "monkey", "tokenizer", "eos_token")]
    [False, False, False, False]
    """
    return bool(_SECRET.search(name)) and not _TOKEN_OF_TEXT.search(name)


def parameters(kind: type) -> dict[str, inspect.Parameter]:
    """What a class takes by name, with what its ``**settings`` pass on to the class above it.

    >>> class Base:
    ...     def __init__(self, model: str, seed: int = 0): ...
    >>> class Mine(Base):
    ...     def __init__(self, alpha: float, **settings: int): ...
    >>> [*parameters(Mine)]
    ['model', 'seed', 'alpha']
    """
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__:
        init = vars(base).get("__init__")
        if not inspect.isfunction(init):
            continue
        own = {name: p for name, p in inspect.signature(init).parameters.items() if name != "self"}
        found = {n: p for n, p in own.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | found
        if not any(p.kind == p.VAR_KEYWORD for p in own.values()):
            break
    return found


def brings_code(thing: object) -> bool:
    """Whether the class of a model, configuration or tokenizer of transformers is code that came with a checkpoint."""
    return type(thing).__module__.partition(".")[0] == "transformers_modules"


def trusts_code(model: object) -> bool:
    """Whether the user lets code run that a model brings, that of its tokenizer too (`trust_remote_code`)."""
    return bool(getattr(model, TRUSTED, False)) or brings_code(model)
