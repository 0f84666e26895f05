"""The program as its tests see it: what it sends decides values and errors, and nothing else."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, NoReturn

from masa_lightning.grading.programs.ledger import SILENCED, Ledger, UntoldError
from masa_lightning.grading.programs.pytest_shim import Approx
from masa_lightning.grading.programs.shared import EXTENDED, Shared
from masa_lightning.grading.programs.values import SHARED, read_line, write_line

OF_PROGRAM: Final = "raised by the program"
_NAMES: Final = ("__name__", "__qualname__", "__doc__", "__module__", "__dict__", "__annotations__")


class Program:
    """The other side. If it fails to answer, all is over."""

    def __init__(
        self,
        requests: BinaryIO,
        replies: BinaryIO,
        lost: Callable[[], NoReturn],
        ledger: Ledger | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._requests, self._replies, self._lost = requests, replies, lost
        self.ledger = Ledger() if ledger is None else ledger
        self._apart = apart
        self._shared = Shared(self.keep, self.give)
        self._handles: dict[int, Handle] = {}
        self._backs: list[Any] = []  # functions and iterators of the tests that were given to the program
        self._errors: dict[int, type[Exception]] = {}

    def ask(self, name: str, *arguments: Any) -> Any:
        """Has an operation done; returns its value or raises its error.

        If the program is held apart from the tests, what it is given are copies.
        """
        value, error = None, None
        request = {"ask": self._shared.pack((name, *self._given(arguments)))}
        try:
            write_line(self._requests, request)
            while (reply := read_line(self._replies)).keys() == {"back"}:
                self._call_back(reply["back"])
            if reply.keys() == {"value"}:
                value = self._shared.unpack(reply["value"])
            else:
                error = self._error(*reply["error"], ends=name == "next")
        except BaseException:  # what comes from there is no reason to go on
            self._lost()
        self.ledger.changed |= self._shared.changed
        self.ledger.returned |= self._shared.returned
        if error is not None:
            raise error
        return value

    def call_in_place(self, function: Handle, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Calls a function whose result nobody looks at: what it does to its arguments is what it is for."""
        apart, changed = self._apart, self.ledger.changed
        self._apart = False
        try:
            return function(*args, **kwargs)
        finally:
            self._apart, self.ledger.changed, self._shared.changed = apart, changed, False

    def _given(self, values: tuple[Any, ...]) -> Any:
        """Returns values as the program may have them: held apart, with collections of its own."""
        if not self._apart:
            return values
        others: list[Any] = []

        def keep(value: Any) -> dict[str, Any]:
            others.append(value)
            return {"other": len(others) - 1}

        here, there = (Shared(keep, lambda name, index: others[index], first) for first in (0, 1))
        return there.unpack(here.pack(values))

    def compared(self, other: Any) -> None:
        """Notes that an object was compared with one of the tests that cannot travel, such as a path: who knows?"""
        if callable(other) or isinstance(other, Approx):
            return
        try:
            Shared(self.keep, self.give).pack(other)
        except UntoldError:
            pass  # noted by `keep`
        except Exception:
            self.ledger.cannot("the tests compare what cannot travel")

    def _call_back(self, question: Any) -> None:
        """Does what the program asks for; it has functions and iterators that the tests gave it, and no others."""
        what, number, args, kwargs = self._shared.unpack(question)
        back = self._backs[number]
        reply: dict[str, Any]
        try:
            value = next(back) if what == "next" else back(*args, **{str(name): item for name, item in kwargs})
            reply = {"value": self._shared.pack(*self._given((value,)))}
        except Exception as error:
            if isinstance(error, AssertionError) and OF_PROGRAM not in getattr(error, "__notes__", ()):
                self.ledger.failed = True  # a program cannot catch it
            kind = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
            reply = {"error": [kind.__name__, str(error)[:1000]]}
        write_line(self._requests, reply)

    def keep(self, value: Any) -> dict[str, Any]:
        """Names what stays on this side: a number by which the other side asks for it."""
        if isinstance(value, Handle):
            return {"handle": value._number}
        if isinstance(value, type) and value in self._errors.values():
            return {"handle": next(number for number, kind in self._errors.items() if kind is value)}
        if not (callable(value) or isinstance(value, Iterator)) or hasattr(value, "read"):
            raise self.ledger.cannot(f"a {type(value).__name__} of the tests cannot be given to the program")
        if isinstance(value, type):
            raise self.ledger.cannot(f"the class {value.__name__} of the tests cannot be given to the program")
        index = next((index for index, back in enumerate(self._backs) if back is value), len(self._backs))
        if index == len(self._backs):
            self._backs.append(value)
        return {"back": index}

    def give(self, name: str, content: Any) -> Any:
        """What the other side named: a handle of its own, or what stayed here."""
        match name:
            case "handle":
                return self._handles.setdefault(int(content), Handle(self, int(content)))
            case "extended":
                number, name = content
                return self._handles.setdefault(int(number), Extended(self, int(number), EXTENDED[name]))
            case "back":
                return self._backs[content]
            case "error":
                return self._error_kind(content)
        raise ValueError(f"{name} is no kind of value")

    # -- errors --------------------------------------------------------------------------------------------------------

    def _error(self, kind: Any, args: Any, text: str, number: int, *, ends: bool) -> Exception:
        """Returns an error of the program; only the end of an iterator is one."""
        arguments = self._shared.unpack(args)
        if ends and kind == ["builtin", "StopIteration"]:
            return StopIteration(*arguments[:1])
        made = self._error_kind(kind)
        try:
            error = made.__new__(made)
            error.args = tuple(arguments)
        except TypeError:
            error = RuntimeError(str(text))
        if made in self._errors.values():
            error.__dict__.update(_text=str(text), _handle=Handle(self, int(number)))
        error.add_note(OF_PROGRAM)
        return error

    def _error_kind(self, description: Any) -> type[Exception]:
        """Returns the class of errors that the program tells of, as far as it is one that tests may expect."""
        match description:
            case ["builtin", str(name)]:
                kind = SILENCED.get(name) or getattr(builtins, name, None)
            case ["standard", str(module), str(name)] if module in SHARED:
                kind = getattr(sys.modules.get(module), name, None)
            case ["own", int(number), str(name), list(bases)]:
                if number not in self._errors:
                    kinds = tuple(dict.fromkeys(self._error_kind(base) for base in bases)) or (Exception,)
                    self._errors[number] = _own_error(name, kinds)
                return self._errors[number]
            case _:
                raise ValueError(f"{description} is no class of errors")
        return kind if isinstance(kind, type) and issubclass(kind, Exception) else RuntimeError


def _own_error(name: str, bases: tuple[type[Exception], ...]) -> type[Exception]:
    def text(self: Any) -> str:
        return str(self.__dict__["_text"]) if "_text" in self.__dict__ else ", ".join(map(str, self.args))

    def attribute(self: Any, attribute: str) -> Any:
        if attribute.startswith("_") or "_handle" not in self.__dict__:
            raise AttributeError(attribute)
        return getattr(self.__dict__["_handle"], attribute)

    try:
        return type(name, bases, {"__str__": text, "__getattr__": attribute, "__module__": "program"})
    except TypeError:
        return type(name, bases[:1], {"__str__": text, "__getattr__": attribute, "__module__": "program"})


# -- objects ---------------------------------------------------------------------------------------------------------


def _operator(name: str, *, swapped: bool = False) -> Callable[[Any, Any], Any]:
    def operate(self: Handle, other: Any) -> Any:
        return self._operate(name, *((other, self) if swapped else (self, other)))

    return operate


def _order(name: str) -> Callable[[Any, Any], Any]:
    def compare(self: Handle, other: Any) -> Any:
        return self._operate(name, self, other) if isinstance(other, Handle) else NotImplemented

    return compare


class Handle:
    """An object of the program. It equals no value of the tests, whatever the program says."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handle):
            self._program.compared(other)
            return False
        if self._number == other._number:
            return True
        equal, by_fields = self._program.ask("equal", self, other)
        if equal is True and by_fields is not True:
            self._program.ledger.unclear = True  # the program's own code says so
        return equal is True

    def __hash__(self) -> int:
        return hash("Handle")  # equal ones have equal hashes

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.ask("call", self, args, tuple(kwargs.items()))

    def __masa_call_in_place__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._program.call_in_place(self, args, kwargs)

    def __masa_type__(self) -> Any:
        return self._program.ask("type", self)

    def _operate(self, name: str, *operands: Any) -> Any:
        """Calculates with objects; what comes out is the program's word for it, unless it is an object again."""
        result = self._program.ask("operate", name, *operands)
        if not isinstance(result, Handle):
            if not all(isinstance(operand, Handle) for operand in operands):
                raise TypeError("an object of the program is no number")
            self._program.ledger.unclear = True
        return result

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _NAMES:  # protocols, such as numpy's of memory: not for the program
            raise AttributeError(name)
        return self._program.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        self._program.ask("delitem", self, key)

    def __contains__(self, item: Any) -> bool:
        try:
            items = iter(self)
        except TypeError:
            found = self._program.ask("contains", self, item) is True
            self._program.ledger.unclear |= found
            return found
        return any(item is other or item == other for other in items)

    def __iter__(self) -> Any:
        return self._program.ask("iter", self)

    def __next__(self) -> Any:
        return self._program.ask("next", self)

    def __len__(self) -> int:
        return operator.index(self._program.ask("len", self))

    def __bool__(self) -> bool:
        return self._program.ask("bool", self) is True

    def __await__(self) -> Any:
        return self._program.ask("await", self)
        yield  # which makes this a generator, as it has to be

    def __enter__(self) -> Any:
        return self._program.ask("enter", self)

    def __exit__(self, *error: object) -> None:
        self._program.ask("exit", self)

    def __instancecheck__(self, value: Any) -> bool:
        comes_back = isinstance(value, Handle) or hasattr(type(value), "_fields")  # named tuples are copies
        return comes_back and self._program.ask("isinstance", value, self) is True

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("an object of a program is no array; numpy would take an empty one for close to anything")

    def __str__(self) -> str:
        return str.__str__(self._program.ask("str", self))

    def __repr__(self) -> str:
        return str.__str__(self._program.ask("repr", self))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor"):
    setattr(Handle, f"__{_name.strip('_')}__", _operator(_name))
    setattr(Handle, f"__r{_name.strip('_')}__", _operator(_name, swapped=True))
for _name in ("lt", "le", "gt", "ge"):
    setattr(Handle, f"__{_name}__", _order(_name))
for _name in ("neg", "abs", "invert"):
    setattr(Handle, f"__{_name}__", lambda self, name=_name: self._operate(name, self))


class Extended(Handle):
    """An object of a class that extends a kind of value, such as a list with methods: compared and counted as that value."""

    __slots__ = ("_kind",)
    __masa_object__ = True

    def __init__(self, program: Program, number: int, kind: type) -> None:
        super().__init__(program, number)
        object.__setattr__(self, "_kind", kind)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # for `isinstance`
        return self._kind

    def _plain(self) -> Any:
        return self._program.ask("plain", self)

    def __eq__(self, other: object) -> bool:
        return bool(_plain(self) == _plain(other))

    def __hash__(self) -> int:
        return hash(self._plain())

    def _operate(self, name: str, *operands: Any) -> Any:
        return getattr(operator, name)(*map(_plain, operands))

    def __int__(self) -> int:
        return int(self._plain())

    def __float__(self) -> float:
        return float(self._plain())

    def __index__(self) -> int:
        return operator.index(self._plain())


def _plain(value: Any) -> Any:
    return value._plain() if type(value) is Extended else value


for _name in ("lt", "le", "gt", "ge"):
    setattr(Extended, f"__{_name}__", lambda self, other, name=_name: self._operate(name, self, other))
