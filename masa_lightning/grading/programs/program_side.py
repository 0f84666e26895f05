"""The side of the program: defines what the program defines, then does with it what the tests ask for."""

from __future__ import annotations

import builtins
import operator
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO, Final

from masa_lightning.grading.programs.shared import Shared, extended, plain
from masa_lightning.grading.programs.values import SHARED, read_line, write_line


class CallBack:
    """A function or an iterator of the tests, as the program sees it."""

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.call_back("call", self._number, args, tuple(kwargs.items()))

    def __iter__(self) -> CallBack:
        return self

    def __next__(self) -> Any:
        return self._link.call_back("next", self._number)


class Objects:
    """What stays on the program's side, by number; an object keeps its number."""

    def __init__(self, link: Link | None = None) -> None:
        self._link = link
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._backs: dict[int, CallBack] = {}

    def keep(self, value: Any) -> dict[str, Any]:
        """Returns what stands for an object on the other side."""
        if isinstance(value, CallBack):
            return {"back": value._number}
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"error": self.describe(value)}
        if name := extended(value):
            return {"extended": (self.number(value), name)}
        return {"handle": self.number(value)}

    def number(self, value: Any) -> int:
        """Returns the number of an object."""
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number

    def give(self, name: str, content: Any) -> Any:
        """Returns what the other side means."""
        if name == "handle":
            return self._objects[content]
        if name == "back" and self._link is not None:
            return self._backs.setdefault(content, CallBack(self._link, content))
        raise ValueError(f"{name} is no kind of value")

    def describe(self, kind: type[BaseException]) -> list[Any]:
        """Tells of a class of errors: what it is and what it extends."""
        if getattr(builtins, kind.__name__, None) is kind:
            return ["builtin", kind.__name__]
        if kind.__module__ in SHARED:
            return ["standard", kind.__module__, kind.__qualname__]
        bases = [self.describe(base) for base in kind.__bases__ if issubclass(base, BaseException)]
        return ["own", self.number(kind), kind.__name__, bases]


class Link:
    """Answers the tests, and asks for their functions where they gave it some."""

    def __init__(self, namespace: dict[str, Any], requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests, self._replies = requests, replies
        self.objects = Objects(self)
        self._shared = Shared(self.objects.keep, self.objects.give, first=1)
        self.operations: dict[str, Callable[..., Any]] = {**_OPERATIONS, "global": namespace.__getitem__}

    def serve(self) -> Any:
        """Does what the tests ask for until they answer a question of this side's, or are gone (EOFError)."""
        while True:
            message = read_line(self._requests)
            if message.keys() != {"ask"}:
                return message
            name, *arguments = self._shared.unpack(message["ask"])
            try:
                reply = {"value": self._shared.pack(self.operations[name](*arguments))}
            except BaseException as error:  # SystemExit among them: a function that exits has not returned
                reply = {"error": self._told(error)}
            write_line(self._replies, reply)

    def call_back(self, what: str, number: int, args: tuple[Any, ...] = (), kwargs: tuple[Any, ...] = ()) -> Any:
        """Has a function of the tests called."""
        write_line(self._replies, {"back": self._shared.pack((what, number, args, kwargs))})
        reply = self.serve()
        if "value" in reply:
            return self._shared.unpack(reply["value"])
        name, text = reply["error"]
        raise getattr(builtins, name, RuntimeError)(text)

    def _told(self, error: BaseException) -> list[Any]:
        try:
            text, args = str(error)[:1000], tuple(error.args)
        except BaseException:
            text, args = "", ()
        return [self.objects.describe(type(error)), self._shared.pack(args), text, self.objects.number(error)]


def _call(function: Any, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> Any:
    return function(*args, **dict(kwargs))


def _equal(one: Any, other: Any) -> tuple[bool, bool]:
    """Returns whether two objects are equal, and whether that is by their fields and not by code of the program's."""
    kind = type(one)
    code = getattr(kind.__eq__, "__code__", None)
    by_fields = hasattr(kind, "__dataclass_fields__") and code is not None and code.co_filename == "<string>"
    return bool(one == other), by_fields and kind is type(other)


def _isinstance(value: Any, kind: Any) -> bool:
    """Like `isinstance`; a named tuple that comes back is of the class of its name."""
    if getattr(kind, "_fields", None) and getattr(value, "_fields", None) == kind._fields:
        return bool(type(value).__name__ == kind.__name__)
    return isinstance(value, kind)


def _await(awaitable: Any) -> Any:
    import asyncio  # slow, and most programs do without

    async def wait() -> Any:
        return await awaitable

    return asyncio.run(wait())


_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "call": _call,
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "delitem": operator.delitem,
    "contains": operator.contains,
    "operate": lambda name, *operands: getattr(operator, name)(*operands),
    "equal": _equal,
    "isinstance": _isinstance,
    "type": type,
    "plain": plain,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
    "await": _await,
    "enter": lambda manager: manager.__enter__(),
    "exit": lambda manager: manager.__exit__(None, None, None),
}


def give_exits() -> None:
    """Defines what the start-up code of packages, which is not run here, defines for all programs."""
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]


def run_program(preamble: str, program: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Runs a program, then does with its names what the tests ask for."""
    write_line(replies, "started")  # before anything that nobody trusts
    give_exits()
    module = ModuleType("program")  # a real one: dataclasses look theirs up
    sys.modules["program"] = module
    for text in (preamble, program):
        exec(compile(text, "<program>", "exec", dont_inherit=True), module.__dict__)
    Link(module.__dict__, requests, replies).serve()
