"""Unions of types written with `|`, which Python 3.9 cannot evaluate."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import attrs

from kernels_core.check.facts.imports import bindings, dotted
from kernels_core.check.facts.python_walk import Place, kept, last_name, visited

_BUILTIN_TYPES = frozenset(
    {
        "bool",
        "bytes",
        "complex",
        "dict",
        "float",
        "frozenset",
        "int",
        "list",
        "object",
        "set",
        "str",
        "tuple",
        "type",
    }
)

_TYPES = frozenset({"torch.Tensor", "torch.device", "torch.dtype", "torch.Size", "torch.Generator"})

# Their arguments are not types, or not only types.
_NOT_ONLY_TYPES = frozenset({"Literal", "Annotated"})


@attrs.frozen
class Union:
    """A union with `|` that is evaluated: its line, its source, and where it is used."""

    line: int
    text: str
    where: str


@kept
def evaluated_unions(tree: ast.Module) -> tuple[Union, ...]:
    """Find the unions in a module that fail on Python 3.9 when they are evaluated.

    In annotations every `|` is a union. Elsewhere it is one if a side is None or a well-known type.
    """
    return tuple(_evaluated(tree))


def _evaluated(tree: ast.Module) -> Iterator[Union]:
    names = bindings(tree)
    seen: set[ast.AST] = set()
    for node, place in visited(tree):
        if node in seen:
            continue
        union, where = _union(node, place, names)
        if union is not None or place.annotation:
            seen.update(ast.walk(node))  # an annotation is judged as a whole
        if union is not None:
            yield Union(union.lineno, _text(union), where)


def _union(node: ast.AST, place: Place, names: dict[str, str]) -> tuple[ast.BinOp | None, str]:
    if place.annotation:
        return _first_in(node), "an annotation"
    if place.expects("TypeError"):
        return None, ""
    if isinstance(node, ast.Call) and last_name(node.func) in ("isinstance", "issubclass"):
        if len(node.args) == 2 and _is_or(node.args[1]):
            return _first_in(node.args[1]), f"a call of {last_name(node.func)}"
    elif isinstance(node, ast.BinOp) and _is_or(node):
        is_union = _is_type(node.left, names) or _is_type(node.right, names)
        return (node, "an expression") if is_union else (None, "")
    return None, ""


def _first_in(root: ast.AST) -> ast.BinOp | None:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.BinOp) and _is_or(node):
            return node
        if isinstance(node, ast.Subscript) and last_name(node.value) in _NOT_ONLY_TYPES:
            first = node.slice.elts[:1] if isinstance(node.slice, ast.Tuple) else []
            waiting += first if last_name(node.value) == "Annotated" else []
        elif not isinstance(node, ast.Lambda):
            waiting += ast.iter_child_nodes(node)
    return None


def _is_or(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)


def _is_type(node: ast.expr, names: dict[str, str]) -> bool:
    if isinstance(node, ast.Constant):
        return node.value is None
    if isinstance(node, ast.Subscript):
        node = node.value
    name = dotted(node, names)
    return name in _BUILTIN_TYPES or name in _TYPES or name.startswith("typing.")


def _text(node: ast.expr) -> str:
    try:
        text = ast.unparse(node)
    except RecursionError:
        return "..."
    return text if len(text) <= 60 else f"{text[:57]}..."
