# ruff: noqa: E501  a row a line
"""Small programs and tests of every kind that was graded wrongly once, with the right verdict; None is "no verdict"."""

import textwrap
import warnings
from importlib.util import find_spec

import pytest
from programs import block, sandboxed, task

from masa_lightning.grading.code_grader import CodeGrader

INC, DEC = "def f(x): return x + 1", "def f(x): return x - 1"
OWN = "class Bad(ValueError):\n    code = 7\ndef f(x):\n    if x < 0: raise Bad('negative', x)\n    return x"
GIVES_UP = "def f(x): return x + 1 if x <= 0 else None"
HALF = "def f(*a): return 0.5"
EMPTY = "def f(*a): return []"

# What only defines its tests: what they come to for a right program and for a wrong one.
DEFINED = {
    "function": "def test_f():\n    assert f(1) == 2",
    "two, one wrong": "def test_a():\n    assert f(1) is not None\ndef test_b():\n    assert f(1) == 2",
    "class": "class TestF:\n    def setup_method(self): self.x = 1\n    def test_f(self): assert f(self.x) == 2",
    "TestCase": "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)",
    "unittest.main": "import unittest\nclass T(unittest.TestCase):\n    def setUp(self): self.x = 1\n"
    "    def test_f(self): self.assertEqual(f(self.x), 2)\nif __name__ == '__main__':\n    unittest.main()",
    "exit=False": "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)\n"
    "unittest.main(argv=[''], exit=False)",
    "a runner": "import unittest\nclass T(unittest.TestCase):\n    def test_f(self): self.assertEqual(f(1), 2)\n"
    "unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T))",
    "subtests": "from unittest import TestCase\nclass T(TestCase):\n    def test_f(self):\n        for x in (1, 2):\n"
    "            with self.subTest(x=x): self.assertEqual(f(x), x + 1)",
    "main block": "def run():\n    assert f(1) == 2\nif __name__ == '__main__':\n    run()",
    "nobody calls it": "def check():\n    assert f(1) == 2",
    "async": "async def test_f():\n    assert f(1) == 2",
    "IsolatedAsyncioTestCase": "import unittest\nclass T(unittest.IsolatedAsyncioTestCase):\n"
    "    async def test_f(self): self.assertEqual(f(1), 2)",
    "parametrize": "import pytest\n@pytest.mark.parametrize('x, y', [(1, 2), (3, 4)])\ndef test_f(x, y):\n    assert f(x) == y",
    "two of them": "import pytest\n@pytest.mark.parametrize('x', [1, 2])\n@pytest.mark.parametrize(['d'], [(1,)])\n"
    "def test_f(x, d):\n    assert f(x) == x + d",
    "fixture": "import pytest\n@pytest.fixture\ndef one(): return 1\n@pytest.fixture\ndef x(one):\n    yield one\n"
    "def test_f(x):\n    assert f(x) == 2",
    "function as a parameter": "import pytest\n@pytest.mark.parametrize('g', [f])\ndef test_f(g):\n    assert g(1) == 2",
    "runTest": "import unittest\nclass T(unittest.TestCase):\n    def runTest(self): self.assertEqual(f(1), 2)",
    "value kept": "y = f(1)\ndef test_f():\n    assert y == 2",
    "helper": "def same(a, b):\n    assert a == b\ndef test_f():\n    same(f(1), 2)",
    "if and raise": "if f(1) != 2:\n    raise ValueError('wrong')",
    "all of a list": "results = []\nfor x in range(3):\n    results.append(f(x) == x + 1)\nassert all(results)",
    "counted": "n = 0\nfor x in range(3):\n    n += f(x) == x + 1\nassert n == 3",
    "numpy.testing": "import numpy as np\nnp.testing.assert_array_equal(f(np.array([1, 2])), np.array([2, 3]))",
    "approx": "import pytest\ndef test_f():\n    assert f(1) == pytest.approx(2.0)",
    "imported": "from solution import f\ndef test_f():\n    assert f(1) == 2",
    "imported as": "from solution import f as g\ndef test_f():\n    assert g(1) == 2",
    "imported in a test": "def test_f():\n    from your_module import f\n    assert f(1) == 2",
    "all imported": "from solution import *\ndef test_f():\n    assert f(1) == 2",
    "module imported": "import pytest, solution as s\ndef test_f():\n    assert s.f(1) == 2",
    "imported to a TestCase": "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n"
    "    def test_f(self): self.assertEqual(f(1), 2)",
}
# Tests that are none, of whatever program.
NO_TESTS = {
    "bare": "f(1) == 2",
    "printed": "print(f(1) == 2)",
    "not about the program": "f(1)\nassert 1 == 1",
    "constant": "x = 3\nf(1)\nassert x == 3",
    "swallowed": "try:\n    assert f(1) == 2\nexcept Exception:\n    pass",
    "counts only": "good = 0\nfor x in (1, 2):\n    try:\n        assert f(x) == x + 1\n        good += 1\n"
    "    except AssertionError:\n        pass\nprint(good)",
    "function that asserts nothing": "def test_f():\n    return f(1) == 2",
    "any error will do": "import pytest\nwith pytest.raises(Exception):\n    f()",
    "docstring": '"""\n>>> f(1)\n2\n"""\nf',
    "skipped": "import pytest\n@pytest.mark.skip\ndef test_f():\n    assert f(1) == 2",
    "unknown fixture": "def test_f(tmp_path):\n    assert f(1) == 2",
    "unknown of pytest": "import pytest\n@pytest.mark.xfail\ndef test_f():\n    assert f(1) == 2",
    "what is printed": "def test_f(capsys):\n    f(1)\n    assert capsys.readouterr().out == '2'",
    "objects of its own": "class Node:\n    def __init__(self, x): self.x = x\nassert f(Node(1)) == 2",
    "no package": "import no_such_package\nassert f(1) == 2",
    "patched print": "from unittest.mock import patch\nwith patch('builtins.print') as p:\n    f(1)\n    p.assert_called_with(1)",
    "print of its own": "import builtins\nseen = []\nbuiltins.print = lambda *a: seen.append(a)\nf(1)\nassert seen == [(1,)]",
    "eval": "assert eval('f(1)') == 2",
    "exec": "exec('r = f(1)')\nassert r == 2",
    "globals": "assert globals()['f'](1) == 2",
    "source": "import inspect\nassert inspect.getsource(f) and f(1) == 2",
    "code": "assert f.__code__.co_argcount == 1",
    "a file": "assert open('out.txt').read() == '2' and f(1) == 2",
    "input": "assert input() == str(f(1))",
    "processes": "import subprocess\nassert subprocess.run(['true']).returncode == 0 and f(1) == 2",
    "exit at the end": "import sys\nassert f(1) == 2\nsys.exit('done')",
}
# (program, tests, verdict)
COMPARED = [
    (EMPTY, "import numpy as np\nassert np.allclose(f(1), 1.0)", False),
    (EMPTY, "import numpy as np\nassert np.isclose(f(1), 1.0).all()", False),
    (EMPTY, "import numpy as np\nnp.testing.assert_allclose(f(1), [1.0, 2.0])", False),
    (EMPTY, "import numpy as np\nassert (np.array(f(1)) == 1.0).all()", False),
    (EMPTY, "import numpy as np\nassert np.all(np.abs(np.array(f(1)) - 1.0) < 1e-6)", False),
    ("def f(x): return [[]]", "import numpy as np\nassert np.allclose(f(1), [[1.0], [2.0]])", False),
    (
        "import numpy as np\ndef f(x): return np.zeros((0, 3))",
        "import numpy as np\nassert np.allclose(f(1), [1, 2, 3])",
        False,
    ),
    ("def f(x): return [1.0]", "import numpy as np\nassert np.allclose(f(1), [1.0, 1.0])", None),
    ("def f(x): return [1.0, 1.0]", "import numpy as np\nassert np.allclose(f(1), [1.0, 1.0])", True),
    (
        "import numpy as np\ndef f(x): return np.ones(2)",
        "import numpy as np\nassert np.allclose(f(1), [1.0, 1.0])",
        True,
    ),
    (HALF, "import numpy as np\nassert np.allclose(f(1), 0.5) and abs(np.array([f(1)]) - 0.5).max() < 1e-9", True),
    (EMPTY, "for a, b in zip(f([1, 2]), [2, 3]):\n    assert a == b", False),
    ("def f(xs): return [2]", "for a, b in zip(f([1, 2]), [2, 3]):\n    assert a == b", False),
    ("def f(xs): yield 2", "for a, b in zip([2, 3], f([1, 2])):\n    assert a == b", False),
    ("def f(xs): return [2, 3, 4]", "for a, b in zip(f([1, 2]), [2, 3]):\n    assert a == b", None),
    ("def f(xs): return [2, 3]", "for a, b in zip(f([1, 2]), [2, 3]):\n    assert a == b", True),
    ("def f(xs): return [1, 2, 2]", "r = f(3)\nassert len(r) == 3 and all(a <= b for a, b in zip(r, r[1:]))", True),
    (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "for a, b in zip(f(), range(3)):\n    assert a == b",
        True,
    ),
    ("def f(xs): return xs[:1]", "want = [1, 2]\nfor i, x in enumerate(f(want)):\n    assert x == want[i]", False),
    (
        "def f(xs): return xs[:1]",
        "want = [1, 2]\nr = f(want)\nassert all(r[i] == want[i] for i in range(len(r)))",
        False,
    ),
    ("def f(xs): return xs", "want = [1, 2]\nr = f(want)\nassert all(r[i] == want[i] for i in range(len(r)))", True),
    (EMPTY, "assert all(x == y for x, y in zip(*[f(1), [1, 2]]))", False),
    (EMPTY, "assert all(map(lambda a, b: a == b, f(1), [1, 2]))", False),
    (EMPTY, "from numpy.testing import assert_allclose\nassert_allclose(f(1), 2.0)", False),
    ("def f(x): return {}", "want = {'a': 1}\nfor k, v in f(1).items():\n    assert want[k] == v", False),
    (
        "class A:\n    def __iter__(self): return iter([])\n    def __len__(self): return 2\ndef f(x): return A()",
        "for a, b in zip(f(1), [1, 2]):\n    assert a == b",
        False,
    ),
    (EMPTY, "for x in f(1):\n    assert x == 1", False),
    ("def f(x): return float('nan')", "assert not abs(f(1) - 1) > 1e-6", None),
    ("def f(x): return float('nan')", "if abs(f(1) - 1) > 1e-6:\n    raise ValueError", None),
    ("def f(x): return float('nan')", "import pytest\nassert f(1) == pytest.approx(1)", False),
    (EMPTY, "import pytest\nassert f(1) == pytest.approx([1.0])", False),
    ("def f(x): return [1.0]", "import pytest\nassert f(1) == pytest.approx(1.0)", False),
]
ENDS = [
    "assert all(map(lambda x: f(x) == x + 1, [1, 2]))",
    "assert list(filter(lambda x: f(x) != x + 1, [1, 2])) == []",
    "from itertools import takewhile\nassert not [x for x in takewhile(lambda x: f(x) != 0, [1, 2])]",
    "for x in iter(lambda: f(1), 2):\n    assert x == 2\nassert f(1) == 2",
    "def run(xs):\n    for x in xs:\n        yield f(x) == x + 1\nassert all(run([1, 2]))",
    "assert all(f(x) == x + 1 for x in [1, 2])",
    "try:\n    for x in [1, 2]:\n        assert f(x) == x + 1\nexcept SystemExit:\n    pass",
]
VALUES = [
    (INC, "assert f(1) == 2", True),
    ("def sum(x): return x[0] + x[1]", "from solution import sum\nassert sum([1, 2]) == len(range(3))", True),
    ("def add(x): return 3", "from solution import sum\nassert sum([1, 2]) == len(range(3))", False),
    ("def f(g):\n    def w(*a): return g(*a) + 1\n    return w", "@f\ndef two(): return 2\nassert two() == 3", True),
    ("from pathlib import Path\ndef f(): return Path('a')", "from pathlib import Path\nassert f() == Path('a')", None),
    ("def f(): return object()", "from pathlib import Path\nassert f() == 5", False),
    ("def f(g, x): return g(x)", "assert f(lambda x: x * 2, 3) == 6", True),
    ("def f(g, x): return x", "assert f(lambda x: x * 2, 3) == 6", False),
    ("def f(g, xs): return sorted(xs, key=g)", "assert f(len, ['aa', 'b']) == ['b', 'aa']", True),
    ("def f(g, h):\n    return lambda x: g(h(x))", "assert f(lambda x: x + 1, str.__len__)('abc') == 4", True),
    ("def f(g):\n    return g", "g = lambda x: x\nassert f(g) is g", True),
    ("def f(g):\n    try: return g(1)\n    except KeyError: return 'no'", "def g(x): raise KeyError(x)\nassert f(g) == 'no'", True),
    ("def f(n, g):\n    return n if n < 1 else g(n - 1)", "def g(n): return f(n, g) + 1\nassert f(5, g) == 5", True),
    ("def f(it): return sum(it)", "assert f(iter([1, 2])) == 3 and f(x for x in (1, 2)) == 3", True),
    ("def f(kind, x): return isinstance(x, kind)", "assert f(int, 1) and not f(str, 1)", True),
    ("from decimal import Decimal\ndef f(x): return Decimal(x) / 3", "from decimal import Decimal\nassert f(1) == Decimal(1) / 3", True),
    ("def f(x): return x / 3", "from decimal import Decimal\nassert f(1) == Decimal(1) / 3", False),
    ("from datetime import date\ndef f(y): return date(y, 1, 1)", "from datetime import date\nassert f(2024) == date(2024, 1, 1)", True),
    ("from collections import deque\ndef f(x): return deque(x, 2)", "from collections import deque\nassert f([1, 2, 3]) == deque([2, 3])", True),
    ("def f(n): return range(n)", "assert f(3) == range(3) and list(f(2)) == [0, 1]", True),
    ("from fractions import Fraction as F\ndef f(): return F(1, 3)", "from fractions import Fraction\nassert f() == Fraction(2, 6)", True),
    ("from collections import Counter\ndef f(s): return Counter(s)", "assert f('aab').most_common(1) == [('a', 2)]", True),
    ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
     "assert f() == P(1, 2) == (1, 2) and f().y == 2 and isinstance(f(), P)", True),
    ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(x)", "assert f(1) == P(1) != P(2)", True),
    ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(-x)", "assert f(1) == P(1)", False),
    ("class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return self.x == o.x\n    def __add__(self, o): return P(self.x + o.x)",
     "assert P(1) + P(2) == P(3)", None),
    ("import numpy as np\ndef f(n): return np.arange(n)", "import numpy as np\nassert (f(3) == np.array([0, 1, 2])).all() and f(3).shape == (3,)", True),
    ("def f(d): return d.keys()", "assert f({1: 2}) == {1} and list(f({3: 4})) == [3]", True),
    ("def f(xs): return map(str, xs)", "assert list(f([1, 2])) == ['1', '2']", True),
    ("from enum import Enum\nclass C(Enum):\n    A = 1\ndef f(): return C.A", "assert f() == C.A and f() is not None", True),
    (OWN, "import pytest\nwith pytest.raises(Bad, match='negative') as e:\n    f(-1)\nassert e.value.args[1] == -1 and e.value.code == 7", True),
    (OWN, "try:\n    f(-1)\nexcept Bad as e:\n    assert isinstance(e, ValueError)\nelse:\n    assert False", True),
    (OWN, "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        with self.assertRaises(Bad): f(-1)", True),
    ("class Bad(ValueError): pass\ndef f(x): raise ValueError", "import pytest\nwith pytest.raises(Bad):\n    f(-1)", False),
    ("class Bad(ValueError): pass\ndef f(x): return x", "import pytest\nwith pytest.raises(Bad):\n    f(-1)", False),
    ("import json\ndef f(s): return json.loads(s)", "import json, pytest\nwith pytest.raises(json.JSONDecodeError):\n    f('{')", True),
    ("def f(it): return next(iter(it))", "import pytest\nwith pytest.raises(StopIteration):\n    f([])", True),
    ("import sys\ndef f(): sys.exit(2)", "import pytest\nwith pytest.raises((SystemExit, KeyError)):\n    f()", True),
    ("def f(xs): xs.sort()", "xs = [2, 1]\nf(xs)\nassert xs == [1, 2]", True),
    ("def f(xs): sorted(xs)", "xs = [2, 1]\nf(xs)\nassert xs == [1, 2]", False),
    ("def f(xs):\n    xs.clear()\n    return []", "xs = [2, 1]\nassert f(xs) == sorted(xs)", None),
    ("async def f(x): return x + 1", "import asyncio\nassert asyncio.run(f(1)) == 2", True),
    ("async def f(x): return x + 1", "async def test_f():\n    assert await f(1) == 2", True),
    ("async def f(x): return x", "async def test_f():\n    assert await f(1) == 2", False),
    ("class Stack:\n    def __init__(self): self.xs = []\n    def push(self, x): self.xs.append(x)\n    def __len__(self): return len(self.xs)\n    def __contains__(self, x): return x in self.xs",
     "s = Stack()\ns.push(3)\nassert len(s) == 1 and s.xs == [3] and type(s).__name__ == 'Stack' and isinstance(s, Stack)", True),
]  # fmt: skip


# What a function does to its arguments, and which objects it returns: (program, tests, verdict).
SORTS, SORTED = "def f(x):\n    x.sort()\n    return x", "def f(x): return sorted(x)"
KEEPS = "class S:\n    def __init__(self, x): self.x = x\n    def get(self): return self.x"
ONE_OBJECT = [
    (SORTS, "a = [2, 1]\nassert f(a) == [1, 2]\nassert a == [2, 1]", False),
    (SORTED, "a = [2, 1]\nassert f(a) == [1, 2]\nassert a == [2, 1]", True),
    (SORTS, "for a in ([3, 1, 2], [1]):\n    assert f(a) == sorted(a)", True),
    (SORTS, "a = [2, 1]\nassert f(a) == [1, 2] and a == [1, 2]", None),  # or f has changed what it is compared with
    ("def f(x):\n    x.clear()\n    return []", "for a in ([3, 1, 2], [1]):\n    assert f(a) == sorted(a)", None),
    ("def f(x):\n    x.clear()\n    return x", "a = [1, 2]\nassert f(a) == a", None),
    ("def f(x): return x.pop()", "a = [1, 2]\nassert f(a) == 2\nassert a == [1]", None),
    ("def f(x): return x[-1]", "a = [1, 2]\nassert f(a) == 2\nassert a == [1]", False),
    ("def f(x): return x", "a = [1]\nassert f(a) == [1] and f(a) is not a", False),
    ("def f(x): return [*x]", "a = [1]\nassert f(a) == [1] and f(a) is not a", True),
    ("def f(x): return x", "a = [1]\nassert f(a) is a", True),
    ("def f(x): return [*x]", "a = [1]\nassert f(a) == a\nassert f(a) is a", False),
    ("def f(x): return x", "a = (1, 2)\nassert f(a) is a", None),  # tuples travel as copies
    ("def f(x): return (1,)", "a = (1, 2)\nassert f(a) is a", False),
    ("def f(x): return x", "assert f(True) is True and f(None) is None and f(int) is int", True),
    ("def f(n): return [[0] * n] * n", "g = f(2)\ng[0][0] = 1\nassert g == [[1, 0], [0, 0]]", False),
    ("def f(n): return [[0] * n for _ in range(n)]", "g = f(2)\ng[0][0] = 1\nassert g == [[1, 0], [0, 0]]", True),
    ("def f(x, found=[]):\n    found.append(x)\n    return found", "a, b = f(1), f(2)\nassert a == [1]\nassert b[-1] == 2", False),
    (KEEPS, "a = [1]\ns = S(a)\na.append(2)\nassert s.get() == [1]", False),
    (KEEPS, "a = [1]\ns = S(a)\ns.get().append(2)\nassert s.get() == [1, 2] == a and s.get() is a", True),
    ("class M:\n    def __init__(self): self.grid = [[0], [0]]", "m = M()\nm.grid[0][0] = 1\nassert m.grid == [[1], [0]]", True),
    ("class N:\n    def me(self): return self", "n = N()\nassert n.me() is n", True),
    ("def f(d, e):\n    d.update(e)\n    return d", "d = {1: 2}\nassert f(d, {3: 4}) == {1: 2, 3: 4}\nassert d == {1: 2}", False),
    ("def f(x):\n    x.append(0)\n    raise ValueError", "a = [1]\ntry:\n    f(a)\n    assert False\nexcept ValueError:\n    pass\nassert a == [1]", False),
    ("import numpy as np\ndef f(a):\n    a *= 2\n    return a", "import numpy as np\na = np.array([1, 2])\nassert f(a).tolist() == [2, 4]\nassert a.tolist() == [1, 2]", False),
    ("def f(g):\n    x = [0]\n    assert g(x) is x and x == [0, 1]\n    return x", "def g(x):\n    x.append(1)\n    return x\nassert f(g) == [0, 1]", True),
    ("from collections import defaultdict\ndef f(): return defaultdict(int, a=1)", "assert f() == {'a': 1} and f()['z'] == 0", True),
    ("from collections import defaultdict\ndef f(): return defaultdict(lambda: defaultdict(list))", "d = f()\nd['a']['b'].append(1)\nassert d == {'a': {'b': [1]}}", True),
    ("from collections import deque\ndef f(n): return deque([1, 2], maxlen=n)", "d = f(2)\nd.append(3)\nassert list(d) == [2, 3]", True),
    ("def f(): return ...", "assert f() is ... and f() == Ellipsis", True),
    ("def f():\n    a = []\n    a.append(a)\n    return a", "a = f()\nassert a[0] is a and len(a) == 1", True),
    ("def f(n):\n    a = []\n    for _ in range(n): a = [a]\n    return a", "a, n = f(5000), 0\nwhile a:\n    a = a[0]\n    n += 1\nassert n == 5000", True),
]  # fmt: skip
# Objects that extend a value, with methods: they are called, and the value is compared.
EXTENDED = [
    ("from collections import OrderedDict\nclass LRU(OrderedDict):\n    def __init__(self, n):\n        super().__init__()\n        self.n = n\n    def get(self, k):\n        if k not in self: return -1\n        self.move_to_end(k)\n        return self[k]\n    def put(self, k, v):\n        self[k] = v\n        self.move_to_end(k)\n        if len(self) > self.n: self.popitem(last=False)",
     "c = LRU(2)\nc.put(1, 1)\nc.put(2, 2)\nassert c.get(1) == 1\nc.put(3, 3)\nassert c.get(2) == -1 and c.get(3) == 3 and len(c) == 2", True),
    ("class S(list):\n    def push(self, x): self.append(x)", "s = S()\ns.push(1)\ns.push(2)\nassert s == [1, 2] and [1, 2] == s and len(s) == 2 and isinstance(s, list)\nassert s.pop() == 2 and s == [1]", True),
    ("class S(list):\n    def push(self, x): self.insert(0, x)", "s = S()\ns.push(1)\ns.push(2)\nassert s == [1, 2]", False),
    ("import enum\nclass C(enum.IntEnum):\n    RED = 1\n    BLUE = 2", "assert C.RED == 1 and C.RED.name == 'RED' and C(1) is C.RED and C.RED + 1 == 2 and C.RED < C.BLUE < 3 and [7, 8][C.RED] == 8", True),
    ("from typing import NamedTuple\nclass P(NamedTuple):\n    x: int\n    y: int\n    def total(self): return self.x + self.y", "p = P(1, 2)\nx, y = p\nassert p == (1, 2) and p.total() == 3 and p.x == x and y == 2 and {p: 1}[(1, 2)] == 1", True),
    ("class L(list):\n    def first(self): return self[0]\n    def __eq__(self, other): return True\ndef f(): return L([1])", "assert f() == [1, 2]", False),
    ("class L(list):\n    def first(self): return self[0]\ndef f(x):\n    x.append(L([2]))\n    return x", "a = [1]\nf(a)\nassert a == [1, [2]] and a[1].first() == 2", True),
    ("class I(int):\n    def double(self): return self * 2\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(): return I(0)", "assert f() == 5", False),
]  # fmt: skip
PANDAS = find_spec("pandas") is not None
# Comparisons with what a program gives less of, or once: the verdict of the right program is True.
THREE, ONE, NUMBER = "def f(n): return [1, 1, 1]", "def f(n): return [1]", "def f(n): return 1"
LESS = [
    ("e = [1, 1, 1]\nfor i, v in enumerate(f(3)):\n    assert v == e[i]", THREE, ONE, False),
    ("for i, v in enumerate(f(3)):\n    assert v == [1, 1, 1][i]", THREE, ONE, False),
    ("e = [1, 1, 1]\nfor i, v in enumerate(f(3), 1):\n    assert v == e[i - 1]", THREE, ONE, None),
    ("e, r, i = [1, 1, 1], f(3), 0\nwhile i < len(r):\n    assert r[i] == e[i]\n    i += 1", THREE, ONE, False),
    ("e = [1, 1, 1]\nassert all(v == e[i] for i, v in enumerate(f(3)))", THREE, ONE, False),
    ("e = [[1, 1], [1, 1]]\nr = f(2)\nfor i in range(len(r)):\n    for j in range(len(r[i])):\n        assert r[i][j] == e[i][j]", "def f(n): return [[1, 1], [1, 1]]", "def f(n): return [[1], [1]]", False),
    ("w, r = [1, 1, 1], f(3)\nassert all(r[i] == w[i] for i in range(min(len(r), len(w))))", THREE, EMPTY, False),
    ("e = {'a': 1, 'b': 2}\nfor k, v in f(3).items():\n    assert v == e[k]", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {'a': 1}", None),
    ("e = {'a': 1, 'b': 2}\nr = f(3)\nfor k in r:\n    assert r[k] == e.get(k)", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {'b': 2}", None),
    ("e = {'a': 1, 'b': 2}\nassert all(v == e[k] for k, v in f(3).items()) and isinstance(f(3), dict)", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {}", None),
    ("e = iter([1, 1, 1])\nfor v in f(3):\n    assert v == next(e)", THREE, ONE, None),
    ("e = [1, 1, 1]\nfor v in f(3):\n    x = e.pop()\n    assert v == x", THREE, ONE, None),
    ("it = iter(f(3))\nfor e in [1, 1, 1]:\n    assert next(it, e) == e", THREE, ONE, None),
    ("it = iter(f(3))\nfor e in [1, 1, 1]:\n    v = next(it, None)\n    if v is None: break\n    assert v == e", THREE, ONE, None),
    ("it, end = iter(f(3)), object()\nassert next(it) == 1\nwhile next(it, end) is not end: pass\nassert next(it, end) is end", THREE, NUMBER, False),
    ("e, r = [1, 1, 1], f(3)\nassert r == e[:len(r)]", THREE, ONE, None),
    ("r = f(3)\nassert r['a'] == 1\nfor k, v in {'a': 1, 'b': 2}.items():\n    assert r.get(k, v) == v", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {'a': 1}", None),
    ("r = f(3)\nassert r.a == 1\nfor k, v in {'a': 1, 'b': 2}.items():\n    assert getattr(r, k, v) == v", "class O:\n    a, b = 1, 2\ndef f(n): return O()", "class O: a = 1\ndef f(n): return O()", None),
    ("r = f(3)\nassert r['a'] == 1\nfor k in 'ab':\n    assert r.get(k, 0) == (k == 'a')", "def f(n): return {'a': 1}", "def f(n): return {'b': 1}", False),
    ("e = {1, 2}\nfor v in f(3):\n    e.remove(v)\nassert f(3)", "def f(n): return [1, 2]", ONE, None),
    ("import unittest\ne = {'a': 1, 'b': 2}\nclass T(unittest.TestCase):\n    def test_f(self):\n        for k, v in f(3).items(): self.assertEqual(v, e[k])", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {'a': 1}", None),
    ("from itertools import count\ne = [1, 1, 1]\nfor i, v in zip(count(), f(3)):\n    assert v == e[i]", THREE, ONE, False),
    ("e, i = [1, 1, 1], 0\nfor v in f(3):\n    assert v == e[i]\n    i += 1", THREE, ONE, False),
    ("import numpy as np\nx = np.array(f(3)); y = np.array([1, 1, 1])\nfor i in range(min(len(x), len(y))):\n    assert x[i] == y[i]", THREE, ONE, False),
    ("e, r = [1, 1, 1], f(3)\nn = min(len(e), len(r))\nassert r[:n] == e[:n]", THREE, ONE, None),
    ("s = 'abcd'\nassert s[:f(3)] == 'a'", NUMBER, "def f(n): return 2", False),
    ("days = {1: 'Mo', 2: 'Tu'}\nfor v in f(3):\n    assert days[v] == 'Mo'", THREE, "def f(n): return [2]", False),
    *((f"import numpy as np\ne = np.array([1, 1, 1])\n{tests}", right, wrong, None) for tests, right, wrong in (
        ("assert (f(3) == e).all()", "import numpy as np\ndef f(n): return np.ones(n)", NUMBER),
        ("assert (e == np.array(f(3))).all()", THREE, ONE),
        ("assert np.abs(e - f(3)).max() < 1e-9", THREE, NUMBER),
        ("assert np.equal(f(3), [1, 1, 1]).all()", THREE, NUMBER),
        ("assert np.subtract(e, f(3)).any() == False", THREE, NUMBER),
        ("from numpy import logical_and as both\nassert both(f(3), e).all()", THREE, NUMBER),
        ("r = f(3)\nr = r - e\nassert not r.any()", "import numpy as np\ndef f(n): return np.ones(n)", NUMBER),
        ("r = f(3)\nr -= e\nassert not r.any()", "import numpy as np\ndef f(n): return np.ones(n, int)", NUMBER),
        ("assert not (e ^ f(3)).any()", "import numpy as np\ndef f(n): return np.ones(n, int)", NUMBER),
        ("assert np.array_equal(np.broadcast_to(f(3), 3), e)", THREE, NUMBER),
        ("x, y = np.broadcast_arrays(f(3), e)\nassert (x == y).all()", THREE, NUMBER),
        ("assert np.full(3, f(3)).tolist() == [1, 1, 1]", THREE, NUMBER),
        ("assert np.resize(f(3), 3).tolist() == [1, 1, 1]", THREE, ONE),
        ("a = np.empty(3)\na[:] = f(3)\nassert (a == e).all()", THREE, NUMBER),
        ("a = np.ones((2, 3))\na[0] = f(3)\nassert (a == 1).all()", THREE, ONE),
        ("a = np.empty(3)\nnp.copyto(a, f(3))\nassert (a == e).all()", THREE, NUMBER),
        ("assert np.vectorize(lambda a, b: a == b)(f(3), e).all()", THREE, NUMBER),
        ("same = np.vectorize(lambda a, b: a == b)\nassert same(f(3), e).all()", THREE, NUMBER),
        ("assert np.ma.allequal(f(3), e)", THREE, NUMBER),
        ("assert (np.select([np.ones(3, bool)], [f(3)]) == 1).all()", THREE, NUMBER),
        ("assert all(a == b for a, b in np.broadcast(f(3), np.ones(3)))", THREE, NUMBER),
        ("a = np.zeros(3)\na[:] += f(3)\nassert (a == 1).all()", THREE, NUMBER),
        ("a = np.zeros(3)\na.__setitem__(slice(None), f(3))\nassert (a == 1).all()", THREE, NUMBER),
        ("assert np.ones(3).__eq__(f(3)).all()", "import numpy as np\ndef f(n): return np.ones(n)", NUMBER),
        ("assert np.where(np.ones(3, bool), f(3), 0).tolist() == [1, 1, 1]", THREE, NUMBER),
        ("assert (np.choose([0, 0, 0], [f(3)]) == 1).all()", THREE, NUMBER),
        ("assert np.ma.where(np.ones(3, bool), f(3), 0).tolist() == [1, 1, 1]", THREE, NUMBER),
        ("same = np.equal\nassert same(f(3), np.ones(3)).all()", THREE, NUMBER),
        ("from functools import partial\nassert (partial(np.where, [True] * 3)(f(3), 0) == 1).all()", THREE, NUMBER),
        ("a = np.zeros(3)\na[:], b = f(3), 2\nassert (a == 1).all()", THREE, NUMBER),
        ("assert np.ma.allclose(f(3), np.ones(3))", THREE, NUMBER),
        ("for r, x in [(f(3), e)]:\n    assert (r == x).all()", "import numpy as np\ndef f(n): return np.ones(n)", NUMBER),
    )),
    *[("import pandas as pd\nassert (pd.Series([1, 1, 1]) == f(3)).all()", THREE, NUMBER, None)] * PANDAS,
    ("import numpy as np\nx = np.array(f(3))\ny = np.array([1, 1, 1])\nfor i in range(min(len(x), len(y))): assert x[i] == y[i]", THREE, ONE, False),
    ("import numpy as np\nx = np.array(f(3))\ny = np.array([1, 1, 1])\nfor a, b in zip(x, y): assert a == b", THREE, ONE, False),
    ("import math\nx = [math.sqrt(v) for v in f(3)]\ny = [math.sqrt(w) for w in [1, 1, 1]]\nfor a, b in zip(x, y): assert a == b", THREE, ONE, False),
    ("r, y = f(3), [1, 1, 1]\nfor i in range(len(y)):\n    if i < len(r): assert r[i] == y[i]", THREE, ONE, None),
    ("r, y = f(3), [1, 1, 1]\nfor i, v in enumerate(y):\n    try: w = r[i]\n    except IndexError: break\n    assert w == v", THREE, ONE, None),
    ("r = f(3)\nfor k, v in {'a': 1, 'b': 2}.items():\n    if k in r: assert r[k] == v", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {'a': 1}", None),
    ("assert f(3).items() <= {'a': 1, 'b': 2}.items()", "def f(n): return {'a': 1, 'b': 2}", "def f(n): return {'a': 1}", None),
    ("import numpy as np\nassert (np.dot(np.eye(3), f(3)) == np.concatenate([f(1), [1, 1]])).all()", "def f(n): return [1] * n", NUMBER, False),
    ("import heapq\nh = []\nheapq.heappush(h, f(3))\nassert h == [1]", NUMBER, "def f(n): return 2", False),
    ("import numpy as np\nr = np.array(f(3))\nassert (r == 1).all() and (r - r.mean() == 0).all() and len(r) == 3", THREE, ONE, False),
]  # fmt: skip


# Tests that say nothing about the program where it is right: (tests, verdict of a wrong one).
UNSAID = [
    ("import sys\nif f(1) != 2: sys.exit(1)", False),
    ("if f(1) == 2: print('ok')\nelse: raise SystemExit(1)", False),
    ("e = [2]\nfor x in [f(1)]: e.remove(x)\nassert True", False),
    ("r = []\nimport threading\nt = threading.Thread(target=lambda: r.append(f(1)))\nt.start()\nassert r == [2]", None),
]


# What holds for nothing, with a second assertion: the verdict of a program that gives nothing is None. The canary names those
# that a program passes which always gives nothing.
NOTHING = {
    "all": "assert all(x > 0 for x in f(3))",
    "not any": "assert not any(x < 0 for x in f(3))",
    "sum of comparisons": "assert sum(x < 0 for x in f(3)) == 0",
    "for": "for x in f(3):\n    assert x > 0",
    "for with raise": "for x in f(3):\n    if x < 0: raise ValueError",
    "for by number": "r = f(3)\nfor i in range(len(r)):\n    assert r[i] > 0",
    "while": "r, i = f(3), 0\nwhile i < len(r):\n    assert r[i] > 0\n    i += 1",
    "if": "r = f(3)\nif r:\n    assert r[0] == 1",
    "list": "assert not [x for x in f(3) if x < 0]",
    "list kept": "bad = [x for x in f(3) if x < 0]\nassert bad == []",
    "set": "assert len({x for x in f(3) if x < 0}) == 0",
    "dict": "assert not {x: 1 for x in f(3) if x < 0}",
    "default": "assert max(f(3), default=0) < 4",
    "of a list": "r = f(3)\nok = [x > 0 for x in r]\nassert all(ok)",
    "function": "def check(r): return all(x > 0 for x in r)\nassert check(f(3))",
    "filter": "assert not list(filter(lambda x: x < 0, f(3)))",
    "map": "assert all(map(lambda x: x > 0, f(3)))",
    "subset": "assert set(f(3)) <= {1, 2, 3}",
    "issubset": "assert set(f(3)).issubset({1, 2, 3})",
    "issuperset": "assert {1, 2, 3}.issuperset(f(3))",
    "difference": "assert not set(f(3)) - {1, 2, 3}",
    "neighbours": "r = f(3)\nassert all(a <= b for a, b in zip(r, r[1:]))",
    "pairwise": "from itertools import pairwise\nassert all(a < b for a, b in pairwise(f(3)))",
}
# (tests, right program, wrong program, verdict of the wrong one)
DECIDED = [
    ("a = [1, 2]; b = f(a); b.append(3)\nassert a == [1, 2, 3]", "def f(x): return x", "def f(x): return [*x]", False),
    ("a = {'a': 1}; b = f(a); b['k'] = 2\nassert a == {'a': 1, 'k': 2}", "def f(x): return x", "def f(x): return {**x}", False),
    ("a = [[1]]; b = f(a); b.append(2)\nassert a == [[1, 2]]", "def f(x): return x[0]", "def f(x): return [1]", False),
    ("import heapq\nh = []\nheapq.heappush(h, f(1))\nassert h == [2]", INC, DEC, False),
    ("try:\n    f(-1)\n    ok = False\nexcept ValueError:\n    ok = True\nassert ok", "def f(x): raise ValueError", DEC, False),
    ("bad = []\nfor i in (1, 2):\n    if f(i) != i + 1:\n        bad.append(i)\nassert not bad", INC, DEC, False),
    ("def t():\n    for i in (1, 2):\n        if f(i) != i + 1: return False\n    return True\nassert t()", INC, DEC, False),
    ("def same(a, b):\n    for x, y in zip(a, b):\n        assert x == y\nsame(f([1]), [2])\nassert f([]) == []",
     "def f(x): return [y + 1 for y in x]", EMPTY, False),
    ("def same(a, b):\n    return len(a) == len(b) and all(x == y for x, y in zip(a, b))\nassert same(f([]), []) and same(f([2]), [2])",
     "def f(x): return x", "def f(x): return [1]", False),
    ("r = f([1])\nassert r == [1]\nfor i in range(len(r) - 1):\n    assert r[i] <= r[i + 1]", "def f(x): return x", EMPTY, False),
    ("try:\n    assert f(3) == 4\nexcept RuntimeError:\n    pass\nassert f(1) == 2",
     INC, "def f(x):\n    if x == 3: raise RuntimeError\n    return 2", None),
    ("from contextlib import suppress\nwith suppress(Exception):\n    assert f(3) == 4\nassert f(1) == 2",
     INC, "def f(x):\n    if x == 3: raise RuntimeError\n    return 2", None),
    # an assertion that a condition of the program's keeps from being made, in a loop: from being made even once
    ("assert f(0) == 1\nfor x in (1, 2):\n    r = f(x)\n    if r: assert r == x + 1", INC, GIVES_UP, None),
    ("assert f(0) == 1\nfor x in (1, 2):\n    if f(x) is not None: assert f(x) == x + 1", INC, GIVES_UP, None),
    ("assert f(0) == 1\nfor x in (1, 2):\n    r = f(x)\n    if r is None: continue\n    assert r == x + 1", INC, GIVES_UP, None),
    ("assert f(0) == 1\ndef test_f():\n    r = f(1)\n    if r is None: return\n    assert r == 2", INC, GIVES_UP, None),
    ("assert f(0) == 1\nwhile True:\n    r = f(1)\n    if r is None: break\n    assert r == 2\n    break", INC, GIVES_UP, None),
    ("assert f(0) == 1\nfor x in (-9, 1):\n    r = f(x)\n    if r > 0: assert r == x + 1", INC, "def f(x): return max(x, 1)", False),
    ("r = [f(x) for x in (0, 1)]\nfor y in r:\n    if y > 9: continue\n    if y > 8: assert y == 9\nassert r == [1, 2]", INC, GIVES_UP, False),
    ("for x in (1, 2):\n    if f(x) == x + 1: continue\n    raise AssertionError('no')", INC, GIVES_UP, False),
    ("def test_f():\n    if f(1) == 2: return\n    assert False", INC, GIVES_UP, False),
    ("assert f(1) in 'abc' and f(2) == 'b'", "def f(x): return 'b'", "def f(x): return 'b' * (x - 1)", None),
]  # fmt: skip


def verdicts(pairs):
    """Verdicts of (program, tests), and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        problems = [task(tests) for _, tests in pairs]
        return CodeGrader().grade(problems, [block(program) for program, _ in pairs]), [str(w.message) for w in caught]


def wrong(names, found, expected):
    return [(name, one) for name, one, right in zip(names, found, expected, strict=True) if one is not right]


@sandboxed
@pytest.mark.parametrize(("program", "verdict"), [(INC, True), (DEC, False)])
def test_what_is_only_defined_is_run(program, verdict):
    found, warned = verdicts([(program, tests) for tests in DEFINED.values()])
    assert wrong(DEFINED, found, [verdict] * len(DEFINED)) == [] and warned == []


@sandboxed
def test_tests_that_assert_nothing_are_none():
    found, warned = verdicts([(INC, tests) for tests in NO_TESTS.values()])
    assert wrong(NO_TESTS, found, [None] * len(NO_TESTS)) == []
    assert len(warned) == len(NO_TESTS) and all("has no verdicts: " in text for text in warned)


@sandboxed
@pytest.mark.parametrize(
    "table", [COMPARED, VALUES, ONE_OBJECT, EXTENDED], ids=["comparisons", "values", "one object", "extended"]
)
def test_programs_and_their_verdicts(table):
    found, warned = verdicts([(program, tests) for program, tests, _ in table])
    assert wrong([row[:2] for row in table], found, [row[2] for row in table]) == [] and warned == []


@sandboxed
def test_less_than_what_is_expected_is_no_reason_to_pass():
    pairs = [(program, tests) for tests, *programs, _ in LESS for program in programs]
    found, warned = verdicts(pairs)
    assert wrong(pairs, found, [one for *_, verdict in LESS for one in (True, verdict)]) == [] and warned == []


@sandboxed
def test_what_holds_for_nothing_is_no_reason_to_pass():
    tests = [f"{text}\nassert f(1)[:1] == [1]" for text in NOTHING.values()]
    for program, verdict in (("def f(n): return list(range(1, n + 1))", True), ("def f(n): return [1][n - 1:]", None)):
        found, warned = verdicts([(program, text) for text in tests])
        assert wrong(NOTHING, found, [verdict] * len(NOTHING)) == [] and warned == []
    found, warned = verdicts([("def f(n): return []", "assert f(3) == sorted(f(3))")])
    assert found == [None] and "passed by functions that return []" in warned[0]


@sandboxed
def test_no_verdict_where_nothing_is_asserted_about_a_right_program():
    pairs = [(program, tests) for tests, _ in UNSAID for program in (INC, DEC)]
    assert wrong(pairs, verdicts(pairs)[0], [one for _, verdict in UNSAID for one in (None, verdict)]) == []


@sandboxed
def test_what_a_program_decides_is_about_it():
    found, warned = verdicts([pair for tests, right, bad, _ in DECIDED for pair in ((right, tests), (bad, tests))])
    assert wrong([row[0] for row in DECIDED], found[::2], [True] * len(DECIDED)) == [] and warned == []
    assert wrong([row[0] for row in DECIDED], found[1::2], [row[3] for row in DECIDED]) == []


@sandboxed
@pytest.mark.parametrize(
    "error", ["StopIteration", "GeneratorExit", "SystemExit(0)", "StopAsyncIteration", "KeyboardInterrupt"]
)
def test_errors_do_not_end_the_loops_of_tests(error):
    found, _ = verdicts([(f"def f(x): raise {error}", tests) for tests in ENDS])
    assert [(tests, one) for tests, one in zip(ENDS, found, strict=True) if one is True] == []
    assert found[:2] == [False, False]


@sandboxed
def test_tests_that_are_none_are_looked_at_once():
    grader, bad = CodeGrader(), task("f(1) == 2")
    with pytest.warns(UserWarning, match="problem 'p7' has no verdicts: its tests assert nothing") as warned:
        bad.id = "p7"
        assert grader.grade([bad, bad], [block(INC), block(DEC)]) == [None, None]
    assert len(warned) == 1
    assert grader.grade([bad], [block(textwrap.dedent(INC))]) == [None]
