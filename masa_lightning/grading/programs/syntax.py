"""Going through syntax trees of tests."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final

LEDGER: Final = "__masa__"  # its name in instrumented tests

_COLLECTIONS: Final = ast.List | ast.Tuple | ast.Set | ast.Dict


def walk(node: ast.AST | Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Like `ast.walk`, without what is in collections of constants, of which tests may have megabytes."""
    waiting = [*node] if isinstance(node, Sequence) else [node]
    while waiting:
        item = waiting.pop()
        yield item
        if not (isinstance(item, _COLLECTIONS) and _is_constant(item)):
            waiting.extend(ast.iter_child_nodes(item))


def _is_constant(node: ast.AST) -> bool:
    found = getattr(node, "_constant", None)
    if found is None:
        parts = (part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.expr_context | ast.unaryop))
        found = isinstance(node, ast.Constant | ast.UnaryOp | _COLLECTIONS) and all(map(_is_constant, parts))
        setattr(node, "_constant", found)  # noqa: B010  of ours
    return bool(found)


class Rewriter(ast.NodeTransformer):
    """Like `ast.NodeTransformer`, but goes past collections of constants that `walk` has seen."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        return node if getattr(node, "_constant", False) else super().generic_visit(node)


def last_name(node: ast.AST) -> str:
    """Returns the last part of a name with dots, "" of anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def of_ledger(name: str) -> ast.Attribute:
    """Returns an attribute of the ledger."""
    return ast.Attribute(ast.Name(LEDGER, ast.Load()), name, ast.Load())


def ledger_call(name: str, *args: ast.expr) -> ast.Call:
    """Returns the call of a method of the ledger."""
    return ast.Call(of_ledger(name), [*args], [])
