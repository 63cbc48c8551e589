"""Strings in the code of a kernel, evaluated as far as possible without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import attrs

UNKNOWN = "*"
"""Replaces a part of a text that is only known when the code runs."""

_MAX_DEPTH = 20

# Names and calls can be nested so that evaluating them would never end, or exhaust memory.
_MAX_STEPS = 100_000
_MAX_LENGTH = 500


@attrs.frozen
class Scope:
    """Where an expression is: the module, and the texts of names of the functions around it.

    Modules are paths without suffix in the build's directory.
    """

    module: str
    names: Mapping[str, str] = attrs.field(factory=dict)


class Constants:
    """The constants of the modules of a build.

    Modules are paths without suffix in the build's directory; a package's ends in `__init__`.
    """

    def __init__(self, trees: Mapping[str, ast.Module]) -> None:
        self._modules = {name: _definitions(tree.body) for name, tree in trees.items()}
        self._steps = _MAX_STEPS

    def text(self, node: ast.expr, scope: Scope, depth: int = 0) -> str:
        """The value of a string expression; `UNKNOWN` is each part that cannot be evaluated."""
        self._steps -= 1
        if depth > _MAX_DEPTH or self._steps < 0:
            return UNKNOWN
        text = self._text(node, scope, depth)
        return text if len(text) <= _MAX_LENGTH else UNKNOWN

    def _text(self, node: ast.expr, scope: Scope, depth: int) -> str:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return self._joined(node.values, scope, depth)
        if isinstance(node, ast.FormattedValue) and _is_plain(node):
            return self.text(node.value, scope, depth + 1)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self._joined([node.left, node.right], scope, depth)
        if isinstance(node, ast.Name):
            own = scope.names.get(node.id)
            return self._follow(scope.module, node.id, depth) if own is None else own
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = self._module(scope.module, node.value.id)
            return UNKNOWN if module is None else self._follow(module, node.attr, depth)
        return self._called(node, scope, depth) if isinstance(node, ast.Call) else UNKNOWN

    def _joined(self, parts: list[ast.expr], scope: Scope, depth: int) -> str:
        return "".join(self.text(part, scope, depth + 1) for part in parts)

    def locals_of(
        self, function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope
    ) -> Scope:
        """The scope within a function."""
        names = dict(scope.names)
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [each for each in (arguments.vararg, arguments.kwarg) if each]
        names.update((each.arg, UNKNOWN) for each in every)
        inner = Scope(scope.module, names)
        if not isinstance(function, ast.Lambda):
            for name, value in _definitions(function.body).items():
                known = isinstance(value, ast.expr)
                names[name] = self.text(value, inner, 1) if known else UNKNOWN  # type: ignore[arg-type]
        return inner

    def _follow(self, module: str, name: str, depth: int) -> str:
        value = self._modules.get(module, {}).get(name)
        if isinstance(value, ast.expr):
            return self.text(value, Scope(module), depth + 1)
        if isinstance(value, ast.ImportFrom):
            source, original = _source(module, value), _original(value, name)
            for candidate in (source, f"{source}/__init__".lstrip("/")):
                if candidate in self._modules and depth < _MAX_DEPTH:
                    return self._follow(candidate, original, depth + 1)
        return UNKNOWN

    def _module(self, module: str, name: str) -> str | None:
        """The module of the build that a name in another module refers to."""
        value = self._modules.get(module, {}).get(name)
        if not isinstance(value, ast.ImportFrom) or not value.level:
            return None
        found = f"{_source(module, value)}/{_original(value, name)}".lstrip("/")
        return found if found in self._modules else None

    def _called(self, node: ast.Call, scope: Scope, depth: int) -> str:
        """The result of a function of the build that only builds a text."""
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        module, function = self._function(scope.module, name)
        returned = _only_result(function) if function else None
        if function is None or returned is None or depth >= _MAX_DEPTH:
            return UNKNOWN
        inner = self.locals_of(function, Scope(module))
        given = {
            parameter.arg: self.text(argument, scope, depth + 1)
            for parameter, argument in zip(function.args.args, node.args, strict=False)
        }
        return self.text(returned, Scope(module, {**inner.names, **given}), depth + 1)

    def _function(self, module: str, name: str) -> tuple[str, ast.FunctionDef | None]:
        """The function of the build that a name refers to, and the module that defines it."""
        value = self._modules.get(module, {}).get(name)
        if isinstance(value, ast.ImportFrom) and value.level:
            module = _source(module, value)
            value = self._modules.get(module, {}).get(_original(value, name))
        return module, value if isinstance(value, ast.FunctionDef) else None


def _is_plain(node: ast.FormattedValue) -> bool:
    return node.format_spec is None and node.conversion in (-1, ord("s"))


def _only_result(function: ast.FunctionDef) -> ast.expr | None:
    """What a function without decorators returns in its only return statement."""
    returned = [each for each in _own_nodes(function) if isinstance(each, ast.Return)]
    return returned[0].value if len(returned) == 1 and not function.decorator_list else None


def _original(node: ast.ImportFrom, name: str) -> str:
    """The name of an imported object in the module that it is imported from."""
    return next(a.name for a in node.names if (a.asname or a.name) == name)


def _source(module: str, node: ast.ImportFrom) -> str:
    """The module that a relative import imports from, as a path."""
    if not node.level:
        return f"/{node.module}"  # of none in the build
    directory = module.split("/")[: -node.level]
    return "/".join([*directory, *filter(None, (node.module or "").split("."))])


_Definition = ast.expr | ast.ImportFrom | ast.FunctionDef | None


def _definitions(body: list[ast.stmt]) -> dict[str, _Definition]:
    """The definitions of the names in a block; None for those defined more than once."""
    found: dict[str, _Definition] = {}
    for name, value in _defined(body):
        found[name] = None if name in found else value
    return found


def _defined(body: list[ast.stmt]) -> Iterator[tuple[str, _Definition]]:
    direct = set(body)
    targets = {target for each in body for target in _targets(each)}
    for node in _own_nodes(ast.Module(body=body, type_ignores=[])):
        if isinstance(node, ast.ImportFrom):
            yield from ((alias.asname or alias.name, node) for alias in node.names)
        elif isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node in direct:
            first, *others = _targets(node)
            if isinstance(first, ast.Name) and not others and node.value:
                yield first.id, node.value
        elif isinstance(node, ast.Name) and _is_set(node) and node not in targets:
            yield node.id, None


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _is_set(node: ast.Name) -> bool:
    return not isinstance(node.ctx, ast.Load)


def _own_nodes(root: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one, except those inside nested functions and classes."""
    waiting = list(ast.iter_child_nodes(root))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
