"""Which names of a file of tests hold something of the program: read from the text, without regard to order."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import Final

_CONTAINERS: Final = ast.List | ast.Tuple | ast.Set | ast.Dict


def walk(node: ast.AST | Sequence[ast.AST]) -> Iterator[ast.AST]:
    """Like `ast.walk`, without what is in collections of constants, of which tests may have megabytes."""
    waiting = [*node] if isinstance(node, Sequence) else [node]
    while waiting:
        item = waiting.pop()
        yield item
        if not (isinstance(item, _CONTAINERS) and _constant(item)):
            waiting.extend(ast.iter_child_nodes(item))


def _constant(node: ast.AST) -> bool:
    found = getattr(node, "_constant", None)
    if found is None:
        parts = (part for part in ast.iter_child_nodes(node) if not isinstance(part, ast.expr_context | ast.unaryop))
        found = isinstance(node, ast.Constant | ast.UnaryOp | _CONTAINERS) and all(map(_constant, parts))
        setattr(node, "_constant", found)  # noqa: B010  of ours
    return bool(found)


class Taint:
    """Names and attributes that hold something of the program, or of what it returned.

    Args:
        tree: The tests.
        names: Names that are the program's.
    """

    def __init__(self, tree: ast.Module, names: set[str]) -> None:
        self._names = {*names}
        nodes = [*walk(tree)]
        self._functions: dict[str, list[ast.arguments]] = {}
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._functions.setdefault(node.name, []).append(node.args)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                for target in node.targets:
                    self._functions.setdefault(ast.unparse(target), []).append(node.value.args)
        sources = [(node, *pair) for node in nodes for pair in self._flows(node)]
        size = -1
        while size < len(self._names):
            size = len(self._names)
            for _, value, targets in sources:
                if not {*targets} <= self._names and self.touches(value):
                    self._names.update(targets)

    def touches(self, node: ast.AST | Sequence[ast.AST]) -> bool:
        """Returns whether something of the program is in an expression or in statements."""
        return any(_name(part) in self._names for part in walk(node))

    def _flows(self, node: ast.AST) -> Iterator[tuple[ast.AST | list[ast.AST], set[str]]]:
        """Yields pairs: if the first touches the program, the names of the second do."""
        match node:
            case ast.Assign(targets=targets, value=value):
                yield value, _targets(targets)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield value, _targets([target])
            case ast.AugAssign(target=target, value=value) | ast.NamedExpr(target=target, value=value):
                yield value, _targets([target])
            case (
                ast.For(target=target, iter=value)
                | ast.AsyncFor(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
            ):
                yield value, _targets([target])
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                targets = [item.optional_vars for item in items if item.optional_vars is not None]
                yield [*(item.context_expr for item in items), *body], _targets(targets)
            case ast.Try(body=body, handlers=handlers):
                yield [*body], {handler.name for handler in handlers if handler.name}
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield [*node.body], {node.name, f".{node.name}"}
                yield [*node.decorator_list], _parameters(node.args) | {node.name}
            case ast.Expr(value=ast.Call(func=function, args=args)):  # what becomes of the arguments
                yield function, _targets(args)
            case ast.Call():
                given: list[ast.AST] = [*node.args, *(keyword.value for keyword in node.keywords)]
                called = [node.func, *given]
                names = {name for part in called if (name := _name(part).lstrip(".")) in self._functions}
                parameters = {p for name in names for args in self._functions[name] for p in _parameters(args)}
                lambdas = {p for part in called if isinstance(part, ast.Lambda) for p in _parameters(part.args)}
                if parameters | lambdas:
                    yield given, parameters | lambdas
                if isinstance(node.func, ast.Attribute):  # items.append(f(1))
                    yield given, _targets([node.func.value])


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f".{node.attr}" if isinstance(node, ast.Attribute) else ""


def _targets(targets: Sequence[ast.AST]) -> set[str]:
    found = set()
    for target in targets:
        while isinstance(target, ast.Subscript | ast.Starred):
            target = target.value
        if isinstance(target, ast.Tuple | ast.List):
            found |= _targets(target.elts)
        elif name := _name(target):
            found.add(name)
    return found


def _parameters(args: ast.arguments) -> set[str]:
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return {argument.arg for argument in every} - {"self", "cls"}
