"""Walking the syntax tree of a kernel, without what the oldest Python never runs."""

from __future__ import annotations

import ast
import enum
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

import attrs

OLDEST = (3, 9)
"""The oldest Python that kernels run on."""


class Inside(enum.Enum):
    """The innermost kind of block that a node is in."""

    MODULE = "module"
    CLASS = "class"
    FUNCTION = "function"


@attrs.frozen
class Place:
    """Where in a module a node is.

    Attributes:
        inside: the innermost block.
        caught: the exceptions that the code around it catches, by name; "*" for all.
        annotation: whether it is part of an annotation. Only annotations that are evaluated at run
            time are visited at all.
    """

    inside: Inside = Inside.MODULE
    caught: frozenset[str] = frozenset()
    annotation: bool = False

    def expects(self, *exceptions: str) -> bool:
        """Whether one of these exceptions is caught here."""
        return not self.caught.isdisjoint({*exceptions, "*"})


_EVERYTHING = frozenset({"Exception", "BaseException"})

# These evaluate annotations, also quoted ones, to infer the schema of an operator.
_READ_ANNOTATIONS = frozenset({"custom_op", "triton_op"})

Node = tuple[ast.AST, Place]

_T = TypeVar("_T")


def kept(function: Callable[[ast.Module], _T]) -> Callable[[ast.Module], _T]:
    """Cache the result of a function about a module in the module's tree.

    The result lives as long as the tree does, so it must not refer to the tree's root.
    """
    name = f"{function.__module__}.{function.__qualname__}"

    @functools.wraps(function)
    def once(tree: ast.Module) -> _T:
        results = tree.__dict__
        if name not in results:
            results[name] = function(tree)
        found: _T = results[name]
        return found

    return once


@kept
def visited(tree: ast.Module) -> tuple[Node, ...]:
    """The nodes of a module that Python 3.9 runs or evaluates, in order, with their places.

    Left out are code under `if TYPE_CHECKING:` and under conditions on `sys.version_info` that are
    false there, and annotations that nothing evaluates.
    """
    return tuple(_visit(tree))


def _visit(tree: ast.Module) -> Iterator[Node]:
    postponed = _postpones_annotations(tree)
    waiting: list[Node] = [(node, Place()) for node in reversed(tree.body)]
    while waiting:
        node, place = waiting.pop()
        yield node, place
        waiting += reversed(list(_children(node, place, postponed)))


def _postpones_annotations(tree: ast.Module) -> bool:
    return any(
        isinstance(node, ast.ImportFrom)
        and node.module == "__future__"
        and any(alias.name == "annotations" for alias in node.names)
        for node in tree.body
    )


def _children(node: ast.AST, place: Place, postponed: bool) -> Iterator[Node]:
    if isinstance(node, (ast.If, ast.IfExp)):
        yield from _branches(node, place)
    elif type(node).__name__ in ("Try", "TryStar"):
        yield from _try(node, place)
    elif isinstance(node, (ast.With, ast.AsyncWith)):
        yield from _with(node, place)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        yield from _function(node, place, postponed)
    elif isinstance(node, ast.Lambda):
        yield from _all(_defaults(node.args), place)
        yield node.body, attrs.evolve(place, inside=Inside.FUNCTION)
    elif isinstance(node, ast.ClassDef):
        yield from _all([*node.decorator_list, *node.bases, *node.keywords], place)
        yield from _all(node.body, attrs.evolve(place, inside=Inside.CLASS))
    elif isinstance(node, ast.AnnAssign):
        yield from _annotated(node, place, postponed)
    else:
        yield from _all(ast.iter_child_nodes(node), place)


def _with(node: ast.With | ast.AsyncWith, place: Place) -> Iterator[Node]:
    yield from _all(node.items, place)
    suppressed = {name for item in node.items for name in _suppressed(item.context_expr)}
    yield from _all(node.body, attrs.evolve(place, caught=place.caught | suppressed))


def _annotated(node: ast.AnnAssign, place: Place, postponed: bool) -> Iterator[Node]:
    yield node.target, place
    if not postponed and place.inside is not Inside.FUNCTION:
        yield node.annotation, attrs.evolve(place, annotation=True)
    if node.value:
        yield node.value, place


def _all(nodes: object, place: Place) -> Iterator[Node]:
    yield from ((node, place) for node in nodes)  # type: ignore[attr-defined]


def _branches(node: ast.If | ast.IfExp, place: Place) -> Iterator[Node]:
    body = node.body if isinstance(node.body, list) else [node.body]
    orelse = node.orelse if isinstance(node.orelse, list) else [node.orelse]
    try:
        holds = _holds(node.test)
    except RecursionError:
        holds = None
    yield node.test, place
    if holds is not False:
        searches = any(last_name(each) == "find_spec" for each in ast.walk(node.test))
        caught = place.caught | {"ImportError"} if searches else place.caught
        yield from _all(body, attrs.evolve(place, caught=caught))
    if holds is not True:
        yield from _all(orelse, place)


def _holds(test: ast.expr) -> bool | None:
    """Whether a condition is true when Python 3.9 runs the kernel; None where that is unknown."""
    if last_name(test) == "TYPE_CHECKING":
        return False
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        holds = _holds(test.operand)
        return None if holds is None else not holds
    if isinstance(test, ast.BoolOp):
        parts = [_holds(each) for each in test.values]
        decisive = isinstance(test.op, ast.Or)
        if decisive in parts:
            return decisive
        return None if None in parts else not decisive
    if isinstance(test, ast.Compare) and last_name(test.left) == "version_info":
        return _compared(test.ops[0], test.comparators[0]) if len(test.ops) == 1 else None
    return None


def _compared(operator: ast.cmpop, version: ast.expr) -> bool | None:
    try:
        bound = ast.literal_eval(version)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(bound, tuple) or not all(isinstance(each, int) for each in bound):
        return None
    # Some release of 3.9, not the first one.
    oldest = (*OLDEST, 99)
    results = {
        ast.GtE: oldest >= bound,
        ast.Gt: oldest > bound,
        ast.LtE: oldest <= bound,
        ast.Lt: oldest < bound,
    }
    return results.get(type(operator))


def _try(node: ast.AST, place: Place) -> Iterator[Node]:
    handlers: list[ast.ExceptHandler] = node.handlers  # type: ignore[attr-defined]
    caught = {name for handler in handlers for name in _caught(handler)}
    inner = attrs.evolve(place, caught=place.caught | caught)
    yield from _all(node.body, inner)  # type: ignore[attr-defined]
    yield from _all(handlers, place)
    yield from _all(node.orelse, place)  # type: ignore[attr-defined]
    yield from _all(node.finalbody, place)  # type: ignore[attr-defined]


def _caught(handler: ast.ExceptHandler) -> Iterator[str]:
    if handler.type is None:
        return iter("*")
    return _exceptions(handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type])


def _suppressed(call: ast.expr) -> Iterator[str]:
    if isinstance(call, ast.Call) and last_name(call.func) == "suppress":
        return _exceptions(call.args)
    return iter(())


def _exceptions(named: list[ast.expr]) -> Iterator[str]:
    names = filter(None, map(last_name, named))
    return ("*" if name in _EVERYTHING else name for name in names)


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, place: Place, postponed: bool
) -> Iterator[Node]:
    yield from _all([*node.decorator_list, *_defaults(node.args)], place)
    read = any(last_name(each) in _READ_ANNOTATIONS for each in map(_called, node.decorator_list))
    if not postponed or read:
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [each for each in (arguments.vararg, arguments.kwarg) if each]
        annotations = [each.annotation for each in every] + [node.returns]
        for annotation in annotations:
            if annotation is not None:
                what = _read(annotation) if read else annotation
                yield what, attrs.evolve(place, annotation=True)
    yield from _all(node.body, attrs.evolve(place, inside=Inside.FUNCTION))


def _read(annotation: ast.expr) -> ast.expr:
    """The expression in a string annotation."""
    if not isinstance(annotation, ast.Constant) or not isinstance(annotation.value, str):
        return annotation
    try:
        inner = ast.parse(annotation.value.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return annotation
    for node in ast.walk(inner):
        ast.copy_location(node, annotation)
    return inner


def _called(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *(each for each in arguments.kw_defaults if each)]


def last_name(node: ast.AST) -> str:
    """The last part of a dotted name; "" for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""
