import io
import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from masa_lightning.functional.code_worker import (
    MAX_LINE,
    Handle,
    Objects,
    Program,
    decode,
    encode,
    names_under_test,
    read_line,
    write_line,
)

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


def no_handle(value):
    pytest.fail(f"{value!r} was taken for no value")


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
        *[{"dict": [[1]]}, {"dict": 5}, {"list": [], "tuple": []}, {"list": [[1]]}, {"handle": 99}, {"handle": "x"}],
    ],
)
def test_what_encode_does_not_make_is_refused(data):
    with pytest.raises((TypeError, ValueError, LookupError, AttributeError)):
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


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ValueError", ValueError),
        ("KeyError", KeyError),
        ("StopIteration", StopIteration),
        ("ExceptionGroup", RuntimeError),
    ]
    + [
        (name, RuntimeError)
        for name in ("SystemExit", "KeyboardInterrupt", "print", "UnicodeDecodeError", "Mine", "__import__")
    ],
)
def test_errors_come_as_builtin_ones(name, kind):
    program = program_that_says(json.dumps({"error": [name, "words"]}).encode())
    with pytest.raises(kind, match="words") as error:
        program.ask("global", "f")
    assert error.type is kind


def test_handles_equal_themselves_and_nothing_else():
    program = program_that_says(*[b'{"value": true}'] * 20)
    handle = Handle(program, 0)
    assert handle == Handle(program, 0) and hash(handle) == hash(Handle(program, 0))
    for other in (Handle(program, 1), 0, None, True, "x", [], object()):
        assert handle != other and (handle == other) is False and other != handle
    assert handle not in [0, True, None]


def test_handles_answer_no_protocol():
    handle = Handle(program_that_says(), 0)
    for name in ("__array_interface__", "__array_struct__", "__float__", "__index__", "__class_getitem__"):
        with pytest.raises(AttributeError):
            getattr(handle, name)
    for convert in (int, float, handle.__array__):
        with pytest.raises(TypeError):
            convert(*[handle][: convert is not handle.__array__])


def test_functions_of_tests_are_not_given_to_the_program():
    with pytest.raises(TypeError, match="a function of the tests cannot be given"):
        program_that_says().ask("call", lambda: 1)


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
