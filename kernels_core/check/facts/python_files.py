"""Python source, parsed and never run."""

from __future__ import annotations

import ast
import functools
import io
import sys
import tokenize
import warnings
from pathlib import Path

import attrs

from kernels_core.check.facts.python_walk import OLDEST
from kernels_core.check.facts.repository import Build
from kernels_core.check.facts.syntax import NewSyntax, newer_syntax

_MAX_SIZE = 4 << 20

# Trees take up to a hundred times the memory of the source, and those of a build are kept until it
# has been judged.
_MAX_BUILD_SIZE = 8 << 20

# Builds of one repository share most of their Python.
_CACHED = 128
_MAX_CACHED_SIZE = 32 << 10

# How many operators may follow each other in one expression. Python 3.10 uses a stack frame for
# each, and crashes when the stack overflows; later versions raise.
_MAX_CHAIN = 20_000


@attrs.frozen
class PythonFile:
    """A file of Python source.

    Attributes:
        path: relative to the repository.
        build: the build that it is in.
        text: the source; "" when it could not be read.
        tree: its syntax tree; empty when it could not be parsed.
        unparsable: why it could not be read or parsed; "" when it could.
        unparsable_line: the line of that error, if it has one.
        newer: the syntax in it that the oldest Python does not support.
    """

    path: str
    build: Build
    text: str = attrs.field(repr=False)
    tree: ast.Module = attrs.field(repr=False)
    unparsable: str = ""
    unparsable_line: int | None = None
    newer: tuple[NewSyntax, ...] = ()

    @property
    def inner(self) -> str:
        """Its path relative to the build's directory."""
        return self.path[len(self.build.path) + 1 :]


class _UnparsableError(Exception):
    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(why)
        self.line = line


def read_python_file(path: str, file: Path, build: Build, before: int = 0) -> PythonFile:
    """Read and parse a file; `before` bytes of source were read of this build already."""
    nothing = ast.Module(body=[], type_ignores=[])
    if before > _MAX_BUILD_SIZE:
        return PythonFile(path, build, "", nothing)  # an earlier file exceeded the limit
    try:
        content = _content(file)
        if before + len(content) > _MAX_BUILD_SIZE:
            raise _UnparsableError(
                f"is, like all that follow, beyond the first {_MAX_BUILD_SIZE >> 20} MiB of "
                f"Python in this build, and was not checked"
            )
        parse = _parse_cached if len(content) <= _MAX_CACHED_SIZE else _parse
        text, tree, newer = parse(content)
    except _UnparsableError as error:
        return PythonFile(path, build, "", nothing, str(error), error.line)
    return PythonFile(path, build, text, tree, newer=newer)


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_SIZE + 1)
    except OSError as error:
        raise _UnparsableError(f"cannot be read: {error.strerror}") from error
    if len(content) > _MAX_SIZE:
        raise _UnparsableError(f"is larger than {_MAX_SIZE >> 20} MiB")
    return content


def _parse(content: bytes) -> tuple[str, ast.Module, tuple[NewSyntax, ...]]:
    text = _decode(content)
    _check_chains(text)
    try:
        tree, refused = _tree(text, OLDEST), None
    except SyntaxError as error:
        refused = error
        try:
            tree = _tree(text, None)
        except SyntaxError as worse:
            raise _UnparsableError(_told(worse), worse.lineno) from worse
    newer = newer_syntax(tree, text)
    if refused and not newer:
        newer = (NewSyntax(refused.lineno or 1, refused.msg, ""),)
    return text, tree, newer


_parse_cached = functools.lru_cache(maxsize=_CACHED)(_parse)


def _decode(content: bytes) -> str:
    if b"\0" in content:
        raise _UnparsableError("contains a null byte")
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        text = content.decode(encoding)
    except (SyntaxError, LookupError) as error:
        raise _UnparsableError(f"has an encoding that cannot be read: {error}", 1) from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _UnparsableError(f"is not in the encoding {error.encoding}: {error}", line) from error
    except ValueError as error:  # codecs that are not for text
        raise _UnparsableError(f"has an encoding that cannot be read: {error}", 1) from error
    # As Python's own reader does.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _tree(text: str, version: tuple[int, int] | None) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file, such as about invalid escapes
            return ast.parse(text, feature_version=version)
    except (RecursionError, MemoryError) as error:
        raise _UnparsableError("is nested too deeply") from error
    except SyntaxError:
        raise
    except ValueError as error:  # such as a number of too many digits
        raise _UnparsableError(f"cannot be parsed: {error}") from error


def _check_chains(text: str) -> None:
    if sys.version_info >= (3, 11) or sum(map(text.count, "+-*/%@&|^.([")) <= _MAX_CHAIN:
        return
    length = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.NEWLINE or token.string in (",", ";", ":", "="):
                length = 0
            elif token.type == tokenize.OP:
                length += 1
                if length > _MAX_CHAIN:
                    raise _UnparsableError("is nested too deeply", token.start[0])
    except (tokenize.TokenError, SyntaxError) as error:
        raise _UnparsableError(f"is not Python: {error}") from error


def _told(error: SyntaxError) -> str:
    return f"Python {sys.version_info[0]}.{sys.version_info[1]} cannot parse it: {error.msg}"
