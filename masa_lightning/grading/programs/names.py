"""Which names of tests are the program's, read from the text alone."""

from __future__ import annotations

import ast
import builtins
import json
import symtable
from functools import lru_cache
from typing import Final

from masa_lightning.grading.programs.own_imports import without_own_imports
from masa_lightning.grading.programs.stdio import is_cases

_SCOPES: Final = {"eval", "exec", "compile", "globals", "locals", "vars", "__import__", "open", "input", "exit", "quit"}


def names_under_test(tests: str, known: set[str]) -> set[str]:
    r"""Returns the global names that tests use and get from nowhere else: the program's.

    A program cannot replace a builtin that tests use, unless it is the only name they use at all.

    >>> sorted(names_under_test("import math\nassert math.isclose(f(1), abs(g))", set()))
    ['f', 'g']
    >>> names_under_test("assert sum(1, 2) == 3", set())
    {'sum'}
    """
    used: set[str] = set()
    defined = {*known, "__name__", "__file__"}
    tables = [symtable.symtable(tests, "<tests>", "exec")]
    while tables:
        table = tables.pop()
        for symbol in table.get_symbols():
            at_top = table.get_type() == "module"
            if at_top or symbol.is_global():
                if symbol.is_referenced():
                    used.add(symbol.get_name())
                if symbol.is_assigned() or symbol.is_imported():
                    defined.add(symbol.get_name())
        tables += table.get_children()
    names = used - defined - _SCOPES
    foreign = {name for name in names if not hasattr(builtins, name)}
    return foreign or (names if len(names) == 1 else set())


def without_stubs(preamble: str) -> tuple[list[str], ast.Module]:
    """Parses what programs are built on, without the functions that are for them to define: those without a body."""
    tree = ast.parse(preamble)
    stubs = [node.name for node in tree.body if _is_stub(node) and isinstance(node, ast.FunctionDef)]
    tree.body = [node for node in tree.body if not _is_stub(node)]
    return stubs, tree


def _is_stub(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and all(
        isinstance(line, ast.Pass) or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
        for line in node.body
    )


@lru_cache(maxsize=256)
def tested_names(preamble: str, tests: str) -> frozenset[str]:
    """Returns the names that tests need of a program, as far as one sees without running anything; none if not."""
    try:
        if is_cases(tests):
            name = json.loads(tests).get("fn_name")
            return frozenset({str(name), "Solution"} if name else ())
        stubs, tree = without_stubs(preamble)
        table = symtable.symtable(ast.unparse(tree), "<preamble>", "exec")
        known = {symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
        text, imported = without_own_imports(tests)
        return frozenset(imported | names_under_test(text, known) or stubs)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
