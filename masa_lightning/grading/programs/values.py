"""What travels between a program and its tests: values as JSON, one message a line.

What does not change travels as a value, as a copy: `None`, booleans, numbers, strings, bytes, tuples, frozen sets, dates
(subclasses as what they extend). Collections are one object on each side (`shared`). Anything else stays where it is and
travels as a number, which the other side can ask things of.
"""

from __future__ import annotations

import builtins
import json
import sys
from collections import namedtuple
from collections.abc import Callable, ItemsView, KeysView, Sequence, ValuesView
from functools import cache
from typing import Any, BinaryIO, Final

MAX_LINE: Final = 16 * 2**20  # bytes; a program may send what it likes
SHARED: Final = frozenset(  # modules whose errors tests may name too
    {
        "asyncio",
        "binascii",
        "configparser",
        "csv",
        "_csv",
        "dataclasses",
        "decimal",
        "graphlib",
        "json.decoder",
        "queue",
    }
    | {"re", "sre_constants", "shutil", "statistics", "struct", "subprocess", "tarfile", "zipfile", "zlib"}
)

Keep = Callable[[Any], dict[str, Any]]  # what is no value -> {name: content}
Give = Callable[[str, Any], Any]  # the way back: name, content

_ITEMS: Final[dict[str, Any]] = {"tuple": tuple, "frozenset": frozenset}  # made of their items
_TEXTS: Final = {  # class: its module, how it is written, how it is read
    "Decimal": ("decimal", "__str__", ""),
    "datetime": ("datetime", "isoformat", "fromisoformat"),  # before dates: a datetime is one
    "date": ("datetime", "isoformat", "fromisoformat"),
    "time": ("datetime", "isoformat", "fromisoformat"),
    "bytes": ("builtins", "hex", "fromhex"),
}
_CONSTANTS: Final = {"Ellipsis": ..., "NotImplemented": NotImplemented}
_ARRAYS: Final = "biufcUS"  # kinds of numpy's elements that are values


def is_object(value: Any) -> bool:
    """Whether a value is more than what it extends: its class is a program's own and has methods.

    >>> is_object([1]), is_object(type("Stack", (list,), {"__module__": "program", "push": list.append})())
    (False, True)
    """
    if hasattr(type(value), "__masa_object__"):  # as the tests have it
        return True
    kinds = [kind for kind in type(value).__mro__ if kind.__module__ == "program"]
    own = {name for kind in kinds for name in vars(kind) if not name.startswith("_")}
    return bool(own - {*getattr(type(value), "_fields", ())})


def encode(value: Any, keep: Keep) -> Any:
    """Turns a value into what JSON can say.

    >>> encode((1, ("a", b"b")), lambda value: {"handle": id(value)})
    {'tuple': [1, {'tuple': ['a', {'bytes': '62'}]}]}
    """
    if value is None or isinstance(value, bool):
        return value
    if type(value).__module__ != "builtins" and is_object(value):
        return keep(value)
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()  # what a program computed with numpy is a number like others
    if isinstance(value, int):
        small = -(2**53) < value < 2**53
        return int.__index__(value) if small else {"int": hex(value)}  # decimals take quadratic time
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for name, (module, write, _) in _TEXTS.items():
        if _is(value, module, name):
            return {name: getattr(_kind(module, name), write)(value)}
    if isinstance(value, tuple) and isinstance(fields := getattr(type(value), "_fields", None), tuple):
        items = [encode(item, keep) for item in tuple.__iter__(value)]
        return {"named": [type(value).__name__, [str(field) for field in fields], items]}
    for name, kind in _ITEMS.items():
        if isinstance(value, kind):
            return {name: [encode(item, keep) for item in kind.__iter__(value)]}
    return _encode_rare(value, keep)


def _encode_rare(value: Any, keep: Keep) -> Any:
    for name, constant in _CONSTANTS.items():
        if value is constant:
            return {"constant": name}
    if isinstance(value, range):
        return {"range": [encode(n, keep) for n in (value.start, value.stop, value.step)]}
    if _is(value, "fractions", "Fraction"):
        return {"Fraction": [hex(value.numerator), hex(value.denominator)]}
    if _is(value, "datetime", "timedelta"):
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if type(value).__module__ == "builtins":
        if isinstance(value, KeysView):
            return {"keys": [encode(item, keep) for item in value]}
        if isinstance(value, ItemsView):
            return {"items": [[encode(key, keep), encode(item, keep)] for key, item in value]}
        if isinstance(value, ValuesView):
            return {"values": [encode(item, keep) for item in value]}
        name = getattr(value, "__name__", "")
        if isinstance(value, type) and vars(builtins).get(name) is value:
            return {"type": name}
    return keep(value)


def _kind(module: str, name: str) -> Any:
    """Returns a class of a module that takes long to import, and that most programs do without."""
    return getattr(__import__(module), name)


def _is(value: Any, module: str, name: str) -> bool:
    """Returns whether a value is of such a class: not if the module was never imported."""
    return module in sys.modules and isinstance(value, _kind(module, name))


def decode(data: Any, give: Give) -> Any:
    """Turns what JSON said into the value; raises anything on what `encode` does not make."""
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise TypeError("a bare list is no encoded value")
        return data
    ((name, content),) = data.items()
    if name in _ITEMS:
        return _ITEMS[name](decode(item, give) for item in content)
    if name in _TEXTS:
        module, _, read = _TEXTS[name]
        kind = _kind(module, name)
        return getattr(kind, read)(content) if read else kind(content)
    match name:
        case "int":
            return int(content, 16)
        case "complex":
            return complex(*content)
        case "named":
            kind, fields, items = content
            return _named(str(kind), tuple(map(str, fields)))(*(decode(item, give) for item in items))
        case "range":
            return range(*(decode(number, give) for number in content))
        case "Fraction":
            return _kind("fractions", name)(int(content[0], 16), int(content[1], 16))
        case "timedelta":
            return _kind("datetime", name)(*content)
        case "keys":
            return dict.fromkeys(decode(item, give) for item in content).keys()
        case "items":
            return {decode(key, give): decode(item, give) for key, item in content}.items()
        case "values":
            return {index: decode(item, give) for index, item in enumerate(content)}.values()
        case "type":
            kind = getattr(builtins, content)
            if not isinstance(kind, type):
                raise TypeError(f"{content} is no type")
            return kind
        case "constant":
            return _CONSTANTS[content]
    return give(name, content)


@cache
def _named(name: str, fields: tuple[str, ...]) -> Callable[..., Any]:
    return namedtuple(name, fields)  # noqa: PYI024  a program's


def is_array(value: Any) -> bool:
    """Whether a value is an array of numpy's whose elements are values."""
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray" and value.dtype.kind in _ARRAYS


def array(dtype: str, shape: Sequence[int], content: bytes | None = None) -> Any:
    """Makes an array of numpy's of what is in its memory, or of zeros; raises anything if there is none."""
    import numpy as np  # only where a program made one

    kind = np.dtype(dtype)
    if kind.kind not in _ARRAYS:
        raise TypeError(f"elements of the kind {kind.kind} are no values")
    return np.zeros(shape, kind) if content is None else np.frombuffer(bytearray(content), kind).reshape(shape)


def write_line(file: BinaryIO, message: Any) -> None:
    """Sends a message; surrogates, which a string may hold, go as they are."""
    file.write(json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
    file.flush()


def read_line(file: BinaryIO) -> Any:
    """Receives a message; raises anything if none comes or it is no JSON."""
    line = file.readline(MAX_LINE)
    if not line.endswith(b"\n"):
        raise EOFError("the other side is gone, or its message too long")
    return json.loads(line.decode("utf-8", "surrogatepass"))
