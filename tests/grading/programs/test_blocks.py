import pytest

from masa_lightning.grading.programs.blocks import program_of


@pytest.mark.parametrize(
    ("completion", "program"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1\n```", "x = 1\n"),
        ("```Python \nx = 1\n```  ", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("a\r\n```python\r\nx = 1\r\ny = 2\r\n```\r\nb", "x = 1\ny = 2\n"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nrun\n```bash\nls\n```\n```text\n5\n```", "x = 1\n"),
        ("```python\nx = 1\n```\n```python\nx = 2", "x = 1\n"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("1. so\n  ```python\n  if x:\n\n      y = 1\n  ```", "if x:\n\n    y = 1\n"),
        ("```python\n```", ""),
        ("```python\nx = 1", None),
        ("x = 1\n```", None),
        ("```bash\nx\n```", None),
        ("x = `1`", None),
        ("", None),
        ("```python x = 1 ```", None),
        ("```" * 10000, None),
        ("<think>so</think>```python\nx = 1\n```", "x = 1\n"),
        ("<answer>\n```python\nx = 1\n```</answer>", "x = 1\n"),
        ("```python\n\ufeffx = 1\n```", "x = 1\n"),
        ("```python\u200b\nx = \0001\n```", "x = 1\n"),
        ("```python\n\tif x:\n\t\ty = 1\n```", "if x:\n\ty = 1\n"),
        ("```python\nx = 1\ny = 2```\nDone.", "x = 1\ny = 2\n"),
        ("```python\rx = 1\r```", "x = 1\n"),
    ],
)
def test_blocks(completion, program):
    assert program_of(completion) == program


RIGHT = "def add(a, b):\n    return a + b\n"


def test_helpers_of_blocks_before_come_along():
    helper, uses = "import math\ndef h(x):\n    return x + 1\n", "def f(x):\n    return h(math.floor(x))\n"
    text = fenced(("python", helper), ("python", uses), ("python", "print(f(1))\n"))
    assert program_of(text, ["f"]) == f"{helper}\n{uses}"
    assert program_of(text.replace(uses, RIGHT), ["add"]) == RIGHT


def fenced(*blocks):
    return "\n\nand\n\n".join(f"```{label}\n{text}```" for label, text in blocks)


@pytest.mark.parametrize(
    "later",
    [
        ("python", "print(add(1, 2))\n"),
        ("python", "from solution import add\nassert add(1, 2) == 3\n"),
        ("", "3\n"),
        ("", "pip install numpy\n"),
        ("text", "add = 3\n"),
        ("bash", "pip install x\n"),
        ("python", ">>> add(1, 2)\n3\n"),
        ("python", "def main():\n    print(add(1, 2))\nmain()\n"),
    ],
)
def test_the_last_block_that_defines_what_is_tested(later):
    completion = fenced(("python", "def add(a, b): pass\n"), ("python", RIGHT), later)
    assert program_of(completion, {"add"}) == RIGHT


def test_blocks_that_build_on_one_another():
    completion = fenced(
        ("python", "import math\n"), ("python", RIGHT), ("", "3\n"), ("python", "def sub(a, b): return a - b\n")
    )
    program = program_of(completion, {"add", "sub"})
    assert "import math" in program and RIGHT in program and "def sub" in program and "\n3\n" not in program


def test_nothing_that_is_tested_is_defined():
    assert program_of(fenced(("python", RIGHT), ("python", "x = 1\n")), {"other"}) == "x = 1\n"
    assert program_of("no code", {"add"}) is None


def test_a_program_that_prints():
    script = "print(int(input()) + 1)\n"
    assert program_of(fenced(("python", script), ("", "3\n")), prints=True) == script
    assert program_of(fenced(("python", "x = 1\n"), ("", "3\n")), prints=True) == "3\n"


@pytest.mark.parametrize(
    "label",
    [
        "python3.11",
        "{python}",
        "{.python}",
        "{.python .numberLines}",
        'python title="x.py"',
        "Python",
        "PY3",
        "python,linenos",
        "ipython3",
        "python {title=x}",
        " python3 ",
    ],
)
@pytest.mark.parametrize("fence", ["```", "~~~", "`````"])
def test_labels_and_fences(label, fence):
    assert program_of(f"So:\n{fence}{label}\n{RIGHT}{fence}\nDone.") == RIGHT
    assert program_of(f"So:\n{fence}{label}\n{RIGHT}") is None


@pytest.mark.parametrize("label", ["pythonic", "python-repl", "pycon", "cpp", "c", "javascript", "pyright", "json"])
def test_other_labels(label):
    assert program_of(f"```{label}\n{RIGHT}```") is None


def test_fences_of_the_other_kind_do_not_close():
    assert program_of(f"~~~python\n{RIGHT}```\n~~~") == f"{RIGHT}```\n"
