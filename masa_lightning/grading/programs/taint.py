"""Which names of a file of tests hold something of the program: read from the text, without regard to order."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from masa_lightning.grading.programs.ledger import About
from masa_lightning.grading.programs.syntax import walk


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
        self._modules: set[str] = set()
        for node in nodes:
            if isinstance(node, ast.Import):
                self._modules |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names} - names
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._functions.setdefault(node.name, []).append(node.args)
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Lambda):
                for target in node.targets:
                    self._functions.setdefault(ast.unparse(target), []).append(node.value.args)
        sources = [pair for node in nodes for pair in self._flows(node)]
        _spread(sources, self._names)
        self._decided = {*self._names}
        sources += [pair for node in nodes for pair in _decisions(node)]
        _spread(sources, self._decided)
        self._given = {*self._decided}
        _spread([*sources, *(pair for node in nodes for pair in _gifts(node))], self._given)

    def touches(self, node: ast.AST | Sequence[ast.AST]) -> bool:
        """Returns whether something of the program is in an expression or in statements."""
        return _touches(node, self._names)

    def holds(self, node: ast.AST) -> bool:
        """Returns whether a name or an attribute, by itself, holds something of the program."""
        return _name(node) in self._names

    def decides(self, node: ast.AST | Sequence[ast.AST]) -> bool:
        """Returns whether the program decides about something: it touches it, or whether it was set, as by an error."""
        return _touches(node, self._decided)

    def about(self, node: ast.AST | Sequence[ast.AST]) -> About:
        """Returns what an assertion is about: the program decides, or was given something of it, which it may change."""
        return "program" if self.decides(node) else "given" if _touches(node, self._given) else ""

    def _flows(self, node: ast.AST) -> Iterator[tuple[ast.AST | list[ast.AST], set[str]]]:
        """Yields pairs: if the first touches the program, the names of the second do."""
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)) if _pairs(targets, values):
                yield from ((value, _targets([target])) for target, value in zip(targets, values, strict=True))
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
            case ast.Expr(value=ast.Call(func=function, args=args) as call) if not _name(function).startswith(
                ".assert"
            ):
                # what becomes of the arguments
                own = self._functions.get(_name(function).lstrip("."), [])
                if own and not any(map(_unpacks, args)):
                    for given, known in (pair for arguments in own for pair in _passed(call, arguments)):
                        yield [ast.Name(name) for name in known], _targets([given])
                else:
                    yield function, _targets(args)
                    if isinstance(function, ast.Attribute) and _targets([function.value]) <= self._modules:
                        yield [*args], _targets(args)  # heapq.heappush(heap, f(1))
            case ast.Call():
                passed: list[ast.AST] = [*node.args, *(keyword.value for keyword in node.keywords)]
                own = self._functions.get(_name(node.func).lstrip("."), [])
                if own and not any(map(_unpacks, [*node.args, *node.keywords])):
                    for arguments in own:
                        yield from _passed(node, arguments)
                    called = passed
                else:
                    called = [node.func, *passed]
                names = {name for part in called if (name := _name(part).lstrip(".")) in self._functions}
                parameters = {p for name in names for args in self._functions[name] for p in _parameters(args)}
                lambdas = {p for part in called if isinstance(part, ast.Lambda) for p in _parameters(part.args)}
                if parameters | lambdas:
                    yield passed, parameters | lambdas
                if isinstance(node.func, ast.Attribute) and not _keeps_out(node.func.attr):  # items.append(f(1))
                    yield passed, _targets([node.func.value]) - self._modules  # math.sqrt(f(1)) keeps nothing


def _decisions(node: ast.AST) -> Iterator[tuple[ast.AST | list[ast.AST], set[str]]]:
    """Yields pairs: if the first touches the program, it decides what the names of the second are."""
    match node:
        case ast.If(test=decides, body=body, orelse=other) | ast.While(test=decides, body=body, orelse=other):
            yield decides, _set([*body, *other])
        case ast.For(iter=decides, body=body, orelse=other):
            yield decides, _set([*body, *other])
        case ast.Try(body=body, handlers=handlers, orelse=other):
            yield [*body], _set([*body, *handlers, *other])


def _gifts(node: ast.AST) -> Iterator[tuple[ast.AST | list[ast.AST], set[str]]]:
    """Yields pairs: if the first touches the program, it has what the names of the second hold."""
    match node:
        case ast.Call(func=function, args=args, keywords=keywords):
            yield function, _targets([*args, *(keyword.value for keyword in keywords)])


def _set(body: Sequence[ast.AST]) -> set[str]:
    targets: list[ast.AST] = []
    for node in walk(body):
        match node:
            case ast.Assign(targets=several):
                targets += several
            case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.NamedExpr(target=target):
                targets.append(target)
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=target))):  # errors.append("no")
                targets.append(target)
    return _targets(targets)


def _spread(sources: Sequence[tuple[ast.AST | list[ast.AST], set[str]]], names: set[str]) -> None:
    """Adds names until no source has more."""
    size = -1
    while size < len(names):
        size = len(names)
        for value, targets in sources:
            if not targets <= names and _touches(value, names):
                names.update(targets)


def _touches(node: ast.AST | Sequence[ast.AST], names: set[str]) -> bool:
    return any(_name(part) in names for part in walk(node))


def _keeps_out(method: str) -> bool:
    """Returns whether a method puts none of its arguments into its object."""
    return method in ("get", "pop", "popleft", "remove", "discard") or method.startswith("assert")


def _pairs(targets: Sequence[ast.AST], values: Sequence[ast.AST]) -> bool:
    return len(targets) == len(values) and not any(map(_unpacks, [*targets, *values]))


def _unpacks(argument: ast.AST) -> bool:
    return isinstance(argument, ast.Starred) or (isinstance(argument, ast.keyword) and argument.arg is None)


def _passed(call: ast.Call, arguments: ast.arguments) -> Iterator[tuple[ast.expr, set[str]]]:
    """Yields each argument of a call with the name that it has in the function."""
    names = [
        argument.arg for argument in (*arguments.posonlyargs, *arguments.args) if argument.arg not in ("self", "cls")
    ]
    others = {argument.arg for argument in (arguments.vararg, arguments.kwarg) if argument is not None}
    known = {*names, *(argument.arg for argument in arguments.kwonlyargs)}
    for index, value in enumerate(call.args):
        yield value, {names[index]} if index < len(names) else others
    for keyword in call.keywords:
        yield keyword.value, {keyword.arg} if keyword.arg and keyword.arg in known else others


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
