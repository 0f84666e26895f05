"""Rewrites tests so that a `Ledger` sees their assertions about the program, and comparisons cannot be cut short."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from typing import Any, Final

from masa_lightning.grading.programs.ledger import SILENT
from masa_lightning.grading.programs.lookups import cover_lookups
from masa_lightning.grading.programs.syntax import Rewriter, last_name, ledger_call, of_ledger, walk
from masa_lightning.grading.programs.taint import Taint

_BINARY: Final = ("Add", "Sub", "Mult", "Div", "FloorDiv", "Mod", "Pow", "BitAnd", "BitOr", "BitXor")
_COMPARED: Final = ("Lt", "LtE", "Gt", "GtE", "Eq", "NotEq", "In")
_SAME: Final = ("Is", "IsNot")
_PURE: Final = ("len", "range", "slice", "int", "min", "max")  # calls that may be made twice
_GUARDED: Final = ("issubset", "issuperset", "isdisjoint", "difference")  # by `empties`, which looks for their names
_RAISES: Final = ("raises", "assertRaises", "assertRaisesRegex", "assertWarns", "assertLogs", "assert_raises")


def instrument(tree: ast.Module, taint: Taint, *, numpy: bool) -> ast.Module:
    """Rewrites tests in place.

    Args:
        tree: The tests.
        taint: What in them is the program's.
        numpy: Whether they use numpy, so that any operator may compare arrays.
    """
    cover_lookups(tree, taint)
    own = {node.name for node in walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    rewriter = _Instrument(taint, own, numpy=numpy)
    tree.body = rewriter.statements(tree.body)
    return ast.fix_missing_locations(tree)


def asserts(node: ast.AST) -> bool:
    """Returns whether there is an assertion in the text of something, as far as one sees it by its name."""
    return any(
        isinstance(part, ast.Assert) or (isinstance(part, ast.Call) and _assertion(part.func)) for part in walk(node)
    )


class _Instrument(Rewriter):
    def __init__(self, taint: Taint, own: set[str], *, numpy: bool) -> None:
        self._taint, self._own, self._numpy = taint, own, numpy
        self._class = ""
        self._depth = 0

    def statements(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Rewrites a list of statements."""
        new: list[ast.stmt] = []
        for statement in body:
            result = self.visit(statement)
            new += result if isinstance(result, list) else [result]
        return new

    # -- what counts -------------------------------------------------------------------------------------------------------

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        about = self._taint.about(node.test)
        self.generic_visit(node)
        node.test = ledger_call("judge", ast.Constant(about), node.test)
        return node

    def visit_With(self, node: ast.With) -> Any:
        raises = any(
            isinstance(item.context_expr, ast.Call) and last_name(item.context_expr.func) in _RAISES
            for item in node.items
        )
        about = raises and self._taint.touches(node.body)
        self.generic_visit(node)
        return [node, ast.Expr(ledger_call("count"))] if about else node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        guards = self._taint.touches(node.body) and any(map(fails, [*node.body, *node.orelse]))
        self.generic_visit(node)
        if guards:  # that an error came is what they assert
            for handler in node.handlers:
                handler.body.append(ast.Expr(ledger_call("count")))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        about = self._taint.decides(node.test) and fails(node.body[-1])
        self.generic_visit(node)
        if about and not (len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)):
            node.orelse.append(ast.Expr(ledger_call("count")))
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        about, decided = self._taint.touches(given), self._taint.about(given)
        name, looked_at = last_name(node.func), about and self._may_repeat(node.func)
        whole = self._whole(*given[:2]) if looked_at and len(given) > 1 else ast.Constant(None)
        mine = ast.Tuple([ast.Constant(self._taint.touches(arg)) for arg in given], ast.Load())
        self.generic_visit(node)
        if decided and _assertion(node.func) and name not in self._own:
            return ledger_call("count", ast.Constant(decided), node)
        if self._falls_back(node):
            return ledger_call("fall_back", node.func, *node.args)
        if looked_at and not any(isinstance(arg, ast.Starred) for arg in node.args):
            node.func = ledger_call("numpys", mine, whole, node.func)
            return node
        if not isinstance(node.func, ast.Name) or name in self._own or node.keywords[1:]:
            return node
        if name in ("zip", "map") and about:
            first = node.args[:1] if name == "map" else []
            args = [part for arg in node.args[len(first) :] for part in _unpacked(arg)]
            several = len({ast.unparse(_source(arg)) for arg in args}) > 1  # zip(r, r[1:]) compares nothing else with r
            if several and not any(isinstance(arg, ast.Starred) for arg in (*first, *args)):
                flags = ast.Tuple([ast.Constant(self._taint.touches(arg)) for arg in args], ast.Load())
                return ast.Call(of_ledger(name), [flags, *first, *args], node.keywords)
        if name in ("next", "type") and about and len(node.args) == 1:
            return ledger_call(name, *node.args)
        return node

    def _may_repeat(self, function: ast.expr) -> bool:
        """Returns whether a function, as far as one sees before it is called, may be one of numpy's."""
        name = last_name(function)
        if not self._numpy or name in self._own or _assertion(function):
            return False
        if isinstance(function, ast.Name):
            return not hasattr(builtins, name) and not self._taint.touches(function)
        return name not in _GUARDED

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Of `a[:] = f(3)` numpy may repeat what the program gave."""
        if self._numpy and self._taint.touches(node.value):
            places = [place for target in node.targets for place in _places(target)]
        else:
            places = []
        self.generic_visit(node)
        if places:
            node.value = ledger_call("put", node.value, *places)
        return node

    def _falls_back(self, node: ast.Call) -> bool:
        """Returns whether a value of the tests stands in where the program has none: `r.get(k, v)`, `next(it, v)`."""
        of, name = node.func, last_name(node.func)
        if isinstance(of, ast.Attribute) and name in ("get", "pop") and len(node.args) == 2:
            source: ast.expr = of.value
        elif isinstance(of, ast.Name) and (name, len(node.args)) in (("next", 2), ("getattr", 3)):
            source = node.args[0]
        else:
            return False
        return self._taint.touches(source) and not isinstance(node.args[-1], ast.Constant)

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        call = node.value
        if isinstance(call, ast.Call) and self._taint.touches(call.func) and last_name(call.func) not in self._own:
            assertion = _assertion(call.func) or last_name(call.func) in _RAISES
            self.generic_visit(node)
            if not assertion and isinstance(node.value, ast.Call) and node.value is call:
                node.value = ast.Call(of_ledger("in_place"), [call.func, *call.args], call.keywords)
            return node
        return self.generic_visit(node)

    # -- functions that are run --------------------------------------------------------------------------------------------

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self._class = self._class, f"{node.name}."
        self.generic_visit(node)
        self._class = outer
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        name = f"{self._class}{node.name}" if not self._depth else ""
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1
        if name:
            node.body.insert(0, ast.Expr(ledger_call("enter", ast.Constant(name))))
        return node

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_AsyncWith = visit_With  # type: ignore[assignment]

    # -- comparisons -------------------------------------------------------------------------------------------------------

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        name = type(node.ops[0]).__name__
        single = len(node.ops) == 1 and self._taint.touches(node)
        whole = self._whole(node.left, node.comparators[0])
        self.generic_visit(node)
        right = node.comparators[0]
        if single and name in _COMPARED and (self._numpy or name not in ("Eq", "NotEq")):
            return ledger_call("binary", ast.Constant(name), whole, node.left, right)
        if single and name in _SAME:
            same = ledger_call("same", node.left, right)
            return same if name == "Is" else ast.UnaryOp(ast.Not(), same)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        name = type(node.op).__name__
        checked = self._numpy and name in _BINARY and self._taint.touches(node)
        whole = self._whole(node.left, node.right)
        self.generic_visit(node)
        return ledger_call("binary", ast.Constant(name), whole, node.left, node.right) if checked else node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        target = _loaded(node.target)
        if self._numpy and target is not None and self._taint.touches(node):
            node.value = ledger_call("fit", self._whole(target, node.value), target, self.visit(node.value))
            return node
        return self.generic_visit(node)

    def _whole(self, left: ast.expr, right: ast.expr) -> ast.expr:
        """Says of each of two sides whether numpy may not repeat it: a program's is compared as it is.

        Something of the program may be combined with a part or a sum of itself.
        """
        mine, other = ({ast.unparse(part) for part in walk(side) if self._taint.holds(part)} for side in (left, right))
        return ast.Tuple([ast.Constant(bool(names - (mine & other))) for names in (mine, other)], ast.Load())

    # -- errors that end loops ---------------------------------------------------------------------------------------------

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        self.generic_visit(node)
        node.elts = [ast.Starred(each, ast.Load()) if _kinds(each) else each for each in node.elts]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if node.id in SILENT and isinstance(node.ctx, ast.Load) and node.id not in self._own:
            return ast.Subscript(of_ledger("kinds"), ast.Constant(node.id), ast.Load())
        return node


def _places(target: ast.expr, *path: int) -> Iterator[ast.expr]:
    """Yields what is put where: which item of the value, a function for the array, and one for the part of it."""
    if isinstance(target, ast.Tuple | ast.List):
        for index, each in enumerate(target.elts):
            if isinstance(each, ast.Starred):
                return  # what is behind it has another number
            yield from _places(each, *path, index)
    elif isinstance(target, ast.Subscript) and (place := _loaded(target)) is not None:
        no = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        which = ast.Tuple([ast.Constant(index) for index in path], ast.Load())
        yield ast.Tuple([which, ast.Lambda(no, target.value), ast.Lambda(no, place)], ast.Load())


def _loaded(target: ast.expr) -> ast.expr | None:
    """Returns a target as a value; None if to compute it once more may do something."""
    calls = (part for part in walk(target) if isinstance(part, ast.Call | ast.Await | ast.NamedExpr | ast.Yield))
    if any(not isinstance(call, ast.Call) or last_name(call.func) not in _PURE for call in calls):
        return None
    match target:
        case ast.Name(id=name):
            return ast.Name(name, ast.Load())
        case ast.Subscript(value=value, slice=part):
            return ast.Subscript(value, part, ast.Load())
    return None


def _unpacked(node: ast.expr) -> list[ast.expr]:
    """Returns the parts of `*[a, b]`."""
    if isinstance(node, ast.Starred) and isinstance(node.value, ast.List | ast.Tuple):
        return node.value.elts
    return [node]


def _source(node: ast.expr) -> ast.expr:
    """Returns what is cut in `r[1:]`."""
    return node.value if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) else node


def _kinds(node: ast.AST) -> bool:
    return isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "kinds"


def _assertion(function: ast.AST) -> bool:
    return last_name(function).startswith("assert") or last_name(function) in ("raises",)


def fails(node: ast.AST) -> bool:
    """Returns whether a statement fails whenever it is reached."""
    match node:
        case ast.Assert(test=ast.Constant(value=value)):
            return not value
        case ast.Raise():
            return True
        case ast.Expr(value=ast.Call(func=function)):
            return last_name(function) == "fail"
    return False
