"""Rewrites tests so that a `Ledger` sees what they say of nothing: `all(x > 0 for x in f(3))` holds for an empty list."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Final

from masa_lightning.grading.programs.instrument import asserts, fails
from masa_lightning.grading.programs.syntax import LEDGER, Rewriter, last_name, ledger_call, walk
from masa_lightning.grading.programs.taint import Taint

_COMPREHENSIONS: Final = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SUBSETS: Final = ("issubset", "isdisjoint", "difference")
_ENDS: Final = ast.Return | ast.Raise | ast.Continue | ast.Break


def guard_empties(tree: ast.Module, taint: Taint) -> None:
    """Rewrites instrumented tests in place: loops, conditions and reductions over nothing of the program are noted.

    Args:
        tree: The tests, after `instrument`.
        taint: What in them is the program's.
    """
    functions = [node for node in walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    _Guard(taint, {node.name for node in functions if asserts(node)}).visit(tree)
    ast.fix_missing_locations(tree)


class _Guard(Rewriter):
    def __init__(self, taint: Taint, asserting: set[str]) -> None:
        self._taint, self._asserting = taint, asserting
        # Of each loop we are in: names of the program's elements; None for `while`.
        self._loops: list[set[str] | None] = []

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for name in ("body", "orelse", "finalbody"):
            if isinstance(block := getattr(node, name, None), list):
                setattr(node, name, self._block(block))
        return super().generic_visit(node)

    def _block(self, block: list[ast.stmt]) -> list[ast.stmt]:
        """Guards conditions that leave a block before its assertions: `if r is None: continue`."""
        for index, node in enumerate(block):
            if isinstance(node, ast.Try):
                self._leaving(node, block[index + 1 :])
            if not (isinstance(node, ast.If) and not node.orelse and _leaves(node.body[-1])):
                continue
            rest = block[index + 1 :]
            if any(map(_fails, rest)):  # to leave is to pass
                node.body[:0] = [ast.Expr(ledger_call("count"))] if self._taint.decides(node.test) else []
            elif self._new(node.test) and self._judges(rest) and not self._judges(node.body):
                if isinstance(node.body[-1], ast.Break) and self._loops and self._loops[-1] is not None:
                    node.body.insert(0, ast.Expr(ledger_call("skip")))  # what is left is not compared
                    continue
                if self._asks_how_much(node.test):
                    node.body.insert(0, ast.Expr(ledger_call("skip")))
                    continue
                stays = ast.UnaryOp(ast.Not(), node.test)
                node.test = ast.UnaryOp(ast.Not(), ledger_call("reach", ast.Constant(node.lineno), stays))
        return block

    def _leaving(self, node: ast.Try, rest: list[ast.stmt]) -> None:
        """Guards handlers of the program's errors that leave a block before its assertions: `except KeyError: continue`."""
        if self._taint.touches(node.body) and self._judges(rest) and not any(map(_fails, [*rest, *node.orelse])):
            for handler in node.handlers:
                if _leaves(handler.body[-1]) and not self._judges(handler.body):
                    handler.body.insert(0, ast.Expr(ledger_call("skip")))

    def _asks_how_much(self, test: ast.expr) -> bool:
        """Returns whether a condition is whether the program gave something at all: `if k in r`, `if i < len(r)`."""
        return any(
            (name in ("In", "NotIn") and self._taint.touches(node.args[-1]))
            or (last_name(node.func) == "len" and self._taint.touches(node.args))
            for node in walk(test)
            if isinstance(node, ast.Call) and node.args
            for name in [getattr(node.args[0], "value", "")]
        )

    # -- statements ----------------------------------------------------------------------------------------------------

    def visit_For(self, node: ast.For) -> ast.AST:
        touched = self._taint.touches(node.iter)
        guarded = touched and self._judges(node.body)
        self._loops.append({part.id for part in walk(node.target) if touched and isinstance(part, ast.Name)})
        self.generic_visit(node)
        self._loops.pop()
        if guarded:
            node.iter = self._some(node.iter)
        return node

    def visit_While(self, node: ast.While) -> Any:
        guarded = self._taint.touches(node.test) and self._judges(node.body)
        self._loops.append(None)
        self.generic_visit(node)
        self._loops.pop()
        if not guarded:
            return node
        line = ast.Constant(node.lineno)
        node.test = ledger_call("turn", line, node.test)
        return [ast.Expr(ledger_call("begin", line)), node]

    def visit_If(self, node: ast.If) -> ast.AST:
        """A condition that keeps an assertion from being made; in a loop, from being made even once."""
        guarded = not node.orelse and self._new(node.test) and self._judges(node.body)
        self.generic_visit(node)
        if guarded and not isinstance(node.body[-1], _ENDS):
            if self._loops and not self._asks_how_much(node.test):
                node.test = ledger_call("reach", ast.Constant(node.lineno), node.test)
            else:
                node.orelse = [ast.Expr(ledger_call("skip"))]
        return node

    def _new(self, test: ast.expr) -> bool:
        """Returns whether a condition is the program's, and not on the elements of something that is gone through."""
        elements = {name for names in self._loops for name in names or ()}
        own = (part for part in walk(test) if not (isinstance(part, ast.Name) and part.id in elements))
        return any(self._taint.holds(part) for part in own)

    def visit_Try(self, node: ast.Try) -> ast.AST:
        """An error of the program that keeps an assertion from being made, where nothing is said about it."""
        counts = any(_ledgers(part) == "count" for part in walk([handler.body[-1] for handler in node.handlers]))
        guarded = not counts and self._taint.touches(node.body) and self._judges(node.body)
        self.generic_visit(node)
        for handler in node.handlers if guarded else ():
            if not self._judges(handler.body):
                handler.body.insert(0, ast.Expr(ledger_call("skip")))
        return node

    def visit_With(self, node: ast.With) -> Any:
        calls = (item.context_expr for item in node.items)
        suppresses = any(isinstance(call, ast.Call) and last_name(call.func) == "suppress" for call in calls)
        guarded = suppresses and self._taint.touches(node.body) and self._judges(node.body)
        self.generic_visit(node)
        if not guarded:
            return node
        line = ast.Constant(node.lineno)
        ends = [ast.Expr(ledger_call("turn", line, ast.Constant(value))) for value in (True, False)]
        node.body.append(ends[0])
        return [ast.Expr(ledger_call("begin", line)), node, ends[1]]

    def _judges(self, body: Sequence[ast.stmt]) -> bool:
        return any(
            isinstance(part, ast.Assert | ast.Raise)
            or (isinstance(part, ast.Return) and isinstance(part.value, ast.Constant))
            or (isinstance(part, ast.Call) and (asserts(part) or last_name(part.func) in self._asserting))
            for part in walk(body)
        )

    # -- expressions ---------------------------------------------------------------------------------------------------

    def _comprehension(self, node: Any) -> Any:
        self.generic_visit(node)
        first = node.generators[0]
        if not first.is_async and self._taint.touches(first.iter) and any(part.ifs for part in node.generators):
            first.iter = self._some(first.iter)
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        args, name = node.args, last_name(node.func)
        if isinstance(node.func, ast.Name):
            if name == "filter" and len(args) == 2 and self._taint.touches(args[1]):
                args[1] = self._some(args[1])
            elif len(args) == 1 and self._taint.touches(args[0]) and self._reduces(name, node):
                args[0] = self._some(args[0])
        elif isinstance(node.func, ast.Attribute):
            if name in _SUBSETS and self._taint.touches(node.func.value):
                node.func.value = ledger_call("filled", node.func.value)
            if name in ("issuperset", "isdisjoint") and len(args) == 1 and self._taint.touches(args[0]):
                args[0] = ledger_call("filled", args[0])
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        made = isinstance(node.left, ast.Call) and last_name(node.left.func) in ("set", "frozenset")
        made = made or isinstance(node.left, ast.SetComp)
        if made and isinstance(node.op, ast.Sub) and self._taint.touches(node.left):
            node.left = ledger_call("filled", node.left)
        return node

    @staticmethod
    def _reduces(name: str, node: ast.Call) -> bool:
        if name in ("all", "any"):
            return True
        if name in ("max", "min"):
            return any(keyword.arg == "default" for keyword in node.keywords)
        return name == "sum" and isinstance(node.args[0], _COMPREHENSIONS)

    def _some(self, items: ast.expr) -> ast.expr:
        """Guards what is gone through, unless what is expected ends with it."""
        nodes = [*walk(items)]
        if any(_ledgers(part) in ("zip", "map", "cover", "some") for part in nodes):
            return items
        # of one element there are no pairs: then it matters whether it has any
        if not any(
            isinstance(part, ast.Slice) or (isinstance(part, ast.Call) and last_name(part.func) in ("len", "pairwise"))
            for part in nodes
        ):
            return ledger_call("some", items)
        bound = {part.id for part in nodes if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        names = {part.id for part in nodes if isinstance(part, ast.Name) and self._taint.touches(part)} - bound
        no = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        sources = [ast.Lambda(no, ast.Name(name, ast.Load())) for name in sorted(names)]
        return ledger_call("some", items, *sources)


def _leaves(node: ast.AST) -> bool:
    """Returns whether a statement leaves a loop's turn or a function, and says nothing."""
    nothing = isinstance(node, ast.Return) and (node.value is None or ast.unparse(node.value) == "None")
    return nothing or isinstance(node, ast.Continue | ast.Break)


def _fails(node: ast.AST) -> bool:
    match node:
        case ast.Assert(test=ast.Call(args=[_, ast.Constant(value=value)])) if _ledgers(node.test) == "judge":
            return not value
    return fails(node)


def _ledgers(node: ast.AST) -> str:
    """Returns which method of the ledger is called, "" if none."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)) if name == LEDGER:
            return method
    return ""
