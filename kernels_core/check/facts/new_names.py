"""Names of the standard library that were added after Python 3.9."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import attrs

from kernels_core.check.facts.imports import Import, bindings, dotted, imports_of
from kernels_core.check.facts.python_walk import kept, visited
from kernels_core.check.tables import table


@attrs.frozen
class NewName:
    """A name that the oldest Python does not have, and the version that added it."""

    line: int
    name: str
    since: str


@kept
def newer_names(tree: ast.Module) -> tuple[NewName, ...]:
    """Find what a module uses of the standard library that Python 3.9 does not have.

    Names whose absence the module handles are left out.
    """
    found = [new for each in imports_of(tree) for new in _imported(each)]
    names = bindings(tree)
    bound = _bound(tree)
    for node, place in visited(tree):
        if isinstance(node, ast.Attribute) and not place.expects("AttributeError"):
            found += _attribute(node, names)
        elif isinstance(node, ast.Call) and not place.expects("TypeError"):
            found += _arguments(node, names, bound)
        elif isinstance(node, ast.Name) and not place.expects("NameError"):
            found += _builtin(node, bound)
    return tuple(sorted(set(found), key=lambda new: (new.line, new.name)))


def _imported(each: Import) -> Iterator[NewName]:
    if each.level or each.optional:
        return
    since = table("python")["new_modules"].get(each.top)
    if since:
        yield NewName(each.line, each.top, since)
    members = table("python")["new_names"].get(each.module, {})
    for name in each.names:
        if name in members:
            yield NewName(each.line, f"{each.module}.{name}", members[name])


def _attribute(node: ast.Attribute, names: dict[str, str]) -> Iterator[NewName]:
    # Only of imported modules and of types: the types of other values are unknown.
    root: ast.AST = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name):
        return
    module, _, name = dotted(node, names).rpartition(".")
    imported = root.id in names
    tables = table("python")
    since = tables["new_names"].get(module, {}).get(name) if imported else None
    since = since or (None if imported else tables["new_methods"].get(module, {}).get(name))
    if since:
        yield NewName(node.lineno, f"{module}.{name}", since)


def _builtin(node: ast.Name, bound: frozenset[str]) -> Iterator[NewName]:
    since = table("python")["new_names"]["builtins"].get(node.id)
    if since and isinstance(node.ctx, ast.Load) and node.id not in bound:
        yield NewName(node.lineno, node.id, since)


def _arguments(node: ast.Call, names: dict[str, str], bound: frozenset[str]) -> Iterator[NewName]:
    function = dotted(node.func, names)
    if function and function not in bound and "." not in function:
        function = f"builtins.{function}"
    arguments = table("python")["new_arguments"].get(function, {})
    for keyword in node.keywords:
        if keyword.arg in arguments:
            name = f"{function.removeprefix('builtins.')}({keyword.arg}=)"
            yield NewName(node.lineno, name, arguments[keyword.arg])


def _bound(tree: ast.Module) -> frozenset[str]:
    """The names that a module binds itself, anywhere in it."""
    found = set(bindings(tree))
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.ImportFrom):
            found.update(alias.asname or alias.name for alias in node.names)
    return frozenset(found)
