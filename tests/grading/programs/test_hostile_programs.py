"""Programs of a model are hostile until shown otherwise: what each attack can do is tried, on this machine, for real."""

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from programs import block, grade, grade_all, sandboxed, task

from masa_lightning.grading.code_grader import CodeGrader

# -- attacks that raise an error ------------------------------------------------------------------------------------------

SECRET = "masa_secret_of_the_host"
# Each is a function body; getting to the end of it is the attack's success.
REFUSED = {
    "read a host file": "open({file!r}).read()",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "read this repository": "open({here!r}).read()",
    "list this repository": "os.listdir({folder!r})",
    "look at processes": "os.listdir('/proc')",
    "write beside the scratch": "open('/written', 'w')",
    "write to the libraries": "open(os.path.dirname(os.__file__) + '/masa.py', 'w')",
    "change a library": "os.chmod(os.__file__, 0o777)",
    "write to the home folder": "open({home!r} + '/.masa', 'w')",
    "make a home folder": "os.makedirs({home!r} + '/masa')",
    "change the script": "open('/script.py', 'a')",
    "delete a library": "os.remove(os.__file__)",
    "fork": "os.fork() or os._exit(0)",
    "run a program": "subprocess.run(['/bin/true'], check=True)",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {{}})",
    "start a thread": "threading.Thread(target=int).start()",
    "allocate": "bytearray(2**31)",
    "allocate bit by bit": "x = []\n    while True: x.append(bytearray(2**20))",
    "map memory": "import mmap; mmap.mmap(-1, 2**31)",
    "fill the scratch": "for i in range(40): open(f'/tmp/{{i}}', 'wb').write(bytes(2**20))",
    "write a big file": "open('/tmp/big', 'wb').truncate(2**30); open('/tmp/big', 'ab').write(bytes(2**20))",
    "open files without end": "x = []\n    while True: x.append(open('/dev/null'))",
    "make a socket": "socket.socket()",
    "make a unix socket": "socket.socket(socket.AF_UNIX).connect('\\0masa')",
    "make a socket of the hypervisor": "socket.socket(socket.AF_VSOCK)",
    "connect": "socket.create_connection(('127.0.0.1', {port}), timeout=5)",
    "resolve a name": "socket.getaddrinfo('localhost.example.org', 80)",
    "kill all": "os.kill(-1, 9)",
    "kill the grader": "os.kill({pid}, 9)",
    "signal the parent": "os.kill(os.getppid(), 15) if os.getuid() == 65530 else 1 / 0",
    "become root": "os.setuid(0)",
    "become a group": "os.setgroups([0])",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_NPROC, (10, 10))",
    "be more important": "os.nice(-5)",
    "see a secret variable": "os.environ[{secret!r}]",
    "hold more memory than its own": "ctypes_call('memfd_create', b'm', 0)",
    "share memory": "ctypes_call('shmget', 0, 2**20, 0o1600)",
    "make a namespace": "ctypes_call('unshare', 0x10000000)",
    "mount": "ctypes_call('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "chroot": "os.chroot('/tmp')",
    "trace the parent": "ctypes_call('ptrace', 16, 1, 0, 0)",
    "make a device": "os.mknod('/tmp/disk', 0o60666, os.makedev(8, 0))",
    "open a path of another root": "open('/tmp/../..' + {file!r}).read()",
}
ATTACK = """
import os, socket, subprocess, sys, threading
def ctypes_call(name, *args):
    import ctypes
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args) == -1:
        raise OSError(ctypes.get_errno(), name)
def attack():
    try:
        run()
    except (OSError, MemoryError, RuntimeError, ImportError, ValueError, LookupError, ArithmeticError) as error:
        return "refused"
    return "done"
def run():
    {body}
"""


@sandboxed
@pytest.mark.timeout(120)
def test_attacks_are_refused_and_the_host_is_as_before(nothing_stays, monkeypatch, tmp_path):
    monkeypatch.setenv(SECRET, "1")
    file = tmp_path / "file"
    file.write_text("host")
    file.chmod(0o644)
    # abstract: a name without a file, open to every process of the network namespace
    with (
        socket.socket() as listener,
        socket.socket(socket.AF_UNIX) as local,
        subprocess.Popen(["sleep", "600"]) as victim,
        ExitStack() as ends,
    ):
        ends.callback(victim.kill)  # or a failure below would wait for it
        listener.bind(("127.0.0.1", 0))
        local.bind("\0masa")
        for server in (listener, local):
            server.listen()
            server.settimeout(0)
        facts = {
            "file": str(file),
            "here": __file__,
            "folder": str(Path(__file__).parents[2] / "tests"),
            "home": str(Path.home()),
            "port": listener.getsockname()[1],
            "pid": victim.pid,
            "secret": SECRET,
        }
        # The attack runs and is refused: a program that merely dies does not pass these tests.
        programs = [ATTACK.format(body=body.format(**facts)) for body in REFUSED.values()]
        verdicts = grade_all([(program, "assert attack() == 'refused'") for program in programs])
        assert [name for name, verdict in zip(REFUSED, verdicts, strict=True) if verdict is not True] == []
        for server in (listener, local):
            with pytest.raises(BlockingIOError):
                server.accept()
        assert victim.poll() is None
    assert file.read_text() == "host"
    assert not (Path.home() / ".masa").exists() and not Path("/written").exists()


@sandboxed
def test_each_attack_works_without_the_sandbox(tmp_path):
    """Those attacks can succeed: some that are harmless do, outside."""
    file = tmp_path / "file"
    file.write_text("host")
    names = ["read a host file", "read /etc/passwd", "look at processes", "fork", "run a program", "start a thread"]
    names += ["make a socket", "see a secret variable", "hold more memory than its own", "allocate", "map memory"]
    for name in names:
        body = REFUSED[name].format(file=str(file), secret=SECRET)
        code = ATTACK.format(body=body) + "print(attack())"
        done = subprocess.run(
            [sys.executable, "-I", "-c", code],
            env={SECRET: "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout == "done\n", name


# -- attacks that end, hang or lie ----------------------------------------------------------------------------------------

WRONG = "def f(x): return -x\n"
EVERY_DESCRIPTOR = """
import os
def tell(data):
    for number in range(64):
        try:
            os.write(number, data)
        except OSError:
            pass
"""
LIES = {
    "exit": "import sys; sys.exit(0)",
    "exit at once": "import os; os._exit(0)",
    "exit when called": WRONG + "def f(x):\n    import os\n    os._exit(0)",
    "exit the function": "def f(x): raise SystemExit(0)",
    "claim to have passed": WRONG + "print('PASS'); print('ready\\npass')",
    "forge the verdict": WRONG + EVERY_DESCRIPTOR + "tell(b'ready\\npass\\n')",
    "forge the verdict and end": EVERY_DESCRIPTOR + "tell(b'ready\\npass\\n'); os._exit(0)",
    "forge the verdict when called": EVERY_DESCRIPTOR + "def f(x):\n    tell(b'ready\\npass\\n'); os._exit(0)",
    "forge replies": WRONG + EVERY_DESCRIPTOR + "tell(b'{\"value\": [true, [], []]}\\n' * 50)",
    "forge replies with garbage": WRONG + EVERY_DESCRIPTOR + "tell(b'\\xff\\x00[]{}\\n')",
    "forge deep replies": WRONG + EVERY_DESCRIPTOR + "tell(b'[' * 10**6 + b'\\n')",
    "forge objects": WRONG + EVERY_DESCRIPTOR + 'tell(b\'{"value": [{"handle": [1]}, [], []]}\\n\')',
    "forge a wrong kind": WRONG + EVERY_DESCRIPTOR + 'tell(b\'{"value": [{"eval": "1"}, [], []]}\\n\')',
    "forge an error": WRONG
    + EVERY_DESCRIPTOR
    + 'tell(b\'{"error": [["builtin", "SystemExit"], [{"tuple": []}, [], []], "0", 0]}\\n\' * 9)',
    "close everything": WRONG + "import os; os.closerange(0, 64)",
    "always equal": "class A:\n    def __eq__(self, other): return True\n    __hash__ = None\ndef f(x): return A()",
    "always equal number": "class A(int):\n"
    "    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return A(7)",
    "always equal list": "class A(list):\n    def __eq__(self, other): return True\ndef f(x): return A([7])",
    "equal by reflection": "class A:\n    def __ne__(self, o): return False\n"
    "    def __bool__(self): return True\n    __eq__ = __bool__\ndef f(x): return A()",
    "another import": WRONG + "import builtins; builtins.__import__ = lambda *a, **k: None",
    "another compile": WRONG + "import builtins; builtins.compile = builtins.exec = lambda *a, **k: None",
    "forge a change": WRONG
    + EVERY_DESCRIPTOR
    + 'def f(x):\n    tell(b\'{"value": [2, [[0, "list", null, [9]]], []]}\\n\'); return 0',
    "another json": WRONG + "import json; json.loads = json.dumps = lambda *a, **k: '{\"value\": [true, [], []]}'",
    "another module": WRONG + "import sys, types\nfor n in list(sys.modules): sys.modules[n] = types.ModuleType(n)",
    "another worker": WRONG + "import sys\nm = sys.modules['__main__'].__dict__\nfor n in list(m):\n"
    "    if callable(m[n]): m[n] = lambda *a, **k: True",
    "frames": WRONG + "import sys\ng = sys._getframe(1)\nwhile g:\n    g.f_globals.clear(); g = g.f_back",
    "recursion": "def f(x): return f(x)",
    "deep value": "def f(x):\n    for _ in range(10**5): x = [x]\n    return x",
    "endless value": "def f(x):\n    x = []; x.append(x); return x",
    "huge value": "def f(x): return 'x' * 10**8",
    "huge number": "def f(x): return 1 << 10**8",
    "broken code": "import ctypes; ctypes.string_at(0)",
    "kill itself": WRONG + "import os; os.kill(os.getpid(), 9)",
    "kill itself when called": "def f(x):\n    import os; os.kill(os.getpid(), 9)",
    "null byte": "f = '\0'",
}
HANGS = {
    "deep recursion": "import sys; sys.setrecursionlimit(10**9)\ndef f(x): return f(x)",
    "endless loop": "while True: pass",
    "endless loop when called": "def f(x):\n    while True: pass",
    "endless output": "while True: print('x' * 10**4)",
    "sleep": "def f(x):\n    import time; time.sleep(600)",
    "deaf to signals": "import signal\nfor n in range(1, 65):\n"
    "    try: signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass",
    "fork without end": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "wait for input that never comes": WRONG + "import os\nwhile True: os.read(3, 1)",
    "quadratic": "def f(x):\n    int('9' * 4000) ** 10**7\n    return x",
    "backtracking": "import re\ndef f(x): re.match(r'(a+)+$', 'a' * 40 + 'b')",
    "never comes to an end": "def f(x):\n    while True: yield x",
}


@sandboxed
@pytest.mark.timeout(120)
def test_lies_are_wrong(nothing_stays):
    tests = ["assert f(1) == 1", "assert [f(1)] == [1] and f(2) in (2, 3)"]
    for each in tests:
        verdicts = grade_all([(program, each) for program in LIES.values()], timeout=4.0)
        assert [name for name, verdict in zip(LIES, verdicts, strict=True) if verdict is not False] == []


@sandboxed
@pytest.mark.timeout(120)
def test_programs_that_hang_are_wrong_in_time(nothing_stays):
    pairs = [(program, "assert list(f(1)) == [1]") for program in HANGS.values()]
    assert CodeGrader(workers=5, timeout=1.0).grade([task(t) for _, t in pairs], [block(p) for p, _ in pairs]) == [
        False
    ] * len(HANGS)


@sandboxed
def test_errors_that_the_program_makes_up_do_not_pass_for_others():
    tests = "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass"
    assert grade("def f(x): raise ValueError", tests) is True
    assert grade("class ValueError(Exception): pass\ndef f(x): raise ValueError", tests) is False
    assert grade("def f(x): raise SystemExit", tests) is False
    assert (
        grade("def f(x):\n    import os; os._exit(0)", "try:\n    f(1)\nexcept BaseException:\n    pass\nassert f(2)")
        is False
    )


@sandboxed
def test_memory_of_the_tests_is_not_the_programs_to_show():
    """numpy asks objects where their memory is; an answer to that would let a program read that of the tests."""
    pytest.importorskip("numpy")
    program = """
        class A:
            shape, typestr, version = (2,), "<f8", 3
            __array_interface__ = {"shape": (0,), "typestr": "<f8", "data": (1, False), "version": 3}
            def __array__(self, *args, **kwargs): return []
            def __len__(self): return 0
            def __getitem__(self, key): raise IndexError
        def f(): return A()
    """
    for check in ("np.allclose(f(), [1.0])", "np.array_equal(f(), [1.0])", "(np.asarray(f()) == [1.0]).all()"):
        assert grade(program, f"import numpy as np\nassert {check}") is False


# -- attacks on functions of the tests, and on programs that read and print -----------------------------------------------

CALLS_BACK = {
    "swallow a failing function": "def f(g):\n    try: g(0)\n    except BaseException: pass\n    return 1",
    "call what was not given": "def f(g):\n    g._number = 7\n    return g(1)",
    "call without end": "def f(g):\n    while True: g(1)",
    "recursion through both": "def f(g): return g(lambda: f(g))",
    "forge an answer": WRONG
    + EVERY_DESCRIPTOR
    + "def f(g):\n    tell(b'{\"value\": [2, [], []]}\\n' * 9); os._exit(0)",
    "forge questions": EVERY_DESCRIPTOR
    + 'tell(b\'{"back": {"list": ["call", 0, {"list": [1]}, {"dict": []}]}}\\n\' * 50)\ndef f(g): return -1',
    "forge a skipped test": EVERY_DESCRIPTOR + 'def f(g):\n    tell(b\'{"error": [["standard", "unittest.case", '
    '"SkipTest"], [{"tuple": []}, [], []], "", 0]}\\n\'); return -1',
    "raise a skipped test": "import unittest\ndef f(g): raise unittest.SkipTest",
    "an object that is all": "class A:\n    def __eq__(self, o): return True\n    def __call__(self, *a): return self\n"
    "    def __lt__(self, o): return True\n    __gt__ = __le__ = __ge__ = __contains__ = __lt__\n"
    "    def __sub__(self, o): return 0.0\n    __rsub__ = __add__ = __abs__ = __sub__\n    def __len__(self): return 1\n"
    "    def __iter__(self): return iter(())\n    def __float__(self): return 1.0\ndef f(g): return A()",
    "an error that is all": "class Meta(type):\n    def __instancecheck__(self, o): return True\n"
    "class E(Exception, metaclass=Meta):\n    def __eq__(self, o): return True\ndef f(g): raise E",
}
CALLS_BACK_TESTS = """
import unittest
def g(x):
    assert x == 1
    return x
class T(unittest.TestCase):
    def test_f(self):
        value = f(g)
        self.assertTrue(abs(value - 1) < 1e-6)
        self.assertEqual(value, 1)
"""


@sandboxed
@pytest.mark.timeout(120)
def test_functions_of_tests_are_no_way_to_a_pass(nothing_stays):
    verdicts = grade_all([(program, CALLS_BACK_TESTS) for program in CALLS_BACK.values()], timeout=5.0)
    assert [name for name, verdict in zip(CALLS_BACK, verdicts, strict=True) if verdict is not False] == []
    assert grade("def f(g): return g(1)", CALLS_BACK_TESTS) is True


SCRIPT = "n = int(input())\nprint(n * n)"
SCRIPTS = {
    "wrong": "n = int(input())\nprint(n + n)",
    "nothing": "pass",
    "constant": "print(9)",
    "verdict": "print('pass'); print('ready\\npass')",
    "forge the verdict": EVERY_DESCRIPTOR + "tell(b'ready\\npass\\n')",
    "forge the verdict and end": EVERY_DESCRIPTOR + "tell(b'ready\\npass\\n'); os.kill(os.getpid(), 9)",
    "forge outputs": EVERY_DESCRIPTOR + 'tell(b\'{"value": ["9", [], []]}\\n\' * 9)',
    "always equal": "class A(str):\n    def __eq__(self, o): return True\nimport sys\nsys.stdout.write(A('x'))",
    "endless output": "while True: print('9' * 10**6)",
    "endless": "while True: pass",
    "error behind the output": "print(int(input()) ** 2)\nraise ValueError",
    "even process numbers": "import os\nprint([9, 16][os.getpid() % 2])",
    "odd process numbers": "import os\nprint([16, 9][os.getpid() % 2])",
    "reads on": "while True: print(int(input()) ** 2)",
}
RIGHT_SCRIPTS = {
    "forget the first": "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) or int(input())\nprint(n * n)",
    "wrap": "import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer)\n"
    "sys.stdin = io.TextIOWrapper(sys.stdin.buffer)\n" + SCRIPT,
    "codecs": "import codecs, sys\nsys.stdout = codecs.getwriter('utf8')(sys.stdout.buffer)\n" + SCRIPT,
    "reopen": "import sys\nsys.stdin, sys.stdout = open(0), open(1, 'w')\n" + SCRIPT,
    "collect": "import atexit, io, sys\nout, sys.stdout = sys.stdout, io.StringIO()\n"
    "atexit.register(lambda: out.write(sys.stdout.getvalue()))\n" + SCRIPT,
    "usual": SCRIPT,
    "by name": "print(sum(int(line) ** 2 for line in open('/dev/stdin')))",
    "to a name": "open('/dev/stdout', 'w').write(str(int(open('/dev/fd/0').read()) ** 2))",
    "main": "import sys\ndef main():\n    print(int(sys.stdin.readline()) ** 2)\nif __name__ == '__main__':\n    main()",
    "by number": "import os\nos.write(1, str(int(os.read(0, 100)) ** 2).encode())",
    "whole": "import sys\nsys.stdout.write(str(int(sys.stdin.buffer.read().split()[0]) ** 2))",
    "open(0)": "n, = map(int, open(0))\nprint(n * n)",
    "exit": SCRIPT + "\nexit()",
    "exit with a status": SCRIPT + "\nimport sys\nsys.exit(3)",
    "exit with words": SCRIPT + "\nraise SystemExit('done')",
    "hard exit": "import os, sys\n" + SCRIPT + "\nsys.stdout.flush()\nos._exit(0)",
    "thread": "import threading\ndef main():\n    print(int(input()) ** 2)\nthreading.stack_size(2**26)\n"
    "t = threading.Thread(target=main)\nt.start()\nt.join()",
    "recursion": "import sys\nsys.setrecursionlimit(10**6)\ndef up(n): return n if n > 5000 else up(n + 1)\nup(0)\n"
    + SCRIPT,
}


@sandboxed
@pytest.mark.timeout(120)
def test_programs_that_read_and_print(nothing_stays):
    tests = '{"inputs": ["3\\n", "4\\n"], "outputs": ["9\\n", "16"]}'
    wrong = grade_all([(program, tests) for program in SCRIPTS.values()], timeout=4.0)
    right = grade_all([(program, tests) for program in RIGHT_SCRIPTS.values()])
    assert [name for name, verdict in zip(SCRIPTS, wrong, strict=True) if verdict is not False] == []
    assert [name for name, verdict in zip(RIGHT_SCRIPTS, right, strict=True) if verdict is not True] == []


@sandboxed
def test_calls_share_a_program_but_not_the_count_of_them():
    tests = '{"inputs": [[1, 2], [3, 4]], "outputs": [3, 7], "fn_name": "f"}'
    right = [
        "from functools import cache\n@cache\ndef f(a, b): return a + b",
        "class Solution:\n    r = 0\n    def f(self, a, b):\n        self.r += a + b\n        return self.r",
    ]
    wrong = [
        "k = -1\ndef f(a, b):\n    global k\n    k += 1\n    return [3, 7][k]",
        "k = -1\ndef f(a, b):\n    global k\n    k = min(k + 1, 1)\n    return [3, 7][k]",
        "from itertools import cycle\nc = cycle([3, 7])\ndef f(a, b): return next(c)",
    ]
    pairs = [(program, tests) for program in (*right, *wrong)]
    assert grade_all(pairs) == [True] * len(right) + [False] * len(wrong)


# What a run leaves behind: "0" in each run that finds nothing of an earlier one.
LEFT = {
    "sys": "import sys\nsys.k = k = getattr(sys, 'k', -1) + 1\nprint(k)",
    "builtins": "import builtins\nbuiltins.k = k = getattr(builtins, 'k', -1) + 1\nprint(k)",
    "a module": "import string\nstring.k = k = getattr(string, 'k', -1) + 1\nprint(k)",
    "a class": "import collections\nc = collections.Counter\nc.k = k = getattr(c, 'k', -1) + 1\nprint(k)",
    "a default": "from json import dumps as f\nf.__kwdefaults__['k'] = k = f.__kwdefaults__.get('k', -1) + 1\nprint(k)",
    "an environment": "import os\nos.environ['k'] = k = str(int(os.environ.get('k', '-1')) + 1)\nprint(k)",
    "a file": "import os\nk = int(os.path.exists('/tmp/k'))\nopen('/tmp/k', 'w').close()\nprint(k)",
    "a folder": "import os\nk = int(os.path.exists('d'))\nos.makedirs('d/e', exist_ok=True)\nopen('d/e/f', 'w').close()\n"
    "os.chmod('d', 0)\nprint(k)",
    "a link": "import os\nk = int(os.path.lexists('d'))\nk or os.symlink('/', 'd')\nprint(k)",
    "a folder to work in": "import os\nk = os.getcwd().count('d')\nos.mkdir('d')\nos.chdir('d')\nprint(k)",
    "a descriptor": "import os\nfrom contextlib import suppress\nk = 1\nwith suppress(OSError): os.fstat(40)\n"
    "try: os.fstat(40)\nexcept OSError: k = 0\nos.dup2(1, 40)\nprint(k)",
    "at its end": "import atexit, sys\nprint(getattr(sys, 'k', 0))\natexit.register(lambda: setattr(sys, 'k', 1))",
    "a limit": "import sys\nprint(int(sys.getrecursionlimit() == 5000))\nsys.setrecursionlimit(5000)",
    "two processes": "import os\ntry: os.fork()\nexcept OSError: print(0)",
}


@sandboxed
@pytest.mark.timeout(120)
def test_each_input_is_a_run_of_its_own(nothing_stays):
    tests = '{"inputs": ["1", "1", "2"], "outputs": ["0", "0", "0"]}'
    verdicts = grade_all([(program, tests) for program in LEFT.values()])
    assert [name for name, verdict in zip(LEFT, verdicts, strict=True) if verdict is not True] == []
