"""What PyInstaller needs to know to freeze programs that use this package.

PyInstaller follows import statements. It finds neither entry points, nor kernel repositories, which
are directories of source and native code.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path


def hook_dirs() -> list[str]:
    """Where the hooks are; PyInstaller finds this function by its entry point."""
    return [os.path.dirname(__file__)]


def collect_kernels(package: str) -> tuple[list[tuple[str, str]], list[str]]:
    """The kernel repositories in a package, and the modules that their builds import."""
    from PyInstaller.utils.hooks import collect_data_files

    files: list[tuple[str, str]] = collect_data_files(
        package, include_py_files=True, includes=["**/build/*/**"]
    )
    sources = [Path(file) for file, _ in files if file.endswith(".py")]
    imported = {name for source in sources for name in _imported(source)}
    return files, sorted(name for name in imported if find_spec(name.partition(".")[0]))


def _imported(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
