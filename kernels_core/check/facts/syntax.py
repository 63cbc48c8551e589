"""Syntax that the oldest Python does not support, found in the syntax tree.

`ast.parse` can reject newer syntax, but does not know all of it, and stops at the first.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator

import attrs


@attrs.frozen
class NewSyntax:
    """Syntax that was added after the oldest Python.

    Attributes:
        line: its line.
        what: what it is.
        since: the version of Python that has it; "" when that is part of `what`.
    """

    line: int
    what: str
    since: str


# By the names of the node types, since not every Python has all of them.
_NODES = {
    "Match": ("a match statement", "3.10"),
    "TryStar": ("except*", "3.11"),
    "TypeAlias": ("a type statement", "3.12"),
    "TemplateStr": ("a template string", "3.14"),
}


def newer_syntax(tree: ast.Module, text: str) -> tuple[NewSyntax, ...]:
    """Find the syntax that Python 3.9 does not support in a tree and the text of it."""
    found = [new for node in ast.walk(tree) for new in _of_node(node)]
    found += _bare_walrus(tree, text)
    if sys.version_info >= (3, 12) and any(isinstance(n, ast.JoinedStr) for n in ast.walk(tree)):
        found += _new_strings(text)
    return tuple(sorted(set(found), key=lambda new: (new.line, new.what)))


def _of_node(node: ast.AST) -> Iterator[NewSyntax]:
    if type(node).__name__ in _NODES:
        what, since = _NODES[type(node).__name__]
        yield NewSyntax(node.lineno, what, since)  # type: ignore[attr-defined]
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
        if _is_bare(node.slice) and any(isinstance(e, ast.Starred) for e in node.slice.elts):
            yield NewSyntax(node.lineno, "a star in an index", "3.11")
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Starred):
        yield NewSyntax(node.lineno, "a star in an index", "3.11")
    elif isinstance(node, ast.arg) and isinstance(node.annotation, ast.Starred):
        yield NewSyntax(node.lineno, "a star in an annotation", "3.11")
    elif getattr(node, "type_params", None):
        yield NewSyntax(node.lineno, "type parameters in brackets", "3.12")  # type: ignore[attr-defined]


def _is_bare(items: ast.Tuple) -> bool:
    # With parentheses of its own, a tuple begins before its first element.
    first = items.elts[0] if items.elts else items
    return (items.lineno, items.col_offset) == (first.lineno, first.col_offset)


def _bare_walrus(tree: ast.Module, text: str) -> Iterator[NewSyntax]:
    inside: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            inside += node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    found = [each for each in inside if isinstance(each, ast.NamedExpr)]
    if not found:
        return
    before = _tokens_before(text)
    lines = text.split("\n")
    for each in found:
        # The tree counts bytes, tokens count characters.
        line = lines[each.lineno - 1].encode()
        place = (each.lineno, len(line[: each.col_offset].decode(errors="replace")))
        if before.get(place) != "(":
            yield NewSyntax(each.lineno, "':=' without parentheses in an index", "3.10")


def _tokens_before(text: str) -> dict[tuple[int, int], str]:
    before = {}
    last = ""
    skipped = (tokenize.NL, tokenize.COMMENT)
    for token in _tokens(text):
        before[token.start] = last
        if token.type not in skipped:
            last = token.string
    return before


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(text).readline)
    except (tokenize.TokenError, SyntaxError):
        return  # the parser is more lenient in places; what came before has been seen


@attrs.define
class _String:
    """An f-string that is being read: its quotes, and the current depth of braces."""

    line: int
    quotes: str
    braces: int = 0


def _new_strings(text: str) -> Iterator[NewSyntax]:
    """F-strings that an older Python would end elsewhere, as it reads them as one string first."""
    start, middle, end = (
        getattr(tokenize, f"FSTRING_{part}", -1) for part in ("START", "MIDDLE", "END")
    )
    stack: list[_String] = []
    for token in _tokens(text):
        within = [each for each in stack if each.braces]
        if within:
            reason = _reason(token, within, middle)
            if reason:
                yield NewSyntax(within[0].line, f"{reason} in an f-string's braces", "3.12")
        if token.type == start:
            stack.append(_String(token.start[0], token.string.lstrip("fFrRbBuU")))
        elif token.type == end and stack:
            stack.pop()
        elif stack and token.type == tokenize.OP:
            stack[-1].braces += {"{": 1, "}": -1}.get(token.string, 0)


def _reason(token: tokenize.TokenInfo, within: list[_String], middle: int) -> str:
    if token.type == tokenize.COMMENT:
        return "a comment"
    if "\\" in token.string:
        return "a backslash"
    single = [each for each in within if len(each.quotes) == 1]
    if token.type in (tokenize.NL, tokenize.NEWLINE) and single:
        return "a new line"
    if token.type == middle:
        return ""
    for each in within:
        if each.quotes in token.string:
            return f"the quotes {each.quotes} of the string itself"
    return ""
