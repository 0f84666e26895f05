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
from masa_lightning.grading.programs.shared import Shared
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
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=2))), timedelta(days=-1, seconds=5), deque([1, [2]], maxlen=3),
    range(3, 9, 2), Counter("aab"), OrderedDict(b=1, a=2), defaultdict(None, {1: 2}), bytearray(b"x"), int, ValueError,
    defaultdict(list, {1: [2]}), ..., NotImplemented,
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


def sides():
    """The collections of the tests' side and of the program's."""
    return Shared(no_handle, no_handle), Shared(no_handle, no_handle, first=1)


def over(here, there, value):
    """A value after its way over the pipe, from one side to the other."""
    file = io.BytesIO()
    write_line(file, here.pack(value))
    file.seek(0)
    return there.unpack(read_line(file))


def sent(value):
    return over(*sides(), value)


@given(values)
@example([10**5000, -(2**53), 2**53, True, 1, 1.0, -0.0, math.nan, -math.inf])
@example(["\ud83d\ude00", "😀", "\n\r\u2028\0", {"list": [1]}, {"handle": 0}, b"\xff", (), set(), {}])
def test_values_come_through_as_they_are(value):
    assert same(sent(value), value)


def test_what_is_no_value_stays():
    objects = Objects()
    thing, other = object(), object()
    data = json.loads(json.dumps(encode((thing, other, thing), objects.keep)))
    assert data == {"tuple": [{"handle": 0}, {"handle": 1}, {"handle": 0}]}
    assert decode(data, objects.give) == (thing, other, thing)


def test_a_collection_is_one_object_on_each_side():
    tests, program = sides()
    inner = [1]
    mine = [inner, inner, {"x": inner}]
    theirs = over(tests, program, mine)
    assert theirs[0] is theirs[1] is theirs[2]["x"]
    theirs[0].append(2)
    theirs.append({3})
    assert over(program, tests, theirs) is mine and mine == [[1, 2], [1, 2], {"x": [1, 2]}, {3}] and mine[0] is inner
    assert tests.changed and not program.changed
    mine[3].add(4)
    mine.append(mine)  # within itself
    over(tests, program, None)
    assert theirs[3] == {3, 4} and theirs[4] is theirs and program.changed
    assert over(program, tests, theirs[3]) is mine[3]


def test_all_kinds_of_collections_change_on_both_sides():
    changes = [
        (defaultdict(int, a=1), lambda c: c["b"], {"a": 1, "b": 0}),
        (OrderedDict(a=1, b=2), lambda c: c.move_to_end("a"), OrderedDict(b=2, a=1)),
        (Counter("aab"), lambda c: c.update("b"), {"a": 2, "b": 2}),
        (deque([1, 2], maxlen=2), lambda c: c.append(3), deque([2, 3])),
        ({1}, lambda c: c.add(2), {1, 2}),
        (bytearray(b"ab"), lambda c: c.extend(b"c"), b"abc"),
        ([2, 1], lambda c: c.sort(), [1, 2]),
        ({1: 2}, lambda c: c.clear(), {}),
    ]
    for value, change, expected in changes:
        tests, program = sides()
        theirs = over(tests, program, value)
        change(theirs)
        over(program, tests, None)
        assert value == expected and type(theirs) is type(value)
    tests, program = sides()
    array = np.arange(3)
    over(tests, program, array).fill(7)
    over(program, tests, None)
    assert array.tolist() == [7, 7, 7] and tests.changed


def test_what_nobody_else_holds_is_forgotten_on_both_sides():
    tests, program = sides()
    kept = over(tests, program, [[1], [2], {"x": [3]}])[1]
    over(program, tests, None)
    over(tests, program, None)
    assert (len(tests._held), len(program._held)) == (0, 0) and kept == [2]
    mine = [[1]]
    theirs = over(tests, program, mine)
    for _ in range(3):
        over(program, tests, [5])
        over(tests, program, (4, [6]))
    assert over(program, tests, theirs) is mine and len(tests._held) <= 4
    big = [[n] for n in range(5000)]
    nested = []
    for _ in range(5000):
        nested = [nested]
    assert over(tests, program, big) == big and over(tests, program, nested)[0]


def test_unchanged_collections_are_told_of_once():
    tests, program = sides()
    mine = [1, {"a": (2, [3.5])}, {4}, np.arange(2), bytearray(b"x")]
    theirs = over(tests, program, mine)
    for side in (tests, program):
        assert side.pack(mine if side is tests else theirs)[1:] == [[], []]
    assert not tests.changed


@pytest.mark.parametrize(
    "message",
    [
        [],
        [1],
        [{"shared": 0}, [], []],
        [{"shared": 1}, [[0, "list", None, []]], []],  # of the tests' numbers
        [{"shared": 1}, [[1, "module", None, []]], []],
        [{"shared": 1}, [[1, "list", None, [[1]]]], []],
        [{"shared": 1}, [[1, "dict", None, [1]]], []],
        [{"shared": 1}, [[1, "set", None, [{"shared": 1}]]], []],
        [{"shared": 1}, [[1, "array", {"tuple": ["|O", {"tuple": [1]}]}, [{"bytes": "00"}]]], []],
        [{"shared": 1}, [[1, "array", {"tuple": ["<f8", {"tuple": [9]}]}, [{"bytes": "00"}]]], []],
        [{"shared": 1}, [[1, "defaultdict", 5, []]], []],
        [{"shared": 1}, [[1, "list", None, []], [1, "dict", None, []]], []],
        [None, [], [7]],
        [None, ["x"], []],
    ],
)
def test_what_pack_does_not_make_is_refused(message):
    with pytest.raises((TypeError, ValueError, LookupError, AttributeError, ArithmeticError)):
        Shared(no_handle, no_handle).unpack(message)


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
        {"tuple": 5},
        {"list": []},
        {"constant": "x"},
        {"frozenset": [{"frozenset": 1}]},
        {"type": "print"},
        {"type": "os"},
        {"Decimal": [1]},
        {"named": ["P", ["x"], []]},
        {"named": ["P", ["1x"], [1]]},
        {"back": 0},
        {"date": "x"},
        {"range": []},
        *[{"frozenset": [], "tuple": []}, {"tuple": [[1]]}, {"handle": 99}, {"handle": "x"}],
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
        b'{"value": 1}',
        b'{"value": [{"handle": [0]}, [], []]}',
        b'{"value": [{"frozenset": [[]]}, [], []]}',
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
    told = [kind, Shared(no_handle, no_handle).pack(tuple(args)), "their text", 7]
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
    said = (b'{"value": [{"tuple": [true, %s]}, [], []]}' % word for word in (b"false", b"true"))
    program = program_that_says(*said)
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
    asked = [{"back": Shared(no_handle, no_handle).pack(("call", 0, (n,), ()))} for n in (1, 2)]
    replies = [json.dumps(message).encode() for message in (*asked, {"value": [5, [], []]})]
    requests = io.BytesIO()
    program = Program(requests, io.BytesIO(b"".join(line + b"\n" for line in replies)), lambda: None)
    assert program.ask("call", lambda n: n + 0.5) == 5
    assert [json.loads(line) for line in requests.getvalue().splitlines()[1:]] == [
        {"value": [1.5, [], []]},
        {"value": [2.5, [], []]},
    ]


def test_the_program_calls_no_function_that_it_was_not_given():
    line = json.dumps({"back": Shared(no_handle, no_handle).pack(("call", 0, (), ()))}).encode()
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
