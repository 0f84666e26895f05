"""The side of the tests: runs them against the program on the other side, and alone says what came of it."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable
from io import BytesIO
from types import ModuleType
from typing import Any, BinaryIO, Final, NoReturn

from masa_lightning.grading.programs import guards
from masa_lightning.grading.programs.empties import guard_empties
from masa_lightning.grading.programs.handles import OF_PROGRAM, Handle, Program
from masa_lightning.grading.programs.instrument import instrument
from masa_lightning.grading.programs.ledger import ExpiredError, Ledger, Outcome, UntoldError
from masa_lightning.grading.programs.names import names_under_test, without_stubs
from masa_lightning.grading.programs.own_imports import without_own_imports
from masa_lightning.grading.programs.program_side import give_exits
from masa_lightning.grading.programs.shared import Shared
from masa_lightning.grading.programs.stdio import read_cases
from masa_lightning.grading.programs.syntax import LEDGER, last_name, walk
from masa_lightning.grading.programs.taint import Taint
from masa_lightning.grading.programs.values import read_line

_UNSEEN: Final = (
    *("capsys", "capfd", "monkeypatch", "redirect_stdout", "redirect_stderr", "doctest", "mock", "subprocess"),
    *("inspect", "__code__", "argv"),
)
_EXITS: Final = ("exit", "quit", "_exit")


class Tests:
    """A file of tests, made ready to be run against programs.

    Args:
        preamble: What programs are built on.
        text: The tests.
        ledger: Holds what comes of them.

    Attributes:
        names: The program's names in them.
    """

    def __init__(self, preamble: str, text: str, ledger: Ledger) -> None:
        self._ledger = ledger
        give_exits()
        try:
            text, self._imported = without_own_imports(text)
            self._text = text
            stubs, self._preamble = without_stubs(preamble)
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ledger.cannot(f"its tests are no Python: {error}") from None
        known: dict[str, Any] = {}
        self._run_preamble(known)
        self.names = self._imported | names_under_test(text, {*known})
        self._candidate = stubs[0] if len(stubs) == 1 else ""  # what a `check(candidate)` is for that nobody calls
        if self._candidate:
            self.names.add(self._candidate)
        if not self.names:
            raise ledger.cannot("its tests use no name that a program could define")
        if unseen := sorted({name for node in walk(tree) if (name := _word(node)) in _UNSEEN}):
            raise ledger.cannot(
                f"its tests use {unseen[0]}: what a program prints or imports, and its text, is not theirs to see"
            )
        if any(map(_exits, tree.body)):
            raise ledger.cannot("its tests exit with an error, whatever the program does")
        self._written = ast.parse(text)  # what stays as it was
        self._numpy = any(package in text for package in ("numpy", "pandas", "torch"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and len(node.args.args) == 1]
        given = {node.args.args[0].arg for node in functions} if self._candidate else set()
        taint = Taint(tree, self.names | given)
        if any(
            _is_text_run(node) and not taint.touches(node.args) for node in walk(tree) if isinstance(node, ast.Call)
        ):
            raise ledger.cannot("its tests run a text of their own (eval, exec): what they assert in it is not seen")
        instrument(tree, taint, numpy=self._numpy)
        guard_empties(tree, taint)
        self._code = compile(tree, "<tests>", "exec", dont_inherit=True)

    def _run_preamble(self, namespace: dict[str, Any]) -> None:
        try:
            exec(compile(self._preamble, "<preamble>", "exec", dont_inherit=True), namespace)
        except Exception as error:
            raise self._ledger.cannot(f"its preamble does not run: {error}") from None

    def run(self, program: Program) -> Outcome:
        """Runs them against a program."""
        ledger = self._ledger
        module = ModuleType("__main__")  # also for what they do only when they are run as a script
        sys.modules["__main__"] = module
        namespace = module.__dict__
        guards.install(self._text, ledger)
        self._run_preamble(namespace)
        namespace[LEDGER] = ledger
        for name in sorted(self.names):
            try:
                namespace[name] = program.ask("global", name)
            except KeyError:
                if name in self._imported:  # tests of a builtin's name must not get the builtin
                    return "broken" if ledger.broken else "fail"
                continue  # tests that need it fail
        try:
            try:
                exec(self._code, namespace)
            except SystemExit as error:  # theirs: a program's comes as another error
                if error.code not in (None, 0):
                    return "broken" if ledger.broken else "fail"
            if any(isinstance(node, ast.stmt) and hasattr(node, "name") for node in walk(self._written)):
                from masa_lightning.grading.programs.collect import run_defined  # not needed by bare assertions

                candidate = namespace.get(self._candidate, _undefined) if self._candidate else None
                run_defined(self._written, namespace, ledger, candidate)
        except ImportError as error:  # a package that tests need and this machine lacks
            if OF_PROGRAM not in getattr(error, "__notes__", ()):
                raise ledger.cannot(f"its tests import what is not there: {error}") from None
            return "fail"
        except (UntoldError, ExpiredError):
            raise
        except BaseException as error:
            if _is_of_tests(error):
                raise ledger.cannot(f"its tests do what a sandbox does not allow: {error!r:.200}") from None
            return "broken" if ledger.broken else "fail"
        return ledger.outcome()


def _is_of_tests(error: BaseException) -> bool:
    """Returns whether an error is no word about the program: tests that open files, read input or start threads raise it."""
    limits = isinstance(error, OSError | EOFError) or (isinstance(error, RuntimeError) and "new thread" in str(error))
    return limits and OF_PROGRAM not in getattr(error, "__notes__", ())


def _undefined(*_: Any, **__: Any) -> None:
    """Stands for the function to complete, of a program without it."""
    raise NameError("the program does not define the function to complete")


def run_tests(
    preamble: str,
    text: str,
    requests: BinaryIO,
    replies: BinaryIO,
    report: Callable[[str], None],
    *,
    apart: bool = False,
) -> None:
    """Runs tests against the program on the other side; held apart, it has but copies of what the tests give it.

    Reports "ready" when both sides run, then an `Outcome`.
    """
    ledger = Ledger()

    def lost() -> NoReturn:
        report("broken" if ledger.broken else "fail")
        os._exit(0)

    try:
        tests = Tests(preamble, text, ledger)  # in time that is not the program's
    except UntoldError:
        tests = None
    if read_line(replies) != "started":
        raise EOFError("the program's side did not start")
    report("ready")
    try:
        report("broken" if tests is None else tests.run(Program(requests, replies, lost, ledger, apart=apart)))
    except UntoldError:
        report("broken")


def run_cases(text: str, requests: BinaryIO, replies: BinaryIO, report: Callable[[str], None]) -> None:
    """Runs a program on inputs and compares what it writes; reports as `run_tests` does."""

    def lost() -> NoReturn:
        report("fail")
        os._exit(0)

    if read_line(replies) != "started":
        raise EOFError("the program's side did not start")
    report("ready")
    cases, program = read_cases(text), Program(requests, replies, lost)
    try:
        report("pass" if cases.hold(program) else "fail")
    except Exception:  # the program's
        report("fail")


# What tests say of these is no verdict about a program, where they pass or assert nothing.
_EMPTY: Final = (
    ("a program that defines nothing", None),
    ("functions that return None", lambda: None),
    ("functions that raise an error", Exception),
    ("functions that return []", list),
    ("functions that return {}", dict),
    ("functions that return ''", str),
)
_COLLECTIONS: Final = (list, dict, str)  # tests of a program with loops may assert nothing about these


def check_tests(preamble: str, text: str, ledger: Ledger) -> str:
    """Runs tests against programs that do nothing; returns why they are no tests, or "" if they are some."""
    ledger.reset()
    try:
        tests = Tests(preamble, text, ledger)
        for words, does in _EMPTY:
            ledger.reset()
            outcome = tests.run(_Empty(does, ledger))
            if outcome == "pass" or (outcome == "unclear" and does not in _COLLECTIONS):
                return f"its tests are passed by {words}"
            if does in _COLLECTIONS:
                continue
            if outcome == "nothing" and does is None:
                return "its tests assert nothing about a program"
            if outcome == "nothing" and does is not Exception:
                return f"its tests assert nothing about {words}"
            if outcome == "broken":
                return ledger.broken
    except UntoldError:
        return ledger.broken
    return ""


class _Empty(Program):
    """A program whose functions all do the same; None for one that has none. Its classes make objects."""

    def __init__(self, does: Any, ledger: Ledger) -> None:
        super().__init__(BytesIO(), BytesIO(), lambda: os._exit(1), ledger)
        self._does = does
        self._made = 1

    def ask(self, name: str, *arguments: Any) -> Any:
        Shared(self.keep, self.give).pack(arguments)  # or it cannot be given to any program
        if self._does is None:
            raise KeyError(name)
        match name:
            case "global":
                return Handle(self, int(arguments[0][:1].isupper()))
            case "call" if arguments[0] == Handle(self, 1):
                self._made += 1
                return Handle(self, self._made)
            case "call":
                return self._do()
            case "getattr" if arguments[0] != Handle(self, 0):
                return Handle(self, 0)
            case "equal":
                return [False, True]
        raise TypeError(f"what does nothing has no {name}")

    def _do(self) -> Any:
        if self._does is Exception:
            error = Exception("this program does nothing")
            error.add_note(OF_PROGRAM)
            raise error
        return self._does()


def _exits(node: ast.stmt) -> bool:
    """Returns whether a statement ends the tests with an error whenever it is reached: `sys.exit("done")`."""
    match node:
        case ast.Expr(value=ast.Call(func=function, args=[ast.Constant(value=code)])):
            return last_name(function) in _EXITS and code not in (None, 0)
        case ast.Raise(exc=ast.Call(func=ast.Name(id="SystemExit"), args=[ast.Constant(value=code)])):
            return code not in (None, 0)
    return False


def _is_text_run(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id in ("eval", "exec")


def _word(node: ast.AST) -> str:
    match node:
        case ast.Attribute(attr="print", ctx=ast.Store()):
            return "mock"
        case ast.alias(name=name) | ast.ImportFrom(module=str(name)) if "." in name:
            return name.rpartition(".")[2]
        case ast.ImportFrom(module=str(name)):
            return name
        case ast.Attribute(attr="stdout" | "stdin", ctx=ast.Store()):
            return "redirect_stdout"
        case ast.Name(id=name) | ast.arg(arg=name) | ast.Attribute(attr=name) | ast.alias(name=name):
            return name
    return ""
