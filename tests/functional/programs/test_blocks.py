import pytest

from masa_lightning.functional.programs.blocks import program_of


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
    ],
)
def test_blocks(completion, program):
    assert program_of(completion) == program
