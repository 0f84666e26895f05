"""What tests have asserted so far, and comparisons that a program cannot shorten, skip or broadcast.

Instrumented tests (`instrument`) call the methods of the one `Ledger` of their process.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from operator import length_hint
from typing import Any, Final, Literal

from masa_lightning.grading.programs.arrays import compares, is_numpys, repeats

Outcome = Literal["pass", "changed", "fail", "nothing", "unclear", "broken"]

# Errors that end a loop or a process without a word. Of a program they come as another kind.
SILENT: Final = ("StopIteration", "StopAsyncIteration", "GeneratorExit", "SystemExit", "KeyboardInterrupt")
SILENCED: Final[dict[str, type[RuntimeError]]] = {name: type(name, (RuntimeError,), {}) for name in SILENT}
KINDS: Final[dict[str, tuple[type, ...]]] = {
    name: (getattr(sys.modules["builtins"], name), kind) for name, kind in SILENCED.items()
}

_OPERATORS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    **{"Lt": operator.lt, "LtE": operator.le, "Gt": operator.gt, "GtE": operator.ge, "Eq": operator.eq},
    **{"NotEq": operator.ne, "In": lambda left, right: left in right},
    **{"Add": operator.add, "Sub": operator.sub, "Mult": operator.mul, "Div": operator.truediv},
    **{"FloorDiv": operator.floordiv, "Mod": operator.mod, "Pow": operator.pow},
    **{"BitAnd": operator.and_, "BitOr": operator.or_, "BitXor": operator.xor},
}
_COPIED: Final = (str, bytes, int, float, complex, tuple, frozenset, range)
_ORDER: Final = ("Lt", "LtE", "Gt", "GtE")


About = Literal["program", "given", ""]  # what an assertion is about


class UntoldError(BaseException):
    """What tests do cannot be judged here; no program is right or wrong by them."""


class ExpiredError(BaseException):
    """Tests have run for too long."""


class Ledger:
    """What came of tests.

    Attributes:
        asserted: Assertions about the program that held.
        failed: Whether one failed whose error goes elsewhere than to this process.
        unclear: Whether one rests on what the program says about itself, or something failed and was caught.
        empty: Whether the program gave nothing where they go through what it gives.
        changed: Whether the program changed a collection of the tests in a call whose result they look at.
        returned: Whether it returned one, so that tests may change what they gave it by what they got.
        broken: Why the tests are no tests, if they are none.
        entered: Functions that were called.
    """

    kinds = KINDS

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets everything, for the next program."""
        self.asserted = 0
        self.failed = self.unclear = self.empty = self.changed = self.returned = False
        self.broken = ""
        self.entered: set[str] = set()
        self._turning: set[int] = set()
        self._tried: set[int] = set()
        self._reached: set[int] = set()
        self._looked_up: dict[int, dict[str, set[Any]]] = {}

    def outcome(self) -> Outcome:
        """What it comes to if the tests ran to their end."""
        if self.broken:
            return "broken"
        if self.failed:
            return "fail"
        if not self.asserted:
            return "fail" if self.empty else "nothing"  # a loop over nothing of the program's kept them from it
        if self.unclear or self._tried - self._reached:
            return "unclear"
        return "changed" if self.changed else "pass"

    def cannot(self, reason: str) -> UntoldError:
        """Notes why these are no tests; returns the error to raise."""
        self.broken = self.broken or reason
        return UntoldError(reason)

    # -- what instrumented tests call --------------------------------------------------------------------------------------

    def judge(self, about: About, value: Any) -> bool:
        """Stands in an assertion in the place of what it asserts."""
        holds = bool(value)
        if holds:
            self.count(about)
        else:
            self.unclear = True  # if the error is caught; if not, they fail anyway
        return holds

    def count(self, about: About = "program", value: Any = None) -> Any:
        """Counts an assertion about the program that has held, or about what it was given and has changed."""
        self.asserted += about == "program" or (about == "given" and (self.changed or self.returned))
        return value

    def enter(self, name: str) -> None:
        """Notes that a function was called."""
        self.entered.add(name)

    def zip(self, of_program: tuple[bool, ...], *args: Iterable[Any], strict: bool = False) -> Iterator[Any]:
        """Like `zip`, but what comes from the program cannot end before what it is compared with."""
        iterators = [iter(arg) for arg in args]
        sized = [_sized(arg) for arg in args]
        ended: set[int] = set()
        while True:
            row = []
            for index, iterator in enumerate(iterators):
                try:
                    row.append(next(iterator))
                except StopIteration:
                    ended.add(index)
                    row.append(None)
            if not ended:
                yield tuple(row)
                continue
            left = {*range(len(args))} - ended
            if strict and left:
                raise ValueError("zip() arguments have different lengths")
            if all(of_program[index] for index in ended) and any(
                sized[index] and not of_program[index] for index in left
            ):
                raise AssertionError("the program gave less than it is compared with")
            if any(sized[index] and of_program[index] for index in left):
                self.unclear = True  # what it gave beyond that was not looked at
            return

    def map(self, of_program: tuple[bool, ...], function: Callable[..., Any], *args: Iterable[Any]) -> Iterator[Any]:
        """Like `map` over several, which what comes from the program cannot end."""
        for row in self.zip(of_program, *args):
            yield function(*row)

    def next(self, iterator: Any) -> Any:
        """Like `next`, but the end of what the program gives is no end of a loop of the tests."""
        try:
            return next(iterator)
        except StopIteration:
            raise SILENCED["StopIteration"]("the program gave no more") from None

    def fall_back(self, function: Any, *args: Any) -> Any:
        """Calls what gives its last argument where the program has no value; that this one is as expected is noted."""
        *given, default = args
        if type(default) is object or hasattr(type(function), "__masa_call_in_place__"):  # it only marks the end
            return function(*args)
        nothing = object()
        value = function(*given, nothing)
        self.unclear |= value is nothing
        return default if value is nothing else value

    def same(self, left: Any, right: Any) -> bool:
        """Like `is`, of what may have come as a copy."""
        if left is not right and type(left) is type(right) and isinstance(left, _COPIED) and left == right:
            raise self.cannot("its tests ask whether two equal values are one object")
        return left is right

    # -- what is looked up as a loop over something of the program goes on -------------------------------------------------

    def start(self, loop: int) -> None:
        """Notes that a loop begins."""
        self._looked_up[loop] = {}

    def look(self, loop: int, source: str, values: Any, key: Any) -> Any:
        """Looks a value up in what the loop's elements are compared with."""
        return self.note(loop, source, values, key)[key]

    def note(self, loop: int, source: str, values: Any, key: Any) -> Any:
        """Notes that a value is looked up; returns where."""
        with suppress(TypeError):
            self._looked_up[loop].setdefault(source, set()).add(key)
        return values

    def finish(self, loop: int, *sources: tuple[str, str, Callable[[], Any]]) -> None:
        """Notes what a loop has left in what it looked up, by "all" the numbers, numbers "counted" from them, or a "part".

        Args:
            loop: Its number.
            sources: How, and in what: its text, and its value.
        """
        looked_up = self._looked_up.get(loop, {})
        for how, text, source in sources:
            try:
                values = source()
                size = length_hint(values)
            except Exception:  # of a name that no turn has set, say
                continue
            keys = looked_up.get(text, set())
            if how == "taken":
                self.unclear |= size > 0
            elif isinstance(values, Mapping):
                self.unclear |= any(key not in keys for key in values)
            elif how != "part" and size > max((k + size * (k < 0) for k in keys if isinstance(k, int)), default=-1) + 1:
                if how == "all":
                    raise AssertionError("the program gave less than it is compared with")
                self.unclear = True

    def cover(self, loop: int, items: Iterable[Any], *sources: tuple[str, str, Callable[[], Any]]) -> Iterator[Any]:
        """Goes through what the program gave, between `start` and `finish`."""
        self.start(loop)
        empty = True
        for item in items:
            empty = False
            yield item
        self.finish(loop, *sources)
        self.empty |= empty and self.unclear

    def cut(self, values: Any, part: Any) -> Any:
        """Notes that what is expected was cut to the length of what the program gave."""
        self.unclear |= len(part) < len(values)
        return part

    # -- comparisons -------------------------------------------------------------------------------------------------------

    def binary(self, name: str, whole: tuple[bool, bool], left: Any, right: Any) -> Any:
        """Compares or combines two values; what is left out or undecided is noted.

        Args:
            name: Of the operator.
            whole: Whether numpy may not repeat the left side, and the right.
            left: The left side.
            right: The right side.
        """
        self.fit(whole, left, right)
        if name in _ORDER and any(isinstance(side, float) and side != side for side in (left, right)):
            self.unclear = True  # nan is on no side of anything, so that "not more than" holds
        small = right if name in ("Gt", "GtE") else left
        large = left if small is right else right
        if (
            name in _ORDER
            and isinstance(small, ItemsView)
            and isinstance(large, AbstractSet)
            and len(small) < len(large)
        ):
            self.unclear = True  # of a dict there are all pairs or something is missing
        if isinstance(small, AbstractSet) if name in (*_ORDER, "Sub") else name == "In" and isinstance(right, str):
            self.filled(small)  # nothing is a part of everything
        return _OPERATORS[name](left, right)

    # -- nothing: what is said of all its elements holds -------------------------------------------------------------------

    def some(self, items: Iterable[Any], *sources: Callable[[], Any]) -> Iterator[Any]:
        """Goes through what the program gave; nothing is noted, unless it is by construction of what is not empty."""
        empty = True
        for item in items:
            empty = False
            yield item
        if empty and not (sources and all(_sized(value) and len(value) for value in (source() for source in sources))):
            self.unclear = self.empty = True

    def filled(self, value: Any) -> Any:
        """Notes a collection without elements."""
        if _sized(value) and not len(value):
            self.unclear = self.empty = True
        return value

    def begin(self, loop: int) -> None:
        """Notes that a part begins that has to be gone through: a `while`, or what errors may end."""
        self._turning.add(loop)

    def turn(self, loop: int, value: Any) -> bool:
        """Stands in the place of the condition of a `while`, which has to hold once; also at the end of such a part."""
        goes_on = bool(value)
        self.unclear |= not goes_on and loop in self._turning
        self._turning.discard(loop)
        return goes_on

    def skip(self) -> None:
        """Notes that an assertion was not made."""
        self.unclear = True

    def reach(self, line: int, value: Any) -> bool:
        """Stands in the place of a condition of assertions that is tried again and again, and has to hold once."""
        self._tried.add(line)
        if value:
            self._reached.add(line)
        return bool(value)

    def in_place(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Calls a function whose result is not used: what it does to its arguments is."""
        called = getattr(type(function), "__masa_call_in_place__", None)
        return function(*args, **kwargs) if called is None else called(function, args, kwargs)

    def type(self, value: Any) -> Any:
        """Like `type`, also of an object of the program."""
        asked = getattr(type(value), "__masa_type__", None)
        return type(value) if asked is None else asked(value)

    # -- numpy -------------------------------------------------------------------------------------------------------------

    def fit(self, whole: tuple[bool, bool], left: Any, right: Any) -> Any:
        """Returns the right side of two that are combined by an operator: numpy repeats them only if one is an array."""
        kinds = [type(side) for side in (left, right)]
        if any(hasattr(kind, "__array__") and not hasattr(kind, "__masa_call_in_place__") for kind in kinds):
            self.check_shapes(left, right, whole)
        return right

    def numpys(self, of_program: tuple[bool, ...], whole: tuple[bool, bool] | None, function: Any) -> Any:
        """Returns a function; one of numpy's as one that sees whether it repeats what the program gave.

        Args:
            of_program: Of its arguments, which hold something of the program.
            whole: Of the first two, whether numpy may not repeat them as an operator does.
            function: What is called.
        """
        if (numpy := sys.modules.get("numpy")) is None or not is_numpys(function):
            return function

        def call(*args: Any, **kwargs: Any) -> Any:
            if whole is not None and len(args) > 1 and compares(function, numpy):
                self.check_shapes(args[0], args[1], whole)
                return function(*args, **kwargs)
            result = function(*args, **kwargs)
            self.unclear |= repeats(function, of_program, (*args, *kwargs.values()), result, numpy)
            return result

        return call

    def put(self, value: Any, *places: tuple[tuple[int, ...], Callable[[], Any], Callable[[], Any]]) -> Any:
        """Looks at what is put into parts of arrays: numpy repeats it to fit.

        Args:
            value: What is assigned.
            places: Which item of it is put where: its path, the array, and the part of it.
        """
        if (numpy := sys.modules.get("numpy")) is not None:
            for path, array, place in places:
                with suppress(Exception):
                    if isinstance(array(), numpy.ndarray):
                        item = functools.reduce(operator.getitem, path, value)
                        self.unclear |= numpy.shape(place()) != numpy.shape(item)
        return value

    def check_shapes(self, left: Any, right: Any, whole: tuple[bool, bool] = (True, True)) -> None:
        """Looks at what numpy would repeat to fit: nothing may be compared with something.

        Args:
            left: One side of a comparison.
            right: The other.
            whole: Which of them may not be a number for all elements of the other.
        """
        if (numpy := sys.modules.get("numpy")) is None:
            return
        try:
            one, other = numpy.shape(left), numpy.shape(right)
        except Exception:  # ragged, say; whatever compares them says so
            return
        if one == other:
            return
        if 0 in one or 0 in other:
            raise AssertionError(f"nothing is compared between values of shapes {one} and {other}")
        if not (one == () and not whole[0]) and not (other == () and not whole[1]):
            self.unclear = True


def _sized(value: Any) -> bool:
    try:
        len(value)
    except Exception:  # an object of the program may raise anything
        return False
    return True
