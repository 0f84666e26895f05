import os
import subprocess
import sys
import textwrap
import time

import pytest
from programs import alive, block, grade, grade_all, sandboxed, task

from masa_lightning.grading import code_grader as module
from masa_lightning.grading.code_grader import CodeGrader
from masa_lightning.grading.programs import launch, trial
from masa_lightning.protocols import Grader

# -- what is right and what is wrong -------------------------------------------------------------------------------------


@sandboxed
def test_right_and_wrong(nothing_stays):
    grader = CodeGrader()
    assert isinstance(grader, Grader)
    problems = [task("assert add(1, 2) == 3\nassert add(-1, 1) == 0")] * 6
    programs = ["def add(a, b):\n    return a + b", "def add(a, b):\n    return 3", "def plus(a, b): return a + b"]
    programs += ["add = lambda a, b: a + b\r", "def add(a, b:", "raise ValueError"]
    told = []
    verdicts = grader.grade(problems, [block(p) for p in programs], lambda *args: told.append(args))
    assert verdicts == [True, False, False, True, False, False]
    assert told[-1] == (6, 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    grader.close()
    assert grader.grade(problems[:1], [block(programs[0])]) == [True]


@sandboxed
def test_equal_programs_run_once(monkeypatch):
    made = []

    class Counted(module.Trial):
        def __init__(self, *args, **kwargs):
            made.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(module, "Trial", Counted)
    programs = ["f = abs", "f = int", "f = abs", "f = abs"]
    problems = [task("assert f(-1) == 1")] * 4
    assert CodeGrader().grade(problems, [block(p) for p in programs]) == [True, False, True, True]
    assert len(made) == 2


def test_completions_without_a_program_need_no_sandbox(monkeypatch):
    monkeypatch.setattr(module, "check_sandbox", lambda: pytest.fail("the sandbox was asked for"))
    told = []
    completions = ["", "f = abs", "```python\nf = abs", "```bash\nls\n```"]
    problems = [task("assert f(-1) == 1")] * 4
    assert CodeGrader().grade(problems, completions, lambda *args: told.append(args)) == [False] * 4
    assert told == [(4, 4)]
    assert CodeGrader().grade([], []) == []


def test_without_a_safe_sandbox_nothing_runs(monkeypatch):
    def unsafe():
        raise RuntimeError("user namespaces are off")

    monkeypatch.setattr(module, "check_sandbox", unsafe)
    monkeypatch.setattr(trial, "launch", lambda *args, **kwargs: pytest.fail("something was started"))
    with pytest.raises(RuntimeError, match="user namespaces are off"):
        grade("f = abs", "assert f(-1) == 1")


@sandboxed
def test_values_come_back_as_they_are():
    program = """
        from collections import Counter, OrderedDict, defaultdict, namedtuple
        from enum import IntEnum
        import math
        Point = namedtuple("Point", "x y")
        Level = IntEnum("Level", "LOW HIGH")
        def f(kind):
            return {
                "int": 7**5000, "float": 0.1, "inf": -math.inf, "complex": 1j, "none": None, "bool": True,
                "str": "\\ud800é\\n",
                "bytes": b"\\0a", "list": [1, [2.0, (3,)]], "set": {1, "a"}, "frozen": frozenset([(1, 2)]),
                "dict": {(1, 2): {"a": {None: []}}, 1.5: "b"}, "counter": Counter("aab"), "ordered": OrderedDict(a=1),
                "default": defaultdict(list, {1: [2]}), "named": Point(1, 2), "enum": Level.HIGH,
            }[kind]
    """
    tests = """
        import math
        from collections import Counter
        assert f("int") == 7**5000 and f("float") == 0.1 and f("inf") == -math.inf and f("complex") == 1j
        assert f("none") is None and f("bool") is True and f("str") == "\\ud800é\\n" and f("bytes") == b"\\0a"
        assert f("list") == [1, [2.0, (3,)]] and f("set") == {1, "a"} and f("frozen") == frozenset([(1, 2)])
        assert f("dict") == {(1, 2): {"a": {None: []}}, 1.5: "b"} and f("counter") == Counter("aab")
        assert f("ordered") == {"a": 1} and f("default") == {1: [2]} and f("named") == (1, 2) and f("enum") == 2
        assert isinstance(f("float"), float) and isinstance(f("list")[1][1], tuple) and type(f("bool")) is bool
    """
    assert grade(program, tests) is True


@sandboxed
def test_the_programs_own_classes_generators_and_errors():
    program = """
        from dataclasses import dataclass
        @dataclass
        class Pair:
            a: int
            b: int
            def total(self, *, times=1): return (self.a + self.b) * times
            def __len__(self): return 2
            def __getitem__(self, key): return [self.a, self.b][key]
            def __str__(self): return f"<{self.a}>"
        class Odd(ValueError): pass
        def largest(pairs): return max(p.b - p.a for p in pairs)
        def first(pairs): return pairs[0]
        def count():
            n = 0
            while True:
                yield n
                n += 1
        def fail(kind):
            raise {"odd": Odd("odd!"), "key": KeyError(1), "exit": SystemExit(0), "unicode": b"\\xff"}[kind] \
                if kind != "unicode" else UnicodeDecodeError("utf-8", b"", 0, 1, "")
    """
    tests = """
        from itertools import islice
        pairs = [Pair(5, 24), Pair(b=25, a=15)]
        assert largest(pairs) == 19
        assert first(pairs) == pairs[0] and first(pairs) != pairs[1] and first(pairs) is not None
        assert pairs[0].a == 5 and pairs[0].total(times=2) == 58 and len(pairs[0]) == 2 and pairs[0][1] == 24
        pairs[0].a = 7
        assert list(pairs[0]) == [7, 24] and str(pairs[0]) == "<7>" and pairs[0]
        assert list(islice(count(), 3)) == [0, 1, 2]
        assert callable(first) and {first(pairs): 1}[pairs[0]] == 1
        def error(kind):
            try:
                fail(kind)
            except Exception as error:
                return type(error), str(error)
        assert error("odd") == (Odd, "odd!") and issubclass(Odd, ValueError)
        assert error("key") == (KeyError, "1") and issubclass(error("exit")[0], RuntimeError)
        assert error("unicode")[0] is UnicodeDecodeError
        try:
            pairs[0].nothing
        except AttributeError:
            pass
        else:
            assert False
    """
    assert grade(program, tests) is True


HUMANEVAL = """
    from typing import List
    import math

    def poly(xs: list, x: float):
        return sum(c * math.pow(x, i) for i, c in enumerate(xs))

    def find_zero(xs: list):
        \"\"\" Finds x such that poly(x) = 0. \"\"\"
"""
FIND_ZERO = """
    METADATA = {}

    def check(candidate):
        for xs in ([1, 2], [-6, 11, -6, 1]):
            assert math.fabs(poly(xs, candidate(xs))) < 1e-4

    check(find_zero)
"""
BISECTION = """
    def find_zero(xs: List[int]):
        low, high = -1.0, 1.0
        while poly(xs, low) * poly(xs, high) > 0:
            low, high = 2 * low, 2 * high
        while high - low > 1e-10:
            middle = (low + high) / 2
            low, high = (middle, high) if poly(xs, low) * poly(xs, middle) > 0 else (low, middle)
        return low
"""


@sandboxed
def test_preamble_is_below_the_program_and_its_helpers_are_not_the_programs_to_replace():
    assert grade(BISECTION, FIND_ZERO, HUMANEVAL) is True
    assert grade(textwrap.dedent(HUMANEVAL) + "    pass\n" + textwrap.dedent(BISECTION), FIND_ZERO, HUMANEVAL) is True
    assert grade("poly = lambda xs, x: 0.0\ndef find_zero(xs): return 5.0", FIND_ZERO, HUMANEVAL) is False
    assert grade("math.fabs = lambda x: 0.0\ndef find_zero(xs): return 5.0", FIND_ZERO, HUMANEVAL) is False
    assert grade("def another(xs): return 0", FIND_ZERO, HUMANEVAL) is False  # the function without a body stays


@sandboxed
def test_a_check_that_nobody_calls_is_for_the_one_function_to_complete():
    tests = "def check(candidate):\n    assert candidate(3) == 4\n    assert candidate(7) == 8"
    for stub in ("def inc(x):\n    ...", 'def inc(x: int) -> int:\n    """The next number."""'):
        assert grade("def inc(x): return x + 1", tests, stub) is True
        assert grade("def inc(x): return 4", tests, stub) is False
        assert grade("def other(x): return x + 1", tests, stub) is False
    assert grade("def inc(x): return x + 1", tests, "def inc(x):\n    ...\ndef dec(x):\n    ...") is None  # which one?


@sandboxed
def test_program_cannot_replace_builtins_of_tests():
    program = """
        import builtins
        def everything(*args): return True
        for name in ("all", "any", "len", "sorted", "set", "isinstance", "abs", "str", "AssertionError", "print"):
            globals()[name] = everything
            setattr(builtins, name, everything)
        def f(x): return [0]
    """
    for tests in ("assert all(f(x) == [x] for x in range(3))", "assert len(f(1)) == 2", "assert sorted(f(1)) == [1]"):
        assert grade(program, tests) is False
    assert grade("def sum(a, b): return a + b", "assert sum(10, 15) == 25") is True  # MBPP 126
    assert grade("def sum(a, b): return a", "assert sum(10, 15) == 25") is False


@sandboxed
def test_tests_with_numpy_and_programs_with_numpy():
    pytest.importorskip("numpy")
    tests = "import numpy as np\nassert np.allclose(f([1, 2]), [2, 3])\nassert f([1, 2])[0] == 2"
    assert grade("def f(xs): return [x + 1 for x in xs]", tests) is True
    assert grade("import numpy as np\ndef f(xs): return list(np.array(xs) + 1)", tests) is True
    assert grade("def f(xs): return [x + 2 for x in xs]", tests) is False


@sandboxed
def test_no_verdict_where_tests_say_nothing_about_a_program():
    program = "def f(x): return x"
    for tests in (
        "",
        "assert (",
        "assert True",
        "def check(candidate): assert candidate(1) == 1",
        "f(1) == 1",
        "assert len([]) == abs(0)",
    ):
        assert grade(program, tests) is None
    assert grade(program, "import no_such_package_for_tests\nassert f(1) == 1") is None
    assert grade(program, "assert f(1) == 1", preamble="1 +") is None
    assert grade("def f(x): import no_such_package", "assert f(1) == 1") is False  # the program's own fault
    assert grade("def f(x): raise ImportError", "assert f(1) == 1") is False


@sandboxed
def test_tests_that_end_the_process():
    assert grade("def f(x): return x", "import os\nf(1)\nos._exit(0)") is None
    assert grade("def f(x): return x", "f(1)\nraise SystemExit(0)") is None
    assert grade("def f(x): return x", "assert f(1) == 1\nraise SystemExit(0)") is True
    assert grade("def f(x): return -x", "assert f(1) == 1\nraise SystemExit(0)") is False
    assert grade("def f(x): return x", "assert f(1) == 1\nraise SystemExit(1)") is None  # no program passes
    assert grade("def f(x): return x", "import sys\nif f(1) != 2: sys.exit(1)") is False


@sandboxed
def test_no_verdict_where_the_sandbox_fails(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    monkeypatch.setattr(launch, "WORKER", worker)
    worker.write_text("import os; os._exit(3)")
    assert grade("f = abs", "assert f(-1) == 1") is None
    worker.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(trial, "START_LIMIT", 0.5)
    monkeypatch.setattr(launch, "START_LIMIT", 0.5)
    assert grade("f = abs", "assert f(-1) == 1") is None


# -- life of the grader ---------------------------------------------------------------------------------------------------


@sandboxed
def test_interrupt_ends_the_sandboxes(nothing_stays):
    def interrupt(done, total):
        assert len(alive(nothing_stays)) > 0  # the other is running
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CodeGrader(timeout=60).grade(
            [task("assert f(1) == 1")] * 2, [block("f = abs"), block("while True: pass")], interrupt
        )
    assert grade("f = abs", "assert f(-1) == 1") is True


@sandboxed
@pytest.mark.timeout(120)
def test_sandboxes_die_with_their_parent(nothing_stays):
    code = f"""
        from pathlib import Path
        from masa_lightning.grading.programs import launch
        from masa_lightning.grading.code_grader import CodeGrader
        from masa_lightning.types import Problem
        launch.WORKER = Path({str(nothing_stays)!r})
        problem = Problem(id="", problem="", answer="assert f(1) == 1", answer_type="code")
        CodeGrader(timeout=600).grade([problem], ["```python\\nwhile True: pass\\n```"])
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) as parent:
        deadline = time.monotonic() + 60
        while len(alive(nothing_stays)) < 4 and time.monotonic() < deadline:  # two processes of bubblewrap a sandbox
            time.sleep(0.02)
        running = len(alive(nothing_stays))
        parent.kill()
    assert running >= 4


@sandboxed
def test_no_descriptor_stays_open():
    grade("f = abs", "assert f(-1) == 1")
    before = len(os.listdir("/proc/self/fd"))
    assert grade_all([("f = abs", "assert f(-1) == 1"), ("import os; os._exit(0)", "assert f(1)")]) == [True, False]
    assert len(os.listdir("/proc/self/fd")) == before


def test_arguments():
    for workers in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"workers is {workers}; expected"):
            CodeGrader(workers=workers)
    for timeout in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout is"):
            CodeGrader(timeout=timeout)
    with pytest.raises(ValueError, match="got 1 problems and 0 completions"):
        CodeGrader().grade([task("assert f(1)")], [])
