"""The imports of a module of a kernel, anywhere in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import attrs

from kernels_core.check.facts.python_walk import Place, kept, last_name, visited


@attrs.frozen
class Import:
    """A module that is imported.

    Attributes:
        module: its dotted name; of a relative import the part after the dots.
        level: the number of leading dots.
        line: the line of the import.
        names: what is imported from it; empty when it is imported itself.
        place: the code around it.
    """

    module: str
    level: int
    line: int
    names: tuple[str, ...]
    place: Place

    @property
    def top(self) -> str:
        """The first part of the dotted name."""
        return self.module.partition(".")[0]

    @property
    def optional(self) -> bool:
        """Whether the kernel works without it."""
        return self.place.expects("ImportError", "ModuleNotFoundError")

    def __str__(self) -> str:
        return "." * self.level + self.module


@kept
def imports_of(tree: ast.Module) -> tuple[Import, ...]:
    """The imports of a module that may be executed, in order."""
    return tuple(each for node, place in visited(tree) for each in _of_node(node, place))


def _of_node(node: ast.AST, place: Place) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, 0, node.lineno, (), place)
    elif isinstance(node, ast.ImportFrom):
        names = tuple(alias.name for alias in node.names)
        yield Import(node.module or "", node.level, node.lineno, names, place)
    elif isinstance(node, ast.Call) and last_name(node.func) in ("import_module", "__import__"):
        name = _beginning(node.args[0]) if node.args else ""
        level = len(name) - len(name.lstrip("."))
        if name and not (last_name(node.func) == "__import__" and len(node.args) > 4):
            yield Import(name[level:], level, node.lineno, (), place)


def _beginning(name: ast.expr) -> str:
    """A module name in the code, or the certain beginning of it."""
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        return name.value
    if isinstance(name, ast.JoinedStr) and name.values:
        # f"{package}.x" is unknown; f"torch.{x}" and f".{x}" are known well enough.
        certain, dot, _ = _beginning(name.values[0]).rpartition(".")
        return certain if certain else dot
    return ""


@kept
def bindings(tree: ast.Module) -> dict[str, str]:
    """The dotted names that the names imported by a module refer to, except relative imports."""
    found = {}
    for node, _ in visited(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    found[alias.asname] = alias.name
                else:
                    top = alias.name.partition(".")[0]
                    found[top] = top
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def dotted(node: ast.AST, names: dict[str, str]) -> str:
    """The dotted name that an expression refers to, given `bindings`; "" for other expressions."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])
