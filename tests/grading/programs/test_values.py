import io
import json
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from masa_lightning.grading.programs.handles import Handle, Program
from masa_lightning.grading.programs.ledger import SILENCED, UntoldError
from masa_lightning.grading.programs.names import names_under_test
from masa_lightning.grading.programs.program_side import Objects
from masa_lightning.grading.programs.values import MAX_LINE, decode, encode, read_line, write_line

hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
values = st.recursive(
    hashable,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.sets(hashable, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
    ),
    max_leaves=12,
)


def same(a, b):
    """Equal in value and in all types, with nan equal to itself and 0.0 unlike -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, dict):
        return same([*a.items()], [*b.items()])
    if isinstance(a, set | frozenset):
        left = [*b]
        for item in a:
            match = next((place for place, other in enumerate(left) if same(item, other)), None)
            if match is None:
                return False
            del left[match]
        return not left
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def no_handle(*value):
    pytest.fail(f"{value!r} was taken for no value")


RICH = [
    Decimal("1.10"), Fraction(-1, 3), date(2024, 2, 29), datetime(2024, 1, 2, 3, 4, 5, 6), time(1, 2),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), timedelta(days=-1, seconds=5), deque([1, [2]]),
    range(3, 9, 2), Counter("aab"), OrderedDict(b=1, a=2), defaultdict(None, {1: 2}), bytearray(b"x"), int, ValueError,
]  # fmt: skip


@pytest.mark.parametrize("value", RICH, ids=repr)
def test_values_of_the_standard_library(value):
    assert type(sent(value)) is type(value) and sent(value) == value
    assert type(sent([value, (value,)])[1][0]) is type(value)


def test_named_tuples_views_and_arrays():
    point = sent(namedtuple("Point", "x y")(1, [2]))  # noqa: PYI024  a program's
    assert point == (1, [2]) and point.y == [2] and type(point).__name__ == "Point"
    views = {1: "a"}
    assert sent(views.keys()) == {1} and [*sent(views.values())] == ["a"] and sent(views.items()) == {(1, "a")}
    for array in (np.eye(2), np.array([]), np.array(["a", "bc"]), np.zeros((2, 0)), np.array([True]), np.arange(3)):
        copy = sent(array)
        assert copy.dtype == array.dtype and copy.shape == array.shape and (copy == array).all()
    assert type(sent(np.float64(0.5))) is float and type(sent(np.int8(3))) is int


def sent(value):
    """A value after its way over the pipe."""
    file = io.BytesIO()
    write_line(file, encode(value, no_handle))
    file.seek(0)
    return decode(read_line(file), no_handle)


@given(values)
@example([10**5000, -(2**53), 2**53, True, 1, 1.0, -0.0, math.nan, -math.inf])
@example(["\ud83d\ude00", "😀", "\n\r\u2028\0", {"list": [1]}, {"handle": 0}, b"\xff", (), set(), {}])
def test_values_come_through_as_they_are(value):
    assert same(sent(value), value)


def test_what_is_no_value_stays():
    objects = Objects()
    thing, other = object(), object()
    data = json.loads(json.dumps(encode([thing, other, thing], objects.keep)))
    assert data == {"list": [{"handle": 0}, {"handle": 1}, {"handle": 0}]}
    assert decode(data, objects.give) == [thing, other, thing]


@pytest.mark.parametrize(
    "data",
    [
        [],
        [1],
        {},
        {"eval": "1"},
        {"int": 5},
        {"int": "x"},
        {"bytes": "xyz"},
        {"list": 5},
        {"set": [{"list": []}]},
        {"type": "print"},
        {"type": "os"},
        {"array": ["|O", [1], "00"]},
        {"array": ["<f8", [9], "00"]},
        {"Decimal": [1]},
        {"named": ["P", ["x"], []]},
        {"named": ["P", ["1x"], [1]]},
        {"back": 0},
        {"date": "x"},
        {"range": []},
        *[{"dict": [[1]]}, {"dict": 5}, {"list": [], "tuple": []}, {"list": [[1]]}, {"handle": 99}, {"handle": "x"}],
    ],
)
def test_what_encode_does_not_make_is_refused(data):
    with pytest.raises((TypeError, ValueError, LookupError, AttributeError, ArithmeticError)):
        decode(data, Objects().give)


@pytest.mark.parametrize("line", [b"", b"{", b"1", b"x\n", b"\xff\n", b"[" * 10**5 + b"\n", b" " * MAX_LINE + b"1\n"])
def test_what_is_no_message_is_refused(line):
    with pytest.raises((EOFError, ValueError, RecursionError)):
        read_line(io.BytesIO(line))


class LostError(BaseException):
    pass


def program_that_says(*replies):
    """The tests' side of a program that answers so, whatever it is asked."""

    def lost():
        raise LostError

    return Program(io.BytesIO(), io.BytesIO(b"".join(line + b"\n" for line in replies)), lost)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"{",
        b"1",
        b"[]",
        b"null",
        b"{}",
        b'{"value": []}',
        b'{"value": 1, "error": ["ValueError", ""]}x',
        b'{"error": 5}',
        b'{"error": ["ValueError"]}',
        b'{"value": {"handle": [0]}}',
        b'{"value": {"set": [{"set": []}]}}',
        b"\xff",
        b"[" * 10**5,
    ],
)
def test_garbage_ends_the_tests(reply):
    with pytest.raises(LostError):
        program_that_says(reply).ask("global", "f")
    with pytest.raises(LostError):
        program_that_says().ask("global", "f")


def error_of(kind, args=("words",), ask="call"):
    told = [kind, encode([*args], no_handle), "their text", 7]
    try:
        program_that_says(json.dumps({"error": told}).encode()).ask(ask)
    except Exception as error:
        return error


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ValueError", ValueError), ("KeyError", KeyError), ("UnicodeDecodeError", UnicodeDecodeError)]
    + [("ExceptionGroup", RuntimeError)]
    + [(name, RuntimeError) for name in ("print", "Mine", "__import__", "BaseException")]
    + [*SILENCED.items()],
)
def test_errors_come_as_builtin_ones(name, kind):
    error = error_of(["builtin", name])
    assert type(error) is kind
    assert kind is UnicodeDecodeError or "words" in str(error) or "their text" in str(error)


def test_the_end_of_an_iterator_ends_it_and_nothing_else_does():
    assert type(error_of(["builtin", "StopIteration"], ask="next")) is StopIteration
    assert not isinstance(error_of(["builtin", "StopIteration"], ask="call"), StopIteration)
    assert not isinstance(error_of(["own", 3, "Mine", [["builtin", "StopIteration"]]], ask="next"), StopIteration)


def test_errors_of_the_programs_own():
    error = error_of(["own", 3, "Mine", [["builtin", "KeyError"]]])
    assert isinstance(error, KeyError) and type(error).__name__ == "Mine" and str(error) == "their text"
    assert error.args == ("words",)
    both = error_of(["own", 4, "Both", [["own", 3, "Mine", [["builtin", "KeyError"]]], ["builtin", "TypeError"]]])
    assert isinstance(both, KeyError) and isinstance(both, TypeError)
    assert isinstance(error_of(["standard", "json.decoder", "JSONDecodeError"]), json.JSONDecodeError)


def test_errors_that_would_end_tests_without_a_word_are_others():
    assert isinstance(error_of(["own", 3, "Mine", [["builtin", "SystemExit"]]]), RuntimeError)
    shim = "masa_lightning.grading.programs.pytest_shim"
    for module, name in (("unittest.case", "SkipTest"), (shim, "SkippedError"), ("os", "system"), ("no_such", "Error")):
        with pytest.raises(LostError):
            error_of(["standard", module, name])


def test_handles_equal_themselves_and_what_the_program_says_is_noted():
    program = program_that_says(b'{"value": {"list": [true, false]}}', b'{"value": {"list": [true, true]}}')
    handle = Handle(program, 0)
    assert handle == Handle(program, 0) and hash(handle) == hash(Handle(program, 1))
    for other in (0, None, True, "x", [], object()):
        assert handle != other and (handle == other) is False and other != handle
    assert handle not in [0, True, None]
    assert not program.ledger.unclear
    assert handle == Handle(program, 1) and program.ledger.unclear  # by its own __eq__
    program.ledger.reset()
    assert handle == Handle(program, 1) and not program.ledger.unclear  # by the fields of a dataclass


def test_handles_answer_no_protocol():
    handle = Handle(program_that_says(), 0)
    for name in ("__array_interface__", "__array_struct__", "__float__", "__index__", "__class_getitem__"):
        with pytest.raises(AttributeError):
            getattr(handle, name)
    for convert in (int, float, handle.__array__):
        with pytest.raises(TypeError):
            convert(*[handle][: convert is not handle.__array__])


def test_objects_of_tests_are_not_given_to_the_program():
    class Own:
        pass

    for thing, words in ((Own(), "a Own"), (Own, "the class Own"), (io.StringIO(), "a StringIO")):
        program = program_that_says()
        with pytest.raises(UntoldError, match=f"{words} of the tests cannot be given"):
            program.ask("call", thing)
        assert program.ledger.broken


def test_functions_of_tests_are_called_for_the_program():
    asked = [{"back": {"list": ["call", 0, {"list": [n]}, {"dict": []}]}} for n in (1, 2)]
    replies = [json.dumps(message).encode() for message in (*asked, {"value": 5})]
    requests = io.BytesIO()
    program = Program(requests, io.BytesIO(b"".join(line + b"\n" for line in replies)), lambda: None)
    assert program.ask("call", lambda n: n + 0.5) == 5
    assert [json.loads(line) for line in requests.getvalue().splitlines()[1:]] == [{"value": 1.5}, {"value": 2.5}]


def test_the_program_calls_no_function_that_it_was_not_given():
    line = json.dumps({"back": {"list": ["call", 0, {"list": []}, {"dict": []}]}}).encode()
    with pytest.raises(LostError):
        program_that_says(line).ask("call", 1)


@pytest.mark.parametrize(
    ("tests", "names"),
    [
        ("assert f(1) == g.x", {"f", "g"}),
        ("import math as m\nfrom os import path\nassert f(m.pi, path)", {"f"}),
        ("def check(candidate):\n    y = 1\n    assert candidate(y) == helper(y)\ncheck(f)", {"f", "helper"}),
        ("class T:\n    x = f(1)\n    def t(self): return g(self.x)", {"f", "g"}),
        ("assert [f(i) for i in range(3)] == [(lambda k: k + h)(j) for j in ()]", {"f", "h"}),
        ("x = f(1)\nx += 1\nfor y in x: assert y\nwith open(x) as z: z", {"f"}),
        ("def a():\n    global x\n    x = 1\na()\nassert f(x)", {"f"}),
        ("assert (n := f(1)) and n", {"f"}),
        ("try: f(1)\nexcept ValueError as e: print(e)", {"f"}),
        ("assert sum(1, 2) == 3", {"sum"}),
        ("assert len(sum(1, 2)) == 3", set()),  # which of them is the program's?
        ("assert abs(f(1)) == 1", {"f"}),
        ("assert known(1)", set()),
        ("", set()),
    ],
)
def test_names_under_test(tests, names):
    assert names_under_test(tests, {"known"}) == names
