"""Collections that a program and its tests both hold: one object on each side, and what changes here changes there.

So tests see what a function does to its arguments, and whether what it returns is one of them, or what it returned before.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from itertools import chain, islice
from operator import is_
from typing import Any, Final, NamedTuple

from masa_lightning.grading.programs.values import Give, Keep, array, decode, encode, is_array, is_object


class _Kind(NamedTuple):
    """A kind of collection: how it is read and written, and what it is made with that stays."""

    new: Callable[[Any], Any]
    read: Callable[[Any], Any]  # a list of its parts, or bytes
    write: Callable[[Any, Any], object]
    made_with: Callable[[Any], Any] = lambda value: None


def _mapping(kind: Any, base: Any = dict, **made: Any) -> _Kind:
    def write(value: Any, parts: list[Any]) -> None:
        base.clear(value)
        base.update(value, zip(parts[::2], parts[1::2], strict=True))

    def read(value: Any) -> list[Any]:
        return [*chain.from_iterable(base.items(value))]

    return _Kind(made.pop("new", lambda _: kind()), read, write, **made)


def _items(base: Any, write: Callable[[Any, Any], object], **made: Any) -> _Kind:
    """Returns a kind by methods of what a class extends: a program may have changed its own."""
    return _Kind(made.pop("new", lambda _: base()), lambda value: [*base.__iter__(value)], write, **made)


def _fill_deque(value: Any, parts: list[Any]) -> None:
    deque.clear(value)
    deque.extend(value, parts)


def _fill_set(value: Any, parts: list[Any]) -> None:
    set.clear(value)
    set.update(value, parts)


def _fill_array(value: Any, content: bytes) -> None:
    value[...] = array(value.dtype.str, value.shape, content)


_KINDS: Final[dict[type, _Kind]] = {  # subclasses first
    OrderedDict: _mapping(OrderedDict, OrderedDict),
    Counter: _mapping(Counter),
    defaultdict: _mapping(defaultdict, new=defaultdict, made_with=lambda value: value.default_factory),
    dict: _mapping(dict),
    list: _items(list, lambda value, parts: list.__setitem__(value, slice(None), parts)),
    set: _items(set, _fill_set),
    deque: _items(deque, _fill_deque, new=lambda length: deque(maxlen=length), made_with=lambda value: value.maxlen),
    bytearray: _Kind(
        lambda _: bytearray(), bytes, lambda value, parts: bytearray.__setitem__(value, slice(None), parts)
    ),
}
_ARRAY: Final = _Kind(
    lambda made: array(*made), lambda value: value.tobytes(), _fill_array, lambda value: (value.dtype.str, value.shape)
)
_NAMED: Final = {kind.__name__: way for kind, way in _KINDS.items()} | {"array": _ARRAY}


_SCALARS: Final[dict[type, Callable[[Any], Any]]] = {  # how a value is made of one that extends it
    int: int.__index__,
    float: float.__float__,
    str: str.__str__,
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}


def _name_of(value: Any) -> str:
    return next((kind.__name__ for kind in _KINDS if isinstance(value, kind)), "")


EXTENDED: Final = {kind.__name__: kind for kind in (*_KINDS, *_SCALARS)}


def extended(value: Any) -> str:
    """Returns the name of the kind of value that an object extends, "" if none."""
    return _name_of(value) or next((kind.__name__ for kind in _SCALARS if isinstance(value, kind)), "")


def plain(value: Any) -> Any:
    """Returns the value that an object extends, by itself."""
    name = extended(value)
    if (kind := _NAMED.get(name)) is None:
        return next(make(value) for base, make in _SCALARS.items() if base.__name__ == name)
    copy = kind.new(kind.made_with(value))
    kind.write(copy, kind.read(value))
    return copy


class _Held:
    """A collection, and its parts when both sides had the same."""

    __slots__ = ("kind", "name", "parts", "value")

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.kind, self.value = name, _NAMED[name], value
        self.parts: Any = None

    def changed(self) -> Any:
        """Returns its parts if they are not those that both sides had, and keeps them; None if they are."""
        old, new = self.parts, self.kind.read(self.value)
        if isinstance(new, bytes) or old is None:
            same = new == old and old is not None
        else:
            same = len(new) == len(old) and all(map(is_, new, old))
        self.parts = new
        return None if same else new

    def holders(self) -> int:
        """Returns how many hold it, and a few more."""
        return sys.getrefcount(self.value)


_ALONE: Final = _Held("list", [object()]).holders()  # of what nothing else holds


class Shared:
    """One side's collections, by number. Each message tells of the new and the changed ones, and of those to forget.

    A collection is forgotten as soon as one side holds it no more but for this: nobody could see what becomes of it.

    Args:
        keep: Tells of what is neither a value nor a collection.
        give: The way back.
        first: 0 on one side and 1 on the other, so that both number what is theirs.

    Attributes:
        changed: Whether the other side has changed a collection that is this side's.
        returned: Whether the other side has told of such a collection, as of a result.
    """

    def __init__(self, keep: Keep, give: Give, first: int = 0) -> None:
        self._keep, self._give, self._first = keep, give, first
        self._held: dict[int, _Held] = {}
        self._numbers: dict[int, int] = {}  # by id
        self._next = first
        self.changed = self.returned = False

    def pack(self, value: Any) -> list[Any]:
        """Returns a value as JSON can say it: itself, collections that are new or have changed, and those to forget."""
        data = encode(value, self._tell)
        states: list[Any] = []
        looked_at = 0
        while looked_at < len(self._held):  # of their parts, some are new
            for number, held in [*islice(self._held.items(), looked_at, None)]:
                looked_at += 1
                new = held.parts is None
                if (parts := held.changed()) is not None:
                    made = encode(held.kind.made_with(held.value), self._tell) if new else None
                    parts = [parts] if isinstance(parts, bytes) else parts
                    states.append([number, held.name, made, [encode(part, self._tell) for part in parts]])
        gone = []
        for number in [*self._held]:
            if self._held[number].holders() == _ALONE:
                self._forget(number)
                gone.append(number)
        return [data, states, gone]

    def unpack(self, message: Any) -> Any:
        """Returns the value of a message, and makes the collections what they are on the other side; raises anything."""
        data, states, gone = message
        for number, name, made, _ in states:
            if number not in self._held:
                if number % 2 == self._first:
                    raise ValueError(f"{number} is no number of the other side")
                self._hold(int(number), _Held(name, _NAMED[name].new(decode(made, self._told))))
        for number, name, _, content in states:
            held = self._held[number]
            if held.name != name:
                raise TypeError(f"a {held.name} is no {name}")
            self.changed |= number % 2 == self._first
            parts = [decode(part, self._told) for part in content]
            held.kind.write(held.value, parts[0] if name in ("bytearray", "array") else parts)
            held.parts = held.kind.read(held.value)
        value = decode(data, self._told)
        for number in gone:
            self._forget(number)
        return value

    def _tell(self, value: Any) -> dict[str, Any]:
        name = "array" if is_array(value) else _name_of(value)
        if not name or is_object(value):
            return self._keep(value)
        if (number := self._numbers.get(id(value))) is None:
            number, self._next = self._next, self._next + 2
            self._hold(number, _Held(name, value))
        return {"shared": number}

    def _told(self, name: str, content: Any) -> Any:
        if name != "shared":
            return self._give(name, content)
        self.returned |= content % 2 == self._first
        return self._held[content].value

    def _hold(self, number: int, held: _Held) -> None:
        self._held[number] = held
        self._numbers[id(held.value)] = number

    def _forget(self, number: int) -> None:
        del self._numbers[id(self._held.pop(number).value)]
