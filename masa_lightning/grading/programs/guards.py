"""Makes libraries that tests use tell the ledger what they would keep to themselves. In the tests' process alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

from masa_lightning.grading.programs import pytest_shim
from masa_lightning.grading.programs.ledger import Ledger

_DONE: set[str] = set()


def install(text: str, ledger: Ledger) -> None:
    """Guards the libraries that a file of tests names; each once a process, which has one ledger."""
    for name, guard in (
        ("pytest", pytest_shim.install),
        ("numpy", _numpy),
        ("unittest", _unittest),
        ("asyncio", _asyncio),
    ):
        if name in text and name not in _DONE:
            _DONE.add(name)
            guard(ledger)


# -- numpy: shapes come first ------------------------------------------------------------------------------------------


def _numpy(ledger: Ledger) -> None:
    try:
        import numpy as np
    except ImportError:
        return
    names = "assert_allclose assert_almost_equal assert_array_almost_equal assert_array_equal assert_equal"
    for module, name in [
        *((np, name) for name in ("allclose", "isclose", "array_equiv")),
        *((np.testing, name) for name in (*names.split(), "assert_array_less")),
    ]:
        setattr(module, name, _with_shapes(getattr(module, name), ledger))


def _with_shapes(function: Callable[..., Any], ledger: Ledger) -> Callable[..., Any]:
    def call(left: Any, right: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            ledger.check_shapes(left, right)
        except AssertionError:
            if function.__name__.startswith("assert"):
                raise
            return False
        return function(left, right, *args, **kwargs)

    return call


# -- unittest: a failure counts, whoever runs the tests ----------------------------------------------------------------


def _unittest(ledger: Ledger) -> None:
    import unittest

    def noted(name: str, fails: Callable[..., bool]) -> None:
        original = getattr(unittest.TestResult, name)

        def method(self: Any, *args: Any) -> Any:
            ledger.failed |= fails(*args)
            return original(self, *args)

        setattr(unittest.TestResult, name, method)

    for name in ("addError", "addFailure", "addUnexpectedSuccess"):
        noted(name, lambda *args: True)
    noted("addSubTest", lambda test, subtest, error: error is not None)

    def main(*args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(result=run_test_cases(test_cases(vars(sys.modules["__main__"]))))

    unittest.main = main  # type: ignore[assignment]


def test_cases(namespace: Mapping[str, Any]) -> list[type]:
    """Returns the test cases that tests define."""
    unittest = sys.modules.get("unittest")
    kinds = dict.fromkeys(value for value in namespace.values() if isinstance(value, type))
    return [
        kind for kind in kinds if unittest and issubclass(kind, unittest.TestCase) and kind.__module__ == "__main__"
    ]


def run_test_cases(kinds: list[type], but: Collection[str] = ()) -> Any:
    """Runs test cases, but not the methods that were called before; returns the result, of which the ledger knows too."""
    if not kinds:
        return None
    import unittest

    result, suite = unittest.TestResult(), unittest.TestSuite()
    for kind in kinds:
        names = unittest.TestLoader().getTestCaseNames(kind) or ["runTest"] * hasattr(kind, "runTest")
        suite.addTests(kind(name) for name in names if f"{kind.__name__}.{name}" not in but)
    suite.run(result)
    return result


# -- asyncio: what the program gives can be waited for -----------------------------------------------------------------


def _asyncio(ledger: Ledger) -> None:
    import asyncio
    import inspect  # slow, and most tests do without

    run = asyncio.run

    def run_awaitable(awaitable: Any, **kwargs: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return run(awaitable if inspect.iscoroutine(awaitable) else wait(), **kwargs)

    asyncio.run = run_awaitable  # type: ignore[assignment]
