"""The public names of kernels_core: what type checkers see is what programs get."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import kernels_core

HEAVY = ("huggingface_hub", "importlib.metadata", "packaging", "pluggy", "torch")
DECLARATION = (
    "from kernels_core import kernelize, Mode, Device, LayerRepository, use_kernel_forward_from_hub"
)


def static_names(source: str) -> dict[str, str]:
    """Name to module, as the TYPE_CHECKING block imports them."""
    blocks = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        str(alias.asname): str(node.module).removeprefix("kernels_core.")
        for node in imports
        for alias in node.names
    }


def test_the_static_and_the_lazy_names_agree(repository: Path) -> None:
    source = (repository / "kernels_core" / "__init__.py").read_text("utf-8")
    lazy = {name: module for module, names in kernels_core._MODULES.items() for name in names}
    assert static_names(source) == lazy
    assert sorted(lazy) == kernels_core.__all__


@pytest.mark.parametrize("name", kernels_core.__all__)
def test_a_public_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(kernels_core, name)
    # A class must have a docstring of its own: inspect.getdoc would take its base's.
    doc = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    assert doc
    assert doc.strip()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kernels_core.no_such_name


@pytest.mark.parametrize("statement", ["import kernels_core", DECLARATION])
def test_declaring_imports_nothing_heavy(statement: str) -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    # -I keeps the checkout off the path, so that this is the installed package.
    run = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True
    )
    imported = run.stdout.split()
    assert "kernels_core" in imported
    assert [name for name in HEAVY if name in imported] == []
