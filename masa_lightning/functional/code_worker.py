"""Two sides of grading a program: one runs it, the other the tests of it, each as a script in a sandbox of its own.

The tests reach what the program defined over pipes and see values, never its objects, and they alone hold the channel
for the verdict. So a program can say what its functions return, which is what is tested, and nothing else.

A line is one JSON object, an operation on the program's side or what came of it. `None`, booleans, integers, floats, complex
numbers, strings, bytes, lists, tuples, dictionaries and sets travel as values (subclasses as what they extend); anything
else stays where it is and travels as a number, a `Handle` on the other side. `modules.code_grader` starts both.
"""

from __future__ import annotations

import ast
import builtins
import json
import operator
import os
import symtable
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, BinaryIO, Final, NoReturn

MAX_LINE: Final = 16 * 2**20  # bytes; a program may send what it likes

_OF_PROGRAM: Final = "raised by the program"
Keep = Callable[[Any], int]  # what is no value -> its number
Give = Callable[[int], Any]  # the way back

_COLLECTIONS: Final[dict[str, Any]] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
_OPERATIONS: Final[dict[str, Callable[..., Any]]] = {
    "call": lambda function, args, kwargs: function(*args, **kwargs),
    "getattr": getattr,
    "setattr": setattr,
    "getitem": operator.getitem,
    "setitem": operator.setitem,
    "iter": iter,
    "next": next,
    "len": len,
    "bool": bool,
    "str": str,
    "repr": repr,
}


def encode(value: Any, keep: Keep) -> Any:
    """Turns a value into what JSON can say.

    >>> encode((1, {"a": b"b"}), id)
    {'tuple': [1, {'dict': [['a', {'bytes': '62'}]]}]}
    """
    if value is None or isinstance(value, bool):
        return value
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
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {"dict": [[encode(key, keep), encode(item, keep)] for key, item in dict.items(value)]}
    for name, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [encode(item, keep) for item in kind.__iter__(value)]}
    return {"handle": keep(value)}


def decode(data: Any, give: Give) -> Any:
    """Turns what JSON said into the value; raises anything on what `encode` does not make."""
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise TypeError("a bare list is no encoded value")
        return data
    ((name, content),) = data.items()
    if name == "int":
        return int(content, 16)
    if name == "complex":
        return complex(*content)
    if name == "bytes":
        return bytes.fromhex(content)
    if name == "dict":
        return {decode(key, give): decode(item, give) for key, item in content}
    if name == "handle":
        return give(content)
    return _COLLECTIONS[name](decode(item, give) for item in content)


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


# -- the side of the program ---------------------------------------------------------------------------------------------


class Objects:
    """What stays on the program's side, by number; an object keeps its number."""

    def __init__(self) -> None:
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def keep(self, value: Any) -> int:
        number = self._numbers.setdefault(id(value), len(self._objects))
        if number == len(self._objects):
            self._objects.append(value)
        return number

    def give(self, number: int) -> Any:
        return self._objects[number]


def serve(namespace: dict[str, Any], requests: BinaryIO, replies: BinaryIO) -> None:
    """Does what the tests ask for, `[name, *arguments]`, until they are gone."""
    objects = Objects()
    operations = {**_OPERATIONS, "global": namespace.__getitem__}
    while True:
        name, arguments = decode(read_line(requests), objects.give)
        try:
            reply = {"value": encode(operations[name](*arguments), objects.keep)}
        except BaseException as error:  # SystemExit among them: a function that exits has not returned
            reply = {"error": [_builtin_name(error), str(error)[:1000]]}
        write_line(replies, reply)


def run_program(preamble: str, program: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Runs a program, then does with its names what the tests ask for."""
    write_line(replies, "started")  # before anything that nobody trusts
    module = ModuleType("program")  # a real one: dataclasses look theirs up
    sys.modules["program"] = module
    for text in (preamble, program):
        exec(compile(text, "<program>", "exec", dont_inherit=True), module.__dict__)
    serve(module.__dict__, requests, replies)


def _builtin_name(error: BaseException) -> str:
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")


# -- the side of the tests -----------------------------------------------------------------------------------------------


class Program:
    """The other side as the tests see it. What it sends decides values and errors; if it fails to answer, all is over."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO, lost: Callable[[], NoReturn]) -> None:
        self._requests, self._replies, self._lost = requests, replies, lost

    def ask(self, name: str, *arguments: Any) -> Any:
        """Has an operation done; returns its value or raises its error."""
        request = encode([name, list(arguments)], _number)
        try:
            write_line(self._requests, request)
            reply = read_line(self._replies)
            if reply.keys() == {"value"}:
                return decode(reply["value"], self._handle)
            kind, text = map(str, reply["error"])
        except BaseException:  # what comes from there is no reason to go on
            self._lost()
        raise _error(kind, text)

    def _handle(self, number: int) -> Handle:
        return Handle(self, int(number))


class Handle:
    """An object of the program. It equals itself and nothing else, whatever the program says."""

    __slots__ = ("_number", "_program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and self._number == other._number

    def __hash__(self) -> int:
        return hash(("Handle", self._number))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._program.ask("call", self, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols, such as numpy's of memory: not for the program to answer
            raise AttributeError(name)
        return self._program.ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("setattr", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("setitem", self, key, value)

    def __iter__(self) -> Any:
        return self._program.ask("iter", self)

    def __next__(self) -> Any:
        return self._program.ask("next", self)

    def __len__(self) -> int:
        return operator.index(self._program.ask("len", self))

    def __bool__(self) -> bool:
        return self._program.ask("bool", self) is True

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("an object of a program is no array; numpy would take an empty one for close to anything")

    def __str__(self) -> str:
        return str.__str__(self._program.ask("str", self))

    def __repr__(self) -> str:
        return str.__str__(self._program.ask("repr", self))


def run_tests(preamble: str, tests: str, requests: BinaryIO, replies: BinaryIO, report: Callable[[str], None]) -> None:
    """Runs tests against the program on the other side.

    Reports "ready" when both sides run, then "pass", "fail", or "broken" for tests that say nothing about any program.
    """

    def lost() -> NoReturn:
        report("fail")
        os._exit(0)

    if read_line(replies) != "started":
        raise EOFError("the program's side did not start")
    report("ready")
    program = Program(requests, replies, lost)
    try:
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(compile(_without_stubs(preamble), "<preamble>", "exec", dont_inherit=True), namespace)
        code = compile(tests, "<tests>", "exec", dont_inherit=True)
        names = names_under_test(tests, {*namespace})
    except Exception:  # not even Python
        names = set()
    if not names:
        report("broken")
        return
    for name in sorted(names):
        try:
            namespace[name] = program.ask("global", name)
        except KeyError:
            continue  # tests that need it fail
    try:
        exec(code, namespace)
    except ImportError as error:  # a package that tests need and this machine lacks
        report("fail" if _OF_PROGRAM in getattr(error, "__notes__", ()) else "broken")
    except BaseException:
        report("fail")
    else:
        report("pass")


def names_under_test(tests: str, known: set[str]) -> set[str]:
    r"""Returns the global names that tests use and get from nowhere else: the program's.

    A program cannot replace a builtin that tests use, unless it is the only name they use at all.

    >>> sorted(names_under_test("import math\nassert math.isclose(f(1), abs(g))", set()))
    ['f', 'g']
    >>> names_under_test("assert sum(1, 2) == 3", set())
    {'sum'}
    """
    used: set[str] = set()
    defined = set(known)
    tables = [symtable.symtable(tests, "<tests>", "exec")]
    while tables:
        table = tables.pop()
        for symbol in table.get_symbols():
            at_top = table.get_type() == "module"
            if at_top or symbol.is_global():
                if symbol.is_referenced():
                    used.add(symbol.get_name())
                if symbol.is_assigned() or symbol.is_imported():
                    defined.add(symbol.get_name())
        tables += table.get_children()
    names = used - defined
    foreign = {name for name in names if not hasattr(builtins, name)}
    return foreign or (names if len(names) == 1 else set())


def _without_stubs(preamble: str) -> ast.Module:
    """Parses what programs are built on, without the functions that are for them to define: those without a body."""
    tree = ast.parse(preamble)
    tree.body = [node for node in tree.body if not _is_stub(node)]
    return tree


def _is_stub(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in node.body
    )


def _number(value: Any) -> int:
    if not isinstance(value, Handle):
        raise TypeError(f"a {type(value).__name__} of the tests cannot be given to the program")
    number: int = value._number
    return number


def _error(name: str, text: str) -> Exception:
    """Returns the builtin error of that name, as far as it is one that tests may expect."""
    kind = getattr(builtins, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    try:
        error = kind(text)
    except TypeError:  # one that takes more than a text
        error = RuntimeError(text)
    error.add_note(_OF_PROGRAM)
    return error


def main(role: str, preamble: str, text: str) -> None:
    """Runs one side over the standard streams: in and out to the other side; the tests report on standard error."""
    channels = [os.dup(number) for number in range(3)]
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):  # what a program reads and prints is nobody's
        os.dup2(nowhere, number)
    incoming, outgoing = os.fdopen(channels[0], "rb"), os.fdopen(channels[1], "wb")
    if role == "program":
        os.close(channels[2])
        run_program(preamble, text, incoming, outgoing)
    else:
        run_tests(preamble, text, outgoing, incoming, lambda word: _report(channels[2], word))


def _report(channel: int, word: str) -> None:
    os.write(channel, f"{word}\n".encode())


if __name__ == "__main__":
    main(**json.loads(message))  # type: ignore[name-defined]  # noqa: F821  # what `_sandbox_inside` gives to scripts
