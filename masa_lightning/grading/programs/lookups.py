"""Rewrites tests so that a `Ledger` sees what a loop over something of the program looks up in what it is compared with.

`for i, x in enumerate(f(3)): assert x == e[i]` compares less than all of `e` where `f` gives less, and so does
`for k, x in f(3).items(): assert x == e[k]`, or a loop that takes what it expects from an iterator or a stack.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from masa_lightning.grading.programs.syntax import Rewriter, last_name, ledger_call, walk
from masa_lightning.grading.programs.taint import Taint

_NO_ARGUMENTS: Final = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
_TAKES: Final = ("pop", "popleft", "popitem", "remove", "discard")


@dataclass
class _Loop:
    """A loop that the program decides the length of.

    Attributes:
        number: Its own.
        names: What it sets at each turn.
        counters: Those of them that count.
        sources: What it looks up or takes from, by text: the expression, and how.
    """

    number: int
    names: set[str]
    counters: set[str]
    sources: dict[tuple[str, str], ast.expr] = field(default_factory=dict)

    def told(self) -> list[ast.expr]:
        """Returns what the ledger has to know at its end."""
        return [
            ast.Tuple([ast.Constant(how), ast.Constant(text), ast.Lambda(_NO_ARGUMENTS, source)], ast.Load())
            for (how, text), source in sorted(self.sources.items(), key=lambda pair: pair[0])
        ]


def cover_lookups(tree: ast.Module, taint: Taint) -> None:
    """Rewrites tests in place, before `instrument`.

    Args:
        tree: The tests.
        taint: What in them is the program's.
    """
    _Cover(taint).visit(tree)
    ast.fix_missing_locations(tree)


class _Cover(Rewriter):
    def __init__(self, taint: Taint) -> None:
        self._taint = taint
        self._loops: list[_Loop] = []
        self._count = 0
        self._compared: list[ast.AST] = []  # the comparisons that we are in

    # -- loops -------------------------------------------------------------------------------------------------------------

    def visit_For(self, node: ast.For) -> Any:
        node.iter = self.visit(node.iter)
        if not self._taint.touches(node.iter):
            return self.generic_visit(node)
        names, counters = _targets(node.target, node.iter)
        loop = self._enter(names | _stepped(node.body), counters | _stepped(node.body))
        node.body = [self.visit(part) for part in node.body]
        self._loops.pop()
        node.orelse = [self.visit(part) for part in node.orelse]
        node.iter = self._covered(node.iter, loop)
        return node

    def visit_While(self, node: ast.While) -> Any:
        if not self._taint.touches(node.test):
            return self.generic_visit(node)
        counters = _stepped(node.body)
        loop = self._enter(counters, counters)
        self.generic_visit(node)
        self._loops.pop()
        if not loop.sources:
            return node
        number = ast.Constant(loop.number)
        node.orelse.append(ast.Expr(ledger_call("finish", number, *loop.told())))
        return [ast.Expr(ledger_call("start", number)), node]

    def _comprehension(self, node: Any) -> Any:
        entered = []
        for generator in node.generators:
            generator.iter = self.visit(generator.iter)
            if self._taint.touches(generator.iter) and not generator.is_async:
                entered.append((generator, self._enter(*_targets(generator.target, generator.iter))))
            generator.ifs = [self.visit(part) for part in generator.ifs]
        for name in ("elt", "key", "value"):
            if (value := getattr(node, name, None)) is not None:
                setattr(node, name, self.visit(value))
        for generator, loop in reversed(entered):
            self._loops.pop()
            generator.iter = self._covered(generator.iter, loop)
        return node

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _comprehension

    def _enter(self, names: set[str], counters: set[str]) -> _Loop:
        self._count += 1
        self._loops.append(_Loop(self._count, names, counters))
        return self._loops[-1]

    @staticmethod
    def _covered(items: ast.expr, loop: _Loop) -> ast.expr:
        return ledger_call("cover", ast.Constant(loop.number), items, *loop.told()) if loop.sources else items

    def _function(self, node: Any) -> Any:
        outer, self._loops = self._loops, []  # its turns are not those of the loop that it is in
        self.generic_visit(node)
        self._loops = outer
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _function

    # -- what they look up -------------------------------------------------------------------------------------------------

    def _comparison(self, node: Any) -> Any:
        self._compared.append(node)
        self.generic_visit(node)
        self._compared.pop()
        return node

    def visit_Compare(self, node: ast.Compare) -> Any:
        sides = [node.left, *node.comparators]
        for index, side in enumerate(sides):
            if (
                isinstance(side, ast.Subscript)
                and isinstance(side.slice, ast.Slice)
                and self._taint.touches(side.slice)
                and not self._taint.touches(side.value)
                and _is_plain(side.value)
                and self._taint.touches([*sides[:index], *sides[index + 1 :]])
            ):  # what is expected, cut to the length of what the program gave
                sides[index] = ledger_call("cut", side.value, side)
        node.left, *node.comparators = sides
        return self._comparison(node)

    def visit_Call(self, node: ast.Call) -> Any:
        if last_name(node.func).startswith("assert"):
            return self._comparison(node)
        function, args = node.func, node.args
        if isinstance(function, ast.Attribute) and function.attr == "get" and args and isinstance(args[0], ast.Name):
            if (loop := self._looked_up(node, function.value, args[0])) is not None:
                text = ast.unparse(function.value)
                loop.sources["part", text] = function.value
                self.generic_visit(node)
                function.value = self._noted("note", loop, text, function.value, args[0])
                return node
        elif self._loops and isinstance(function, ast.Attribute) and function.attr in _TAKES:
            self._taken(function.value)
        elif self._loops and last_name(function) == "next" and len(args) == 1:
            self._taken(args[0])
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> Any:
        loop = None
        if isinstance(node.ctx, ast.Load) and not isinstance(node.slice, ast.Slice | ast.Tuple):
            loop = self._looked_up(node, node.value, node.slice)
        if loop is None:
            return self.generic_visit(node)
        counted = {*_names(node.slice)} & loop.counters
        how = "all" if isinstance(node.slice, ast.Name) and counted else "counted" if counted else "part"
        if how != "all" and not self._with_the_program(node):
            return self.generic_visit(node)
        text = ast.unparse(node.value)
        loop.sources[how, text] = node.value
        self.generic_visit(node)
        return self._noted("look", loop, text, node.value, node.slice)

    @staticmethod
    def _noted(how: str, loop: _Loop, text: str, source: ast.expr, key: ast.expr) -> ast.expr:
        return ledger_call(how, ast.Constant(loop.number), ast.Constant(text), source, key)

    def _looked_up(self, node: ast.expr, source: ast.expr, key: ast.expr) -> _Loop | None:
        """Returns the loop that a key is of, if what it is looked up in is the tests' own and the same at each turn."""
        used = {*_names(key)}
        loop = next((loop for loop in reversed(self._loops) if loop.names & used), None)
        if (
            loop is None
            or self._taint.touches(_root(source))
            or loop.names & {*_names(source)}
            or not _is_plain(source)
        ):
            return None
        return loop if isinstance(node, ast.Subscript) or self._with_the_program(node) else None

    def _with_the_program(self, lookup: ast.expr) -> bool:
        """Returns whether something of the program stands beside a lookup in a comparison."""
        inside = {id(part) for part in walk(lookup)}
        return any(self._taint.holds(part) for node in self._compared for part in walk(node) if id(part) not in inside)

    def _taken(self, source: ast.expr) -> None:
        loop = self._loops[-1]
        if isinstance(source, ast.Name | ast.Attribute) and not self._taint.touches(source):
            loop.sources["taken", ast.unparse(source)] = source


def _targets(target: ast.expr, items: ast.expr) -> tuple[set[str], set[str]]:
    """Returns what a loop sets, and what of it counts."""
    names = {*_names(target)}
    pairs = [(target, items)]
    if isinstance(items, ast.Call) and isinstance(target, ast.Tuple):
        name = last_name(items.func)
        pairs = (
            [(target.elts[0], items)]
            if name == "enumerate"
            else [*zip(target.elts, items.args, strict=False)]
            if name == "zip"
            else []
        )
    counts = ("range", "enumerate", "count")
    return names, {
        one.id
        for one, of in pairs
        if isinstance(one, ast.Name) and isinstance(of, ast.Call) and last_name(of.func) in counts
    }


def _stepped(body: Sequence[ast.AST]) -> set[str]:
    """Returns the counters that a loop steps by itself: `i += 1`."""
    steps = (part.target for part in walk(body) if isinstance(part, ast.AugAssign))
    return {target.id for target in steps if isinstance(target, ast.Name)}


def _names(node: ast.AST) -> Iterator[str]:
    return (part.id for part in walk(node) if isinstance(part, ast.Name))


def _root(node: ast.expr) -> ast.expr:
    """Returns `e` of `e[i][j]`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def _is_plain(node: ast.AST) -> bool:
    """Returns whether an expression is the same whenever it is computed."""
    return not any(isinstance(part, ast.Call | ast.Await | ast.NamedExpr | ast.Lambda) for part in walk(node))
