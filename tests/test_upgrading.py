"""The table of docs/upgrading.md: all private names of other libraries that the package uses, read from its sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_imports import is_private, private_names

import masa_lightning

PACKAGE = Path(masa_lightning.__file__).parent
PAGE = Path(__file__).parents[1] / "docs/upgrading.md"
# Documented ones of the standard library, and attributes of syntax trees that are ours.
KNOWN = {"_exit", "_fields", "_replace", "_asdict", "_constant", "__future__"}


def names_of_others(tree: ast.AST) -> Iterator[str]:
    """Private names that a file takes from objects, by attribute, text or import, and does not define itself."""
    own = private_names(tree)
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Attribute):
            found = [node.attr]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).startswith("vars("):
            found = [str(getattr(node.slice, "value", ""))]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("getattr", "hasattr", "get"):
            if ast.unparse(node.func) in ("getattr", "hasattr") or ast.unparse(node.func).startswith("vars("):
                found = [str(part.value) for part in node.args[:2] if isinstance(part, ast.Constant)]
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("masa_lightning"):
            found = [alias.name for alias in node.names] + (node.module or "").split(".")
        yield from (name for name in found if is_private(name) and name not in own | KNOWN)


def test_the_scan_sees_all_spellings() -> None:
    source = (
        "from lightning.x import _load as load\nself._mine = 1\nself._mine\nother._theirs\ngetattr(a, '_text', 0)\n"
        "vars(b)['_item'] = 2\nvars(b).get('_got')\nos._exit(1)\nx = {}.get('_not')\n"
    )
    assert sorted(set(names_of_others(ast.parse(source)))) == ["_got", "_item", "_load", "_text", "_theirs"]


def test_the_table_has_all_private_names_of_others() -> None:
    used = {
        (str(path.relative_to(PACKAGE)), name)
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE / "sampling" / "vllm"  # docs/vllm.md has theirs
        for name in names_of_others(ast.parse(path.read_text()))
    }
    rows = [row.split("|")[1:3] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    told = {
        (file, name)
        for names, files in rows
        for file in re.findall(r"`(.+?)`", files)
        for name in re.findall(r"`(.+?)`", names)
    }
    assert used == told, "expected a row in docs/upgrading.md for each name and file, and no other rows"


@pytest.mark.parametrize(
    "row", [r for r in PAGE.read_text().splitlines() if r.startswith("| `")], ids=lambda r: r[3:30]
)
def test_the_tests_that_it_names_are_there(row: str) -> None:
    assert all((PAGE.parents[1] / place).exists() for place in re.findall(r"`(tests/.+?)`", row))
