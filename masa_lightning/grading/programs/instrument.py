"""Rewrites tests so that a `Ledger` sees their assertions about the program, and comparisons cannot be cut short."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Any, Final

from masa_lightning.grading.programs.ledger import SILENT
from masa_lightning.grading.programs.lookups import cover_lookups
from masa_lightning.grading.programs.syntax import Rewriter, last_name, ledger_call, of_ledger, walk
from masa_lightning.grading.programs.taint import Taint

_BINARY: Final = ("Add", "Sub", "Mult", "Div", "FloorDiv", "Mod", "Pow", "BitAnd", "BitOr", "BitXor")
_COMPARED: Final = ("Lt", "LtE", "Gt", "GtE", "Eq", "NotEq", "In")
_SAME: Final = ("Is", "IsNot")
_FITS: Final = ("broadcast_to", "broadcast_arrays", "full", "full_like", "resize", "copyto", "putmask", "place", "put")
_MAKES_UFUNCS: Final = ("vectorize", "frompyfunc")
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
    rewriter = _Instrument(taint, own, {*_imported(tree, "numpy"), *_vectorised(tree)} if numpy else None)
    tree.body = rewriter.statements(tree.body)
    return ast.fix_missing_locations(tree)


def asserts(node: ast.AST) -> bool:
    """Returns whether there is an assertion in the text of something, as far as one sees it by its name."""
    return any(
        isinstance(part, ast.Assert) or (isinstance(part, ast.Call) and _assertion(part.func)) for part in walk(node)
    )


class _Instrument(Rewriter):
    def __init__(self, taint: Taint, own: set[str], numpy: set[str] | None) -> None:
        self._taint, self._own, self._numpy = taint, own, numpy is not None
        self._numpy_names = numpy or set()
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
        name, whole = last_name(node.func), self._whole(*given[:2]) if len(given) > 1 else None
        mine = ast.Tuple([ast.Constant(self._taint.touches(arg)) for arg in given], ast.Load())
        self.generic_visit(node)
        if decided and _assertion(node.func) and name not in self._own:
            return ledger_call("count", ast.Constant(decided), node)
        if self._falls_back(node):
            return ledger_call("fall_back", node.func, *node.args)
        if about and whole and len(node.args) > 1 and self._is_numpys(node.func):
            if name in _FITS:
                return ast.Call(of_ledger("fitted"), [mine, node.func, *node.args], node.keywords)
            return ast.Call(of_ledger("ufunc"), [whole, node.func, *node.args], node.keywords)
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

    def _is_numpys(self, function: ast.expr) -> bool:
        made = isinstance(function, ast.Call) and last_name(function.func) in _MAKES_UFUNCS
        return made or _root(function) in self._numpy_names

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        """Of `a[:] = f(3)` numpy may repeat what the program gave."""
        target = node.targets[0]
        put = self._numpy and isinstance(target, ast.Subscript) and self._taint.touches(node.value)
        self.generic_visit(node)
        if put and isinstance(target, ast.Subscript):
            no = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
            place = ast.Subscript(target.value, target.slice, ast.Load())
            node.value = ledger_call("put", *(ast.Lambda(no, part) for part in (target.value, place)), node.value)
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
        checked = self._numpy and isinstance(node.target, ast.Name) and self._taint.touches(node)
        if checked and isinstance(node.target, ast.Name):
            target = ast.Name(node.target.id, ast.Load())
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


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Yields the names under which something of a package is imported."""
    for node in walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", "") or ""
            for alias in node.names:
                if (module or alias.name).partition(".")[0] == package:
                    yield (alias.asname or alias.name).partition(".")[0]


def _vectorised(tree: ast.Module) -> Iterator[str]:
    """Yields the names of functions that numpy makes to combine arrays."""
    for node in walk(tree):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=function)):
                if last_name(function) in _MAKES_UFUNCS:
                    yield name
            case ast.FunctionDef(name=name, decorator_list=decorators):
                if any(last_name(decorator) in _MAKES_UFUNCS for decorator in decorators):
                    yield name


def _root(node: ast.AST) -> str:
    """Returns the first part of a name with dots, "" of anything else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


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
