"""Runs what tests only define: functions and classes as pytest does, and `unittest.TestCase`."""

from __future__ import annotations

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from masa_lightning.grading.programs import guards, pytest_shim
from masa_lightning.grading.programs.instrument import asserts
from masa_lightning.grading.programs.ledger import Ledger

_BEFORE: Final = ("setup_class", "setup_method", "setUp")
_AFTER: Final = ("teardown_method", "tearDown", "teardown_class")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def run_defined(tree: ast.Module, namespace: Mapping[str, Any], ledger: Ledger, candidate: Any = None) -> None:
    """Runs the tests that are defined at the top and were not called yet.

    Args:
        tree: The tests, as written.
        namespace: What they defined.
        ledger: Knows what was called.
        candidate: What a function such as `check(candidate)` is for, if anybody knows.
    """
    guards.run_test_cases(guards.test_cases(namespace), but=ledger.entered)
    for node in _definitions(tree.body):
        defined = namespace.get(node.name)
        if isinstance(node, ast.ClassDef):
            if isinstance(defined, type) and defined not in guards.test_cases(namespace):
                _run_class(node, defined, namespace, ledger)
        elif callable(defined) and not hasattr(defined, pytest_shim.FIXTURE) and node.name not in ledger.entered:
            parameters = _required(defined)
            if node.name.startswith("test"):
                _run_test(defined, namespace, ledger)
            elif asserts(node) and not parameters:
                _call(defined)
            elif asserts(node) and len(parameters) == 1 and candidate is not None:
                _call(defined, candidate)


def _definitions(body: list[ast.stmt]) -> Iterator[_Definition]:
    for node in body:
        if isinstance(node, _Definition):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _definitions(node.body)


def _run_class(node: ast.ClassDef, kind: type, namespace: Mapping[str, Any], ledger: Ledger) -> None:
    methods = (part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef))
    for name in (method.name for method in methods if method.name.startswith("test")):
        if f"{node.name}.{name}" in ledger.entered:
            continue
        function = getattr(kind, name)
        instance = kind()
        cases = [*getattr(kind, pytest_shim.CASES, []), *getattr(function, pytest_shim.CASES, [])]
        for setup in _BEFORE:
            _around(instance, setup)
        _run_test(getattr(instance, name), {**namespace, **_bound(instance)}, ledger, cases)
        for teardown in _AFTER:
            _around(instance, teardown)


def _around(instance: Any, name: str) -> None:
    if (method := getattr(instance, name, None)) is not None:
        method(*[None for _ in _required(method)])


def _bound(instance: Any) -> dict[str, Any]:
    members = {name: getattr(instance, name) for name in dir(type(instance)) if not name.startswith("__")}
    return {name: member for name, member in members.items() if hasattr(member, pytest_shim.FIXTURE)}


def _run_test(function: Any, namespace: Mapping[str, Any], ledger: Ledger, cases: Any = None) -> None:
    """Runs a test once for each combination of its parameters, with fixtures made anew."""
    cases = getattr(function, pytest_shim.CASES, []) if cases is None else cases
    for combination in itertools.product(*(values for _, values in cases)):
        given: dict[str, Any] = {}
        for (names, _), values in zip(cases, combination, strict=True):
            if len(names) != len(values):
                raise ledger.cannot(f"the tests have {len(values)} values for the parameters {', '.join(names)}")
            given |= dict(zip(names, values, strict=True))
        with ExitStack() as stack:
            arguments = _arguments(function, given, namespace, ledger, stack)
            try:
                _call(function, **arguments)
            except pytest_shim.SkippedError:
                continue


def _arguments(
    function: Any, given: dict[str, Any], namespace: Mapping[str, Any], ledger: Ledger, stack: ExitStack
) -> dict[str, Any]:
    """Finds what a test needs: parameters, else fixtures, which need others in turn."""
    arguments = {}
    for name in _required(function) + [name for name in given if name in inspect.signature(function).parameters]:
        if name in given:
            arguments[name] = given[name]
            continue
        fixture = namespace.get(name)
        if not hasattr(fixture, pytest_shim.FIXTURE):
            raise ledger.cannot(f"the tests need {name!r}, which is no fixture of theirs")
        inner = _arguments(fixture, given, namespace, ledger, stack)
        if inspect.isgeneratorfunction(fixture):
            given[name] = stack.enter_context(contextmanager(fixture)(**inner))
        else:
            given[name] = _call(fixture, **inner)
        arguments[name] = given[name]
    return arguments


def _required(function: Any) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return []
    return [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def _call(function: Any, *args: Any, **kwargs: Any) -> Any:
    result = function(*args, **kwargs)
    if not inspect.iscoroutine(result):
        return result
    import asyncio

    return asyncio.run(result)
