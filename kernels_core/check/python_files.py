"""Python source, parsed and never run."""

from __future__ import annotations

import ast
from pathlib import Path

import attrs

from kernels_core.check.subject import Build


@attrs.frozen
class PythonFile:
    """A file of Python source.

    Attributes:
        path: relative to the repository.
        build: the build that it is in.
        text: the source; "" when it could not be read.
        tree: its syntax tree; empty when it could not be parsed.
        unparsable: why it could not be read or parsed; "" when it could.
        unparsable_line: the line where that is, if it is in one.
    """

    path: str
    build: Build
    text: str = attrs.field(repr=False)
    tree: ast.Module = attrs.field(repr=False)
    unparsable: str = ""
    unparsable_line: int | None = None


def read_python_file(path: str, file: Path, build: Build) -> PythonFile:
    """Read and parse a file of Python source.

    Args:
        path: what to call it: its path relative to the repository.
        file: where it lies.
        build: the build that it is in.
    """
    raise NotImplementedError
