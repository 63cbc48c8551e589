"""What a module of a kernel imports, wherever in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import attrs

from kernels_core.check.facts.python_walk import Place, kept, last_name, visited


@attrs.frozen
class Import:
    """A module that is imported.

    Attributes:
        module: its dotted name; for a relative import the part behind the dots.
        level: the number of leading dots.
        line: where it is imported.
        names: what is imported from it; empty when it is imported itself.
        place: where that stands.
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
        """Whether the kernel does without it."""
        return self.place.expects("ImportError", "ModuleNotFoundError")

    def __str__(self) -> str:
        return "." * self.level + self.module


@kept
def imports_of(tree: ast.Module) -> tuple[Import, ...]:
    r"""The imports of a module that are ever run, in order.

    Args:
        tree: the module.

    Example:
        >>> tree = ast.parse("import torch.nn\ndef f():\n    from . import _ops")
        >>> [str(each) for each in imports_of(tree)]
        ['torch.nn', '.']
    """
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
    """A name in the code, or the parts of it that are certain."""
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        return name.value
    if isinstance(name, ast.JoinedStr) and name.values:
        # Of f"{package}.x" nothing is known, of f"torch.{x}" and f".{x}" enough.
        certain, dot, _ = _beginning(name.values[0]).rpartition(".")
        return certain if certain else dot
    return ""


@kept
def bindings(tree: ast.Module) -> dict[str, str]:
    r"""What the names that a module imports stand for, as dotted names; relative ones left out.

    Args:
        tree: the module.

    Example:
        >>> bindings(ast.parse("import torch.nn as nn\nfrom typing import Any as A"))
        {'nn': 'torch.nn', 'A': 'typing.Any'}
    """
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
    """What a dotted name in the code stands for; "" for an expression that is none.

    Args:
        node: the expression.
        names: what the module's names stand for, as of `bindings`.

    Example:
        >>> dotted(ast.parse("nn.Module", mode="eval").body, {"nn": "torch.nn"})
        'torch.nn.Module'
    """
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([names.get(node.id, node.id), *reversed(parts)])
