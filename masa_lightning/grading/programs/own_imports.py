"""Tests that import the program, as KodCode's do: `from solution import f`. No such module exists: `f` is the program's."""

from __future__ import annotations

import ast
import re
from typing import Final, NamedTuple

_MODULES: Final = ("solution", "your_solution", "your_module", "my_module", "main", "__main__")
"""What tests call the file of the program."""

_MENTION: Final = re.compile(rf"^\s*(?:from|import)\b.*\b(?:{'|'.join(_MODULES)})\b", re.MULTILINE)


class Imported(NamedTuple):
    """Tests without the imports of the program.

    Args:
        text: The tests.
        names: What they import of the program.
    """

    text: str
    names: set[str]


def without_own_imports(tests: str) -> Imported:
    r"""Takes the program's names for global ones of the tests.

    Raises:
        SyntaxError: If the tests are no Python; also the others of `ast.parse`.

    >>> without_own_imports("from solution import f as g\nassert g(1) == 2")
    Imported(text='g = f\nassert g(1) == 2', names={'f'})
    >>> without_own_imports("import solution\nassert solution.f(1) == 2")
    Imported(text='pass\nassert f(1) == 2', names={'f'})
    """
    if not _MENTION.search(tests):
        return Imported(tests, set())
    tree = ast.parse(tests)
    modules = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name in _MODULES
    }
    owners = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and _name(n.value) in modules]
    looked_up = {id(node.value) for node in owners}
    own = {node.attr for node in owners}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {n.id for n in names if not isinstance(n.ctx, ast.Load)} | {
        node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)
    }
    if any(n.id in modules and id(n) not in looked_up for n in names) or bound & (own | modules):
        return Imported(tests, set())  # the module itself is used, or `f` is another thing in places
    rewriter = _Rewriter(modules)
    rewriter.visit(tree)
    return Imported(ast.unparse(ast.fix_missing_locations(tree)), rewriter.names | own)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


class _Rewriter(ast.NodeTransformer):
    def __init__(self, modules: set[str]) -> None:
        self._modules = modules
        self.names: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | list[ast.stmt]:
        if node.module not in _MODULES or node.level > 1:
            return node
        self.names |= {alias.name for alias in node.names if alias.name != "*"}
        return [
            ast.Assign([ast.Name(alias.asname, ast.Store())], ast.Name(alias.name, ast.Load()))
            for alias in node.names
            if alias.asname and alias.asname != alias.name
        ] or [ast.Pass()]

    def visit_Import(self, node: ast.Import) -> ast.AST:
        node.names = [alias for alias in node.names if alias.name not in _MODULES]
        return node if node.names else ast.Pass()

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        return ast.Name(node.attr, node.ctx) if _name(node.value) in self._modules else node
