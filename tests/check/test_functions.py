"""The functions that read names and source, each on its own."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from kernels_core.check.extra import extra
from kernels_core.check.facts.build_names import (
    backend_of,
    is_selected,
    misspelt,
    names_of,
    read_name,
)
from kernels_core.check.facts.constants import Constants, Scope
from kernels_core.check.facts.imports import bindings, dotted, imports_of
from kernels_core.check.facts.layer_classes import exported
from kernels_core.check.facts.native import is_libpython
from kernels_core.check.facts.new_names import newer_names
from kernels_core.check.facts.python_walk import visited
from kernels_core.check.facts.syntax import NewSyntax, newer_syntax
from kernels_core.check.facts.unions import Union, evaluated_unions
from kernels_core.check.native.reading import is_native
from kernels_core.check.native.source import decoded
from kernels_core.check.rule import some
from kernels_core.check.rules import all_rules, selected_rules
from kernels_core.check.rules.native import device, torch_abi
from kernels_core.check.rules_page import link, page
from kernels_core.check.tables import table
from kernels_core.cli.check import names
from kernels_core.cli.check_text import printable


def expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


@pytest.mark.parametrize(
    ("name", "backend", "spelling"),
    [
        ("torch213-cxx11-cpu-x86_64-linux", "cpu", ""),
        ("torch-universal", None, ""),
        ("torch-cpu2", None, "'cpu'"),
        ("torch-acme", None, ""),
    ],
)
def test_the_backend_of_a_build(name: str, backend: str | None, spelling: str) -> None:
    variant = read_name(name)
    assert (backend_of(variant), misspelt(variant)) == (backend, spelling)
    assert names_of("cpu") == ("cpu",)


def test_builds_are_selected_by_patterns() -> None:
    assert is_selected("torch-cpu", [])
    assert is_selected("torch-cpu", ["x*", "*-cpu"])
    assert not is_selected("torch-cpu", ["x*"])


def test_a_text_is_evaluated_as_far_as_possible() -> None:
    constants = Constants({"_ops": ast.parse("NAME = 'relu'")})
    assert constants.text(expression("f'_{NAME}_{commit()}::op'"), Scope("_ops")) == "_relu_*::op"


def test_what_a_module_imports() -> None:
    tree = ast.parse("import torch.nn\ndef f():\n    from . import _ops")
    assert [str(each) for each in imports_of(tree)] == ["torch.nn", "."]


def test_what_imported_names_refer_to() -> None:
    tree = ast.parse("import torch.nn as nn\nfrom typing import Any as A")
    assert bindings(tree) == {"nn": "torch.nn", "A": "typing.Any"}
    assert dotted(expression("nn.Module"), bindings(tree)) == "torch.nn.Module"
    assert dotted(expression("f().x"), bindings(tree)) == ""


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("__all__ = ['layers']; __all__ += ['relu']", {"layers", "relu"}),
        ("__all__ = ('a',); __all__ = ['b']", {"b"}),
        ("__all__ += ['a']", {"a"}),
        ("__all__: list = ['a']", {"a"}),
        ("__all__ = ['a', name]", None),
        ("__all__ = find()", None),
        ("__all__ = ['a']; __all__.append('b')", None),
        ("x = 1", None),
    ],
)
def test_what_a_module_exports(source: str, found: set[str] | None) -> None:
    assert exported(ast.parse(source)) == found


def test_code_that_python_39_does_not_run_is_not_visited() -> None:
    tree = ast.parse("if TYPE_CHECKING:\n    import numpy\nelse:\n    import torch")
    imported = [node for node, _ in visited(tree) if isinstance(node, ast.Import)]
    assert [node.names[0].name for node in imported] == ["torch"]


def test_new_syntax_names_and_unions() -> None:
    tree = ast.parse("from itertools import pairwise\nzip(a, b, strict=True)")
    found = [(each.line, each.name, each.since) for each in newer_names(tree)]
    assert found == [(1, "itertools.pairwise", "3.10"), (2, "zip(strict=)", "3.10")]
    tree = ast.parse("def f(x: int | None): return 1 | 2")
    assert evaluated_unions(tree) == (Union(1, "int | None", "an annotation"),)
    text = "match x:\n    case 1: pass"
    assert newer_syntax(ast.parse(text), text) == (NewSyntax(1, "a match statement", "3.10"),)


@pytest.mark.parametrize(
    ("library", "is_python"), [("libpython3.11.so.1.0", True), ("libpythonic.so", False)]
)
def test_which_library_is_python(library: str, is_python: bool) -> None:
    assert is_libpython(library) is is_python


def test_what_is_named_like_a_library_is_native(tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("No library.")
    assert not is_native(note)
    assert is_native(note.rename(note.with_suffix(".so")))


def test_names_of_symbols_that_are_not_utf_8() -> None:
    assert decoded("é".encode()) == "é"
    assert decoded("é".encode("latin-1")) == "\\xe9"


@pytest.mark.parametrize(
    ("symbol", "unstable"),
    [
        ("_ZN5torch7LibraryC1Ev", True),
        ("??0Library@torch@@QEAA@XZ", True),
        ("torch_call_dispatcher", False),
        ("_ZN8my_torch3runEv", False),
    ],
)
def test_the_symbols_of_torch(symbol: str, unstable: bool) -> None:
    assert torch_abi._is_unstable(symbol) is unstable


@pytest.mark.parametrize(
    ("symbol", "found"), [("_ZN3c105ErrorC1ESs", True), ("_ZN3c107ClassSsC1Ev", False)]
)
def test_the_older_string_in_a_symbol(symbol: str, found: bool) -> None:
    assert torch_abi._takes_old_string(symbol) is found


@pytest.mark.parametrize(
    ("code", "claimed", "runs"),
    [
        ("8.0", "8.6", True),
        ("8.6", "8.0", False),
        ("8.0", "9.0", False),
        ("8.0+PTX", "9.0", True),
        ("9.0", "9.0+PTX", False),
        ("gfx942", "gfx90a", False),
    ],
)
def test_where_code_for_an_architecture_runs(code: str, claimed: str, runs: bool) -> None:
    assert device._runs_on(code, claimed) is runs


def test_names_in_a_sentence() -> None:
    assert some(["a", "b", "c", "d"]) == "a, b, c, d"
    assert some(["a", "b", "c", "d"], 3) == "a, b, c and 1 more"
    assert some([]) == "nothing in particular"


def test_rules_are_selected_by_id_and_family() -> None:
    assert {rule.family for rule in selected_rules(["layout", "metadata"], ["layout"])} == {
        "metadata"
    }
    assert [rule.id for rule in selected_rules(["run-import"])] == ["run-import"]
    with pytest.raises(ValueError, match="did you mean layout"):
        selected_rules(["layuot"])


def test_where_a_rule_is_described() -> None:
    assert link(all_rules()[0]).endswith("check-rules.md#layout-builds")
    assert "### layout-package" in page()


def test_tables_have_a_date() -> None:
    assert table("required_variants")["date"] == "2026-08"


def test_the_stable_abi_of_python_is_known() -> None:
    assert "Py_NewRef" in {symbol.name for symbol in extra("abi3info").FUNCTIONS}


def test_arguments_and_output_of_the_command() -> None:
    assert names(["layout,metadata-name", "run"]) == ["layout", "metadata-name", "run"]
    assert printable("a\x1b[2Jb") == "a\\x1b[2Jb"
