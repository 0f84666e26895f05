"""What tests use of pytest, without pytest: it need not be installed, and what is not known here is said and not skipped."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Self

from masa_lightning.grading.programs.ledger import Ledger

CASES: Final = "_masa_cases"  # of a function or class: [(names, [values])]
FIXTURE: Final = "_masa_fixture"
_LOST: Final = ("skipif", "xfail", "usefixtures")


class SkippedError(Exception):
    """A test that is not run, and so asserts nothing."""


class _Raises:
    """What `pytest.raises` gives: the error that has to come, then the one that came."""

    def __init__(self, kind: Any, match: str | None) -> None:
        self._kind, self._match = kind, match
        self.value: BaseException | None = None

    @property
    def type(self) -> Any:
        return type(self.value)

    def match(self, pattern: str) -> bool:
        assert re.search(pattern, str(self.value)), f"{self.value} does not match {pattern}"
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        assert error is not None, f"no {self._kind} was raised"
        if not isinstance(error, self._kind):
            return False
        self.value = error
        if self._match is not None:
            self.match(self._match)
        return True


def raises(kind: Any, *call: Any, match: str | None = None, **kwargs: Any) -> Any:
    """Like `pytest.raises`, in both forms."""
    if not call:
        return _Raises(kind, match)
    with _Raises(kind, match) as raised:
        call[0](*call[1:], **kwargs)
    return raised


class Approx:
    """Like `pytest.approx`: equal to numbers within a tolerance, and to collections of them of the same kind and length."""

    __array_ufunc__ = None
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(  # pytest's names
        self,
        expected: Any,
        rel: float | None = None,
        abs: float | None = None,  # noqa: A002
        nan_ok: bool = False,
    ) -> None:
        self._expected, self._rel, self._abs, self._nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: object) -> bool:
        return self._close(self._expected, actual)

    def _close(self, expected: Any, actual: Any) -> bool:
        expected, actual = (getattr(value, "tolist", lambda value=value: value)() for value in (expected, actual))
        if isinstance(expected, Mapping):
            return (
                isinstance(actual, Mapping)
                and expected.keys() == actual.keys()
                and all(self._close(expected[key], actual[key]) for key in expected)
            )
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            return (
                isinstance(actual, Sequence)
                and not isinstance(actual, str | bytes)
                and len(expected) == len(actual)
                and all(map(self._close, expected, actual))
            )
        if isinstance(expected, bool) or not _number(expected) or not _number(actual):
            return bool(expected == actual) and not isinstance(actual, Sequence | Mapping) ^ isinstance(expected, str)
        if expected == actual:
            return True
        if math.isnan(abs(expected)) or math.isnan(abs(actual)):
            return self._nan_ok and math.isnan(abs(expected)) and math.isnan(abs(actual))
        if math.isinf(abs(expected)) or math.isinf(abs(actual)):
            return False
        relative = (1e-6 if self._abs is None else 0.0) if self._rel is None else self._rel
        absolute = 1e-12 if self._abs is None else self._abs
        return bool(abs(expected - actual) <= max(float(relative) * abs(expected), absolute))


def _number(value: Any) -> bool:
    return hasattr(type(value), "__abs__") and hasattr(type(value), "__sub__") and not hasattr(type(value), "__len__")


class _Mark:
    """A mark that changes nothing, as a decorator or called before."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return args[0] if len(args) == 1 and not kwargs and callable(args[0]) else self


class _Marks:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __getattr__(self, name: str) -> Any:
        if name in _LOST:
            raise self._ledger.cannot(f"the tests use pytest.mark.{name}, which is not known here")
        return {"parametrize": self._parametrize, "skip": self._skip}.get(name) or _Mark()

    def _parametrize(self, names: Any, values: Any, ids: Any = None, **others: Any) -> Callable[[Any], Any]:
        if others:
            raise self._ledger.cannot(f"the tests use pytest.mark.parametrize with {', '.join(others)}")
        alone = isinstance(names, str) and "," not in names
        names = [name.strip() for name in names.split(",")] if isinstance(names, str) else [*names]

        def decorate(function: Any) -> Any:
            cases = [[case] if alone and not isinstance(case, _Case) else [*case] for case in values]
            setattr(function, CASES, [*getattr(function, CASES, []), (names, cases)])
            return function

        return decorate

    def _skip(self, *args: Any, **kwargs: Any) -> Any:
        def decorate(function: Any) -> Any:
            def skipped() -> None:
                raise SkippedError

            return skipped

        return decorate(args[0]) if len(args) == 1 and callable(args[0]) else decorate


class _Case(tuple[Any, ...]):
    """What `pytest.param` gives."""

    __slots__ = ()


class _Pytest(ModuleType):
    """The module; what it lacks makes the tests no tests."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__("pytest")
        self._ledger = ledger
        self.raises, self.approx, self.mark = raises, Approx, _Marks(ledger)
        self.fixture, self.param, self.main = self._fixture, self._param, lambda *args, **kwargs: 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._ledger.cannot(f"the tests use pytest.{name}, which is not known here")

    def fail(self, reason: str = "", **kwargs: Any) -> None:
        """Fails."""
        raise AssertionError(reason)

    def skip(self, reason: str = "", **kwargs: Any) -> None:
        """Ends a test that then asserts no more."""
        raise SkippedError(reason)

    def _param(self, *values: Any, marks: Any = (), **names: Any) -> _Case:
        if marks:
            raise self._ledger.cannot("the tests use pytest.param with marks, which are not known here")
        return _Case(values)

    def _fixture(self, function: Any = None, **kwargs: Any) -> Any:
        if set(kwargs) - {"scope"}:
            raise self._ledger.cannot(f"the tests use pytest.fixture with {', '.join(kwargs)}, which is not known here")

        def decorate(function: Any) -> Any:
            setattr(function, FIXTURE, True)
            return function

        return decorate if function is None else decorate(function)


def install(ledger: Ledger) -> None:
    """Makes `import pytest` give this."""
    sys.modules["pytest"] = _Pytest(ledger)
