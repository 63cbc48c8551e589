"""Rules about Python source: what old Pythons run, and what is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels_core.check import Finding, check
from kernels_core.check.facts.python_files import read_python_file
from kernels_core.check.facts.repository import read_repository

MakeBuild = Callable[..., Path]
Judge = Callable[..., list[Finding]]

FAMILY = "python"


@pytest.fixture
def judge(make_build: MakeBuild) -> Judge:
    """The findings of a module `relu.py` in a build whose package imports it."""

    def judged(
        source: str | bytes, metadata: dict[str, Any] | None = None, **more: str
    ) -> list[Finding]:
        files = {"__init__.py": "from . import relu", "relu.py": source, **more}
        repository = make_build("torch-universal", files, metadata)
        return list(check(repository, select=[FAMILY]).findings)

    return judged


def rules(findings: list[Finding]) -> list[str]:
    return [each.rule.id for each in findings]


COMPLIANT = [
    "from __future__ import annotations\n\ndef f(x: int | None) -> list[int] | None: ...",
    "from __future__ import annotations\n\nclass A:\n    x: int | None = None",
    "def f(x: 'int | None') -> 'list[int] | None': ...",
    "def f():\n    x: int | None = None\n    return x",
    "def f():\n    self.x: int | None = None",
    "from typing import Optional\n\ndef f(x: Optional[int]): return x | 2",
    "from typing import Literal\n\ndef f(x: Literal[1 | 2]): ...",
    "from typing import Annotated\n\ndef f(x: Annotated[int, A | B]): ...",
    "mask = flags | other",
    "if isinstance(x, (int, float)): pass",
    "try:\n    Alias = int | None\nexcept TypeError:\n    Alias = object",
    "import sys\n\nif sys.version_info >= (3, 10):\n    Alias = int | None",
    "import sys\n\nAlias = int | None if sys.version_info >= (3, 10) else object",
    "with (open(a) as f, open(b) as g): pass",
    "x[(*a, 1)]",
    "x[(y := 1)]",
    "@a[0].b\ndef f(a, /, b): return {**a} | b",
    "f'{a[\"b\"]!r:>{width}}' 'it''s'",
    "f'''{a['b']\n}'''",
    "match = case = type = 1\nmatch[case], type(_)",
    "from itertools import chain",
    "import sys\n\nif sys.version_info >= (3, 11):\n    import tomllib",
    "try:\n    from itertools import pairwise\nexcept ImportError:\n    pairwise = None",
    "try:\n    import tomllib\nexcept ModuleNotFoundError:\n    tomllib = None",
    "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from typing import TypeAlias",
    "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import numpy\nelse:\n    import os",
    "import typing as t\n\nif not t.TYPE_CHECKING:\n    import os\nelse:\n    import numpy",
    "def anext(x): ...\n\nanext(1)",
    "def zip(*a, strict): ...\n\nzip(strict=True)",
    "from .strict import dataclass\n\n@dataclass(slots=True)\nclass A: ...",
    "import contextlib\n\nwith contextlib.suppress(ImportError):\n    import imp",
    "import math, torch.nn, triton.language as tl\nfrom torch.library import triton_op",
    "from . import strict\nfrom .strict import x\nimport importlib\n"
    "importlib.import_module('.strict', __package__)",
    "import importlib\n\nimportlib.import_module(name)\n__import__(f'{name}.x')",
    "import importlib\n\nimportlib.import_module(f'.{name}', __package__)",
    "import importlib\n\nimportlib.import_module(f'torch.{name}')",
    "# coding: latin-1\nname = 'é'".encode("latin-1"),
    "\ufeffx = 1\r\ny = 2\r\n",
    "",
]


@pytest.mark.parametrize("source", COMPLIANT)
def test_what_python_39_runs_is_no_finding(judge: Judge, source: str | bytes) -> None:
    assert not judge(source, **{"strict.py": "x = 1"})


SYNTAX = [
    ("match x:\n    case 1: pass", 1),
    ("x = 1\ntry: pass\nexcept* ValueError: pass", None),
    ("x = 1\ntype X = int", 2),
    ("def f[T](x: T): ...", 1),
    ("class A[T]: ...", 1),
    ("x[*y]", 1),
    ("x[1, *y]", 1),
    ("def f(*args: *Ts): ...", 1),
    ("x[y := 1]", 1),
    ("f'{a['b']}'", 1),
    ("x = 1\nf'{\"\\n\".join(a)}'", 2),
    ("f'''{\na # why\n}'''", None),
    ("f'{\na}'", 1),
    ('f"{f"{a}"}"', 1),
    ("def f(:", 1),
    ("if True:\nx = 1", 2),
    ("print 'x'", 1),
    ("x = 1\0", None),
    (b"x = '\xff'", 1),
    ("# coding: no-such-encoding\nx = 1", 1),
    ("# coding: hex\n00", 1),
    ("-" * 100_000 + "1", None),
    ("1" + "+1" * 500_000, None),
    ("a" + ".b" * 500_000, None),
    ("x = 1\n" * 800_000, None),
    ("(" * 1000, 1),
]


@pytest.mark.parametrize(("source", "line"), SYNTAX)
def test_what_python_39_cannot_parse_is_found(
    judge: Judge, source: str | bytes, line: int | None
) -> None:
    (finding,) = judge(source)
    assert finding.rule.id == "python-syntax"
    assert finding.problem.path == "build/torch-universal/relu.py"
    assert line in (None, finding.problem.line)
    assert finding.problem.message


def test_each_place_with_new_syntax_is_named(judge: Judge) -> None:
    found = judge("match x:\n    case 1: pass\n\nmatch x[y := 1]:\n    case 2: pass")
    assert [each.problem.line for each in found] == [1, 4, 4]


UNIONS = [
    ("def f(x: int | None): ...", "'int | None' is evaluated in an annotation"),
    ("def f(*, x: int = 1) -> A | B: ...", "A | B"),
    ("def f(x: List[int | A]): ...", "int | A"),
    ("class A:\n    x: int | None = None", "int | None"),
    ("def f():\n    class A:\n        x: B | C", "B | C"),
    ("x: 'A' | None = None", "'A' | None"),
    ("self.x: A | B = 1", "A | B"),
    ("isinstance(x, A | B)", "a call of isinstance"),
    ("def f():\n    return issubclass(x, int | float)", "a call of issubclass"),
    ("Number = int | float | None", "int | float | None"),
    ("import torch\nA = torch.Tensor | B", "torch.Tensor | B"),
    ("from typing import List, cast\ncast(List[int] | B, x)", "List[int] | B"),
    (
        "from __future__ import annotations\nimport torch\n"
        "@torch.library.custom_op('a::b', mutates_args=())\ndef f(x: A | None) -> A: ...",
        "A | None",
    ),
    (
        "from torch.library import triton_op\n"
        "@triton_op('a::b', mutates_args=())\ndef f(x: 'A | None') -> A: ...",
        "A | None",
    ),
]


@pytest.mark.parametrize(("source", "text"), UNIONS)
def test_a_union_that_is_evaluated_is_found_once(judge: Judge, source: str, text: str) -> None:
    (finding,) = judge(source)
    assert finding.rule.id == "python-evaluated-union"
    assert text in finding.problem.message
    lines = source.splitlines()
    assert "|" in lines[(finding.problem.line or 0) - 1]


TOO_NEW = [
    ("from typing import Optional, TypeAlias", "typing.TypeAlias"),
    ("import typing\nx: typing.Self", "typing.Self"),
    ("import itertools as it\nit.pairwise(x)", "itertools.pairwise"),
    ("import tomllib", "tomllib"),
    ("def f():\n    import tomllib", "tomllib"),
    ("zip(a, b, strict=True)", "zip(strict=)"),
    ("from dataclasses import dataclass\n@dataclass(slots=True)\nclass A: ...", "slots"),
    ("import dataclasses as d\n@d.dataclass(kw_only=True)\nclass A: ...", "kw_only"),
    ("int.bit_count(5)", "int.bit_count"),
    ("raise ExceptionGroup('a', b)", "ExceptionGroup"),
    ("from enum import StrEnum", "enum.StrEnum"),
    ("import sys\nif sys.version_info < (3, 10):\n    import tomllib", "tomllib"),
    ("try:\n    import os\nexcept ImportError:\n    import tomllib", "tomllib"),
]


@pytest.mark.parametrize(("source", "name"), TOO_NEW)
def test_names_that_came_after_python_39_are_found(judge: Judge, source: str, name: str) -> None:
    (finding,) = judge(source)
    assert finding.rule.id == "python-too-new"
    assert name in finding.problem.message


IMPORTS = [
    ("import imp", "python-removed-module", "imp"),
    ("def f():\n    from distutils import core", "python-removed-module", "distutils"),
    ("import activation", "python-absolute-self-import", "activation"),
    ("from activation.layers import x", "python-absolute-self-import", "activation.layers"),
    ("import strict", "python-absolute-self-import", "strict"),
    (
        "import importlib\nimportlib.import_module('activation.x')",
        "python-absolute-self-import",
        "a",
    ),
    ("import numpy as np", "python-import-foreign", "numpy"),
    ("import relu", "python-import-foreign", "relu"),
    ("def f():\n    from einops import rearrange", "python-import-foreign", "einops"),
    ("class A:\n    def f(self):\n        import einops.x", "python-import-foreign", "einops.x"),
    ("from importlib import import_module\nimport_module('einops')", "python-import-foreign", "e"),
    ("__import__('einops')", "python-import-foreign", "einops"),
    ("import importlib\nimportlib.import_module(f'einops.{x}')", "python-import-foreign", "e"),
    ("import kernels", "python-import-foreign", "kernels"),
    ("try:\n    x()\nexcept ValueError:\n    import einops", "python-import-foreign", "einops"),
    ("try:\n    import einops\nexcept ImportError: pass", "python-import-optional", "einops"),
    ("try:\n    import einops\nexcept: pass", "python-import-optional", "einops"),
    (
        "from importlib.util import find_spec\nif find_spec('einops'):\n    import einops",
        "python-import-optional",
        "einops",
    ),
    ("from .. import x", "python-import-above", ".."),
    ("from ...x import y", "python-import-above", "...x"),
    ("from .missing import x", "python-import-missing", ".missing"),
    ("def f():\n    from .strict.missing import x", "python-import-missing", ".strict.missing"),
    (
        "import importlib\nimportlib.import_module('.missing', __name__)",
        "python-import-missing",
        "",
    ),
]


@pytest.mark.parametrize(("source", "rule", "name"), IMPORTS)
def test_a_forbidden_import_is_found_once(judge: Judge, source: str, rule: str, name: str) -> None:
    (finding,) = judge(source, **{"strict.py": "x = 1"})
    assert finding.rule.id == rule
    assert name in finding.problem.message
    assert finding.problem.line == source.rstrip().count("\n") + 1 - source.endswith("pass")


@pytest.mark.parametrize(
    ("declared", "imported"),
    [
        ("einops", "einops"),
        ("einops>=0.7", "einops.layers"),
        ("nvidia-cutlass-dsl==4.2", "cutlass.cute"),
        ("flash-attn", "flash_attn"),
        ("Pillow", "PIL.Image"),
        ("PyYAML", "yaml"),
        ("apache-tvm-ffi", "tvm_ffi"),
        ("ruamel.yaml", "ruamel.yaml"),
    ],
)
def test_what_metadata_declares_may_be_imported(judge: Judge, declared: str, imported: str) -> None:
    assert not judge(f"import {imported}", {"name": "relu", "python-depends": [declared]})


def test_a_kernel_with_kernels_that_it_needs_may_import_a_loader(judge: Judge) -> None:
    needs = {"kernel-depends": [{"repo-id": "org/activation", "version": 1}]}
    assert not judge("from kernels_core import get_kernel_dep", needs)


def test_a_repository_that_is_named_like_a_standard_module_imports_that(tmp_path: Path) -> None:
    build = tmp_path / "random" / "build" / "torch-universal"
    build.mkdir(parents=True)
    (build / "__init__.py").write_text("import random, torch")
    assert not check(build, select=[FAMILY]).findings


def test_dependencies_are_not_judged_by_metadata_that_cannot_be_read(judge: Judge) -> None:
    assert not judge("import einops", {"python-depends": "einops"})


SHIM = """
import importlib.util
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("x", Path(__file__).parent.parent / "__init__.py")
"""


def test_the_layouts_of_published_builds_pass(make_build: MakeBuild) -> None:
    native = "torch210-cxx11-cpu-x86_64-linux"
    files = {
        "__init__.py": "from . import layers\nfrom ._ops import ops",
        "_ops.py": "import torch\nfrom . import _relu_605f22e\nops = torch.ops._relu_605f22e",
        "_relu_605f22e.abi3.so": b"\x7fELF",
        "layers.py": "from ._ops import ops",
    }
    make_build(native, {**files, "relu/__init__.py": SHIM})
    older = {f"relu/{name}": content for name, content in files.items()}
    repository = make_build(
        "torch26-cxx98-cu118-x86_64-linux",
        {
            **older,
            "relu/deep/__init__.py": "from .. import layers\nfrom .inner import f",
            "relu/deep/inner.py": "from .._ops import ops\nfrom ..deep import x\nf = 1",
        },
    )
    assert not check(repository, select=[FAMILY]).findings


def test_relative_imports_of_an_older_build_end_at_its_package(make_build: MakeBuild) -> None:
    files = {"relu/__init__.py": "from .. import x\n", "relu/a/b.py": "from ...relu import x\n"}
    repository = make_build("torch26-cxx98-cu118-x86_64-linux", files)
    found = check(repository, select=[FAMILY]).findings
    assert rules(list(found)) == ["python-import-above"] * 2


def test_nothing_of_the_build_is_run(judge: Judge, tmp_path: Path) -> None:
    assert not judge(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert not (tmp_path / "ran").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_judged(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    build = tmp_path_factory.mktemp("any") / "build" / "torch-universal"
    build.mkdir(parents=True)
    (build / "__init__.py").write_bytes(content)
    check(build, select=["python", "namespace", "layers"])


VOCABULARY = (
    "def class if else try: except ImportError: import from . .. x y f( ) [ ] { } : = := | * ** @ "
    "-> , f' ' \" match case type lambda int None __all__ layers nn.Module self.x torch torch.ops "
    "ns getattr isinstance TYPE_CHECKING sys.version_info >= (3,10) "
)
WORDS = st.sampled_from([*VOCABULARY.split(), "\n", "\n    "])


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=25))
def test_what_resembles_python_is_judged(
    tmp_path_factory: pytest.TempPathFactory, words: list[str]
) -> None:
    build = tmp_path_factory.mktemp("any") / "build" / "torch-universal"
    build.mkdir(parents=True)
    (build / "__init__.py").write_text(" ".join(words))
    (build / "layers.py").write_text(" ".join(reversed(words)))
    check(build, select=["python", "namespace", "layers"])


def test_a_file_of_python_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    directory = tmp_path / "build" / "torch-universal"
    directory.mkdir(parents=True)
    (directory / "__init__.py").touch()
    (build,) = read_repository(tmp_path).builds
    read = read_python_file("build/torch-universal/gone.py", directory / "gone.py", build)
    assert "cannot be read" in read.unparsable


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older Pythons refuse all of these")
@pytest.mark.parametrize(
    "source",
    [
        "f'{x:{y['z']}}'",
        "f'{x + f\"{y['z']}\"}'",
        "f'''{x['''y''']}'''",
        "f'{x!r:{chr(10) if '\\n' else 1}}'",
    ],
)
def test_new_f_strings_are_found_though_they_can_be_parsed(judge: Judge, source: str) -> None:
    assert rules(judge(source)) == ["python-syntax"]


def test_the_python_of_a_build_is_read_up_to_a_limit(make_build: MakeBuild) -> None:
    comments = "#" * (3 << 20)
    files = {"__init__.py": "", **{f"{name}.py": comments for name in "abcd"}}
    (finding,) = check(make_build("torch-universal", files), select=[FAMILY]).findings
    assert finding.problem.path == "build/torch-universal/c.py"
    assert "8 MiB" in finding.problem.message
