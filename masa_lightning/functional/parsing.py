"""Meta completion -> `MetaPrediction`. A malformed answer is data, not an error: nothing here raises because of a text.

The JSON object is looked for after the first `</meta>` (the last object wins, so a later `</meta>` changes nothing),
from the end of the text backwards, with bounded work: hostile text costs linear time at most.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from masa_lightning.types import MetaPrediction

FAILURE_REASONS: Final = ("no_json", "bad_json", "missing_key", "wrong_type", "out_of_range")
"""Why a part of a prediction is None. "no_json": nothing that looks like the object; "bad_json": one of its keys is there
in quotes, but no valid JSON object around it; "missing_key": the object lacks the key, or lists no usable notion."""

META_KEYS: Final = ("math_notion", "pass_rate", "solution_length")
"""The keys of the object a meta completion ends with, in the order the prompt asks for."""

_META_END: Final = "</meta>"
_OBJECT_START: Final = re.compile(r'\{(?=\s*")')
_QUOTED_KEY: Final = re.compile(r"""["'](?:math_notion|pass_rate|solution_length)["']""")
_MAX_ATTEMPTS: Final = 1000  # object starts tried, from the end; a real completion has a handful
_MAX_INT_DIGITS: Final = 18  # longer ones are out of any range, and int() refuses those past 4300 digits


class _HugeInt:
    """Stands for an integer too long to be worth converting."""


def parse_meta_prediction(text: str, *, pass_rate_scale: int = 8) -> MetaPrediction:
    """Reads what a meta completion predicts; each key is judged alone.

    Args:
        text: The decoded completion, with or without `<meta>` reasoning before the JSON object.
        pass_rate_scale: What the prompt called a certain success; >= 1.

    Returns:
        The prediction. Where several objects qualify the last one counts, and of nested ones the outermost.

    Raises:
        ValueError: If `pass_rate_scale` is below 1. No text raises.

    >>> p = parse_meta_prediction('<meta>easy</meta> {"math_notion": ["parity"], "pass_rate": 7, "solution_length": "?"}')
    >>> p.notions, p.pass_rate, p.rate, p.solution_length, p.failures
    (('parity',), 7, 0.875, None, {'solution_length': 'wrong_type'})
    """
    if pass_rate_scale < 1:
        raise ValueError(f"pass_rate_scale is {pass_rate_scale}; expected an integer >= 1, as in the meta prompt")
    end = text.find(_META_END)
    tail = text if end < 0 else text[end + len(_META_END) :]
    found = _last_object(tail)
    if found is None and "\\{" in tail:  # the whole object typeset as \{ ... \}
        found = _last_object(tail.replace("\\{", "{").replace("\\}", "}"))
    if found is None:
        reason = "bad_json" if "{" in tail and _QUOTED_KEY.search(tail) else "no_json"
        return MetaPrediction(failures=dict.fromkeys(META_KEYS, reason), pass_rate_scale=pass_rate_scale)

    failures: dict[str, str] = {}
    notions = _notions(found, failures)
    pass_rate = _integer(found, "pass_rate", 0, pass_rate_scale, failures)
    solution_length = _integer(found, "solution_length", 1, None, failures)
    return MetaPrediction(
        pass_rate=pass_rate,
        solution_length=solution_length,
        notions=notions,
        failures=failures,
        pass_rate_scale=pass_rate_scale,
    )


def render_prediction(*, notions: tuple[str, ...], pass_rate: int, solution_length: int) -> str:
    """Writes the JSON object that `parse_meta_prediction` reads back to the same values.

    Args:
        notions: Stripped, distinct, none empty; at least one.
        pass_rate: In 0..pass_rate_scale.
        solution_length: Tokens, >= 1.

    >>> render_prediction(notions=("parity",), pass_rate=7, solution_length=120)
    '{"math_notion": ["parity"], "pass_rate": 7, "solution_length": 120}'
    """
    values = (list(notions), pass_rate, solution_length)
    return json.dumps(dict(zip(META_KEYS, values, strict=True)), ensure_ascii=False)


def _parse_int(digits: str) -> object:
    return int(digits) if len(digits) <= _MAX_INT_DIGITS else _HugeInt()


_DECODER: Final = json.JSONDecoder(strict=False, parse_int=_parse_int)


def _last_object(text: str) -> dict[str, Any] | None:
    """Returns the last JSON object with one of the keys; an object around it that has one too takes its place."""
    last_close = text.rfind("}")
    if last_close < 0:
        return None
    starts = [match.start() for match in _OBJECT_START.finditer(text, 0, last_close)]
    budget = 8 * len(text) + 100_000  # characters that may be decoded in all attempts together
    best: dict[str, Any] | None = None
    best_start = -1
    for start in reversed(starts[-_MAX_ATTEMPTS:]):
        if budget < 0:
            break
        try:
            found, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            # An unterminated string was read to the end of the text, though the error points at its beginning.
            budget -= (len(text) if error.msg.startswith("Unterminated") else error.pos) - start
            continue
        except (RecursionError, ValueError):
            budget -= len(text) - start
            continue
        budget -= end - start
        if not any(key in found for key in META_KEYS):
            continue
        if best is None or end > best_start:
            best, best_start = found, start
    return best


def _integer(found: dict[str, Any], key: str, low: int, high: int | None, failures: dict[str, str]) -> int | None:
    if key not in found:
        failures[key] = "missing_key"
        return None
    value = found[key]
    if isinstance(value, _HugeInt):
        failures[key] = "out_of_range"
    elif not isinstance(value, int) or isinstance(value, bool):
        failures[key] = "wrong_type"
    elif value < low or (high is not None and value > high):
        failures[key] = "out_of_range"
    else:
        return value
    return None


def _notions(found: dict[str, Any], failures: dict[str, str]) -> tuple[str, ...] | None:
    key = "math_notion"
    if key not in found:
        failures[key] = "missing_key"
        return None
    if not isinstance(found[key], list):
        failures[key] = "wrong_type"
        return None
    distinct: dict[str, str] = {}
    for entry in found[key]:
        if isinstance(entry, str):
            # A lone surrogate ("\ud800" is valid JSON) could be neither tokenised nor logged: it becomes "?".
            notion = entry.encode("utf-8", "replace").decode("utf-8").strip()
            if notion:
                distinct.setdefault(notion.casefold(), notion)
    if not distinct:
        failures[key] = "missing_key"
        return None
    return tuple(distinct.values())
