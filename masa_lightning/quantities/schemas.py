"""The JSON schemas of quantities: what a grammar heeds of them, and whether all that they allow can be read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from masa_lightning.functional.parsing import Unreadable

_NOTES: Final = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"} | {
    "$comment",
    "$schema",
    "$id",
}
_RANGE: Final = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_HEEDED: Final[dict[str, set[str]]] = {
    "integer": {*_RANGE, "multipleOf"},
    "number": _RANGE,
    "string": {"minLength", "maxLength", "pattern"},
    "array": {"items", "prefixItems", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
    "boolean": set(),
    "null": set(),
}
"""Keywords that xgrammar makes a grammar of, by type; it passes over others in silence."""
_ALONE: Final = ("anyOf", "const", "enum")  # beside which it heeds no others
_SCHEMAS: Final = ("items", "additionalProperties")
_LISTS: Final = ("anyOf", "prefixItems")
_LOOKS: Final = ("(?=", "(?!", "(?<=", "(?<!")
_DRAWS: Final = 64
_LONGEST: Final = 400  # characters of a drawn value; a longer one is left alone
_LETTERS: Final = [chr(code) for code in range(32, 127)]


def check_schema(who: str, schema: Mapping[str, Any], read: Callable[[Any], Any]) -> None:
    """Refuses a schema that is not heeded in full, or that allows what cannot be read.

    Values that it spells out, its bounds, and 64 that are drawn from its grammar are read.

    Args:
        who: It is of, for errors.
        schema: JSON schema of a value.
        read: Of the quantity.

    Raises:
        ValueError: If it is no schema, has keywords that are not heeded, or one of these values cannot be read.
    """
    try:
        unheeded = [*_unheeded(schema, "schema")]
        values = [] if unheeded else [*_spelled_out(schema), *_drawn(schema)]
    except (ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{who} has the schema {schema!r:.300}, of which nothing can be made ({type(error).__name__}: {error}); "
            'expected a JSON schema such as {"type": "integer", "minimum": 0, "maximum": 9}'
        ) from error
    for path, why, expected in unheeded[:1]:
        raise ValueError(
            f"{who} has {why} in its {path}, which structured outputs may pass over: they would draw what it forbids; "
            f"expected {expected}: say it otherwise, or set meta.structured_outputs to false"
        )
    for value in values:
        try:
            read(value)
        except Unreadable as error:
            raise ValueError(
                f"{who} has a schema that allows {json.dumps(value)}, which its `read` does not take ({error}); expected a "
                f"schema of what it takes, no more: narrow the schema {json.dumps(schema):.300}, or set "
                "meta.structured_outputs to false"
            ) from None


def _unheeded(schema: Any, path: str) -> Iterator[tuple[str, str, str]]:
    """Where a schema is not heeded: the place in it, what is there, and what is expected."""
    if not isinstance(schema, Mapping):
        yield path, repr(schema), "a dictionary with a type"
        return
    alone = next((word for word in _ALONE if word in schema), None)
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, (list, tuple)) else [kinds]
    if alone:
        known = {alone, "type"} if alone != "anyOf" else {alone}
    elif unknown := [kind for kind in kinds if kind not in _HEEDED]:
        others = [repr(word) for word in schema if word not in _NOTES and word != "type"]
        found = f"the type {unknown[0]!r}" if unknown[0] is not None else next(iter(others), "no type")
        yield path, found, f"a type of {', '.join(_HEEDED)}, or {', '.join(_ALONE)}"
        return
    else:
        known = {"type"}.union(*(_HEEDED[kind] for kind in kinds))
    for word in schema:
        if word not in known and word not in _NOTES:
            yield path, repr(word), f"of {', '.join(sorted(known))}"
    if "pattern" in schema:
        if lengths := [word for word in ("minLength", "maxLength") if word in schema]:
            yield path, f"{lengths[0]!r} beside 'pattern'", "the length in the pattern, as in ^[a-z]{1,9}$"
        if looks := [sign for sign in _LOOKS if sign in str(schema["pattern"])]:
            yield path, f"a pattern with {looks[0]!r}", "a pattern that does not look ahead or behind"
    for word in _SCHEMAS:
        if word in schema and not isinstance(schema[word], bool):
            yield from _unheeded(schema[word], f"{path}.{word}")
    for word in _LISTS:
        for index, each in enumerate(schema.get(word, ())):
            yield from _unheeded(each, f"{path}.{word}[{index}]")
    for name, each in (schema.get("properties") or {}).items():
        yield from _unheeded(each, f"{path}.properties.{name}")


def _spelled_out(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values that a schema names: those of which it is one, and its bounds."""
    yield from schema.get("enum", ())
    yield from [schema["const"]] if "const" in schema else ()
    step = schema.get("multipleOf", 1 if schema.get("type") == "integer" else None)
    yield from (schema[w] for w in ("minimum", "maximum") if w in schema and not (step and schema[w] % step))
    for each in schema.get("anyOf", ()):
        yield from _spelled_out(each)


def _drawn(schema: Mapping[str, Any]) -> Iterator[Any]:
    """Values from the grammar that is made of a schema, at random and the same each time."""
    import numpy as np
    import torch
    import xgrammar  # which the report does without

    end = len(_LETTERS)
    info = xgrammar.TokenizerInfo([*_LETTERS, "end"], vocab_size=end + 1, stop_token_ids=[end])
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(
        json.dumps(schema), any_whitespace=False, separators=(", ", ": ")
    )
    chance, row = random.Random(0), torch.full((1, -(-(end + 1) // 32)), -1, dtype=torch.int32)
    for _ in range(_DRAWS):
        matcher, text = xgrammar.GrammarMatcher(grammar, terminate_without_stop_token=True), ""
        while not matcher.is_terminated() and len(text) < _LONGEST:
            matcher.fill_next_token_bitmask(row)
            bits = np.unpackbits(row[0].numpy().view(np.uint8), bitorder="little")[:end]
            if not len(letters := np.flatnonzero(bits)):
                break  # none of ASCII
            matcher.accept_token(letter := int(chance.choice(letters)))
            text += _LETTERS[letter]
        if matcher.is_terminated():
            yield json.loads(text)
