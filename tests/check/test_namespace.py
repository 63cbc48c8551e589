"""Rules about the namespaces of operators, found in source that is never run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kernels_core.check import check
from kernels_core.check.facts.operators import unique_part

MakeBuild = Callable[..., Path]

FAMILY = ["namespace"]


def found(repository: Path) -> list[tuple[str, str]]:
    """The rule and the file of each finding."""
    findings = check(repository, select=FAMILY).findings
    return [(each.rule.id, each.problem.path.rpartition("/")[2]) for each in findings]


def metadata(identifier: str, **more: Any) -> dict[str, Any]:
    return {"name": "relu", "id": identifier, **more}


ID = "_relu_605f22e"

# How the `_ops.py` of published builds look, and those of this project.
STYLES = {
    "native": f"import torch\nfrom . import {ID}\nops = torch.ops.{ID}\n",
    "prefix": f"import torch\ndef prefixed(name):\n    return f'{ID}::{{name}}'\n"
    "@torch.library.register_fake(prefixed('relu'))\ndef fake(x): ...\n",
    "found": "import torch\ndef backend(): return 'cpu' if torch.x else 'y'\n"
    "def _find_ops_name() -> str:\n    kernel_name = '_relu'\n    unique_id = '605f22e'\n"
    "    return f'{kernel_name}_{unique_id}'\n"
    "_OPS_NAME = _find_ops_name()\nops = getattr(torch.ops, _OPS_NAME)\n",
    "constant": "import torch\nfrom ._namespace import NAMESPACE\n"
    "_OPERATOR = getattr(torch.ops, NAMESPACE).relu\n"
    "@torch.library.custom_op(f'{NAMESPACE}::relu', mutates_args=())\ndef f(x): ...\n",
    "module": "from torch import library as lib\nfrom . import _namespace as n\n"
    "library = lib.Library(n.NAMESPACE, 'FRAGMENT')\n",
    "class": "from torch.library import triton_op\nfrom ._namespace import NAMESPACE\n"
    "class Operator:\n    def __init__(self, body):\n        name = body.__name__\n"
    "        self.op = triton_op(f'{NAMESPACE}::{name}', body, mutates_args=())\n",
}
NAMESPACE = f"NAMESPACE = '{ID}'\n"


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
def test_the_ways_in_which_builds_name_their_operators_are_read(
    make_build: MakeBuild, style: str
) -> None:
    files = {"__init__.py": "from . import _ops", "_ops.py": style, "_namespace.py": NAMESPACE}
    repository = make_build("torch-cuda", files, metadata(ID))
    assert not found(repository)
    make_build("torch-xpu", files, metadata("_relu_0000000"))
    (finding,) = check(repository, select=FAMILY).findings
    assert finding.rule.id == "namespace-declared"
    assert f"torch.ops.{ID}" in finding.problem.message
    assert "_relu_0000000" in finding.problem.message


@pytest.mark.parametrize("style", ["native", "prefix", "constant", "module", "class", "found"])
def test_without_metadata_the_code_tells_the_namespace(make_build: MakeBuild, style: str) -> None:
    files = {
        "__init__.py": "",
        "_ops.py": STYLES[style].replace("605f22e", "fast"),
        "_namespace.py": NAMESPACE.replace("605f22e", "fast"),
    }
    repository = make_build("torch-cuda", files)
    assert found(repository) == [("namespace-unique", "_ops.py")]


def test_a_name_that_only_running_tells_is_compared_as_far_as_it_is_known(
    make_build: MakeBuild,
) -> None:
    style = (
        "import torch\ndef get_backend() -> str:\n    if torch.version.cuda: return 'cuda'\n"
        "    return 'cpu'\ndef _find_ops_name() -> str:\n    unique_id = '605f22e'\n"
        "    backend = get_backend()\n    return f'_relu_{backend}_{unique_id}'\n"
        "_OPS_NAME = _find_ops_name()\nops = getattr(torch.ops, _OPS_NAME)\n"
    )
    files = {"__init__.py": "", "_ops.py": style}
    for backend in ("cpu", "cuda", "rocm"):
        repository = make_build(f"torch-{backend}", files, metadata(f"_relu_{backend}_605f22e"))
    assert not found(repository)
    make_build("torch-xpu", files, metadata("_relu_xpu_1111111"))
    assert found(repository) == [("namespace-declared", "_ops.py")]


@pytest.mark.parametrize(
    "code",
    [
        "torch.ops.aten.relu(x)",
        "torch.ops.load_library(path)",
        "getattr(torch.ops, unknown()).relu",
        "torch.library.Library(unknown(), 'DEF')",
        "torch.library.register_fake(op)",
        "ops.relu(x)",
        "other.library.Library('relu', 'DEF')",
    ],
)
def test_what_is_no_namespace_of_the_kernel_is_no_finding(make_build: MakeBuild, code: str) -> None:
    repository = make_build(
        "torch-cuda", {"__init__.py": f"import torch\n{code}"}, metadata("relu")
    )
    assert not found(repository)


@pytest.mark.parametrize(
    "code",
    [
        "torch.library.Library('aten', 'IMPL')",
        "@torch.library.impl('aten::relu', 'CPU')\ndef f(x): ...",
        "torch.ops._C.relu(x)",
        "torch.library.define('other::relu', '(Tensor x) -> Tensor')",
    ],
)
def test_operators_of_others_are_found(make_build: MakeBuild, code: str) -> None:
    files = {"__init__.py": f"import torch\n{code}"}
    assert found(make_build("torch-cuda", files, metadata(ID))) == [
        ("namespace-declared", "__init__.py")
    ]


def test_operators_of_a_declared_dependency_may_be_used(make_build: MakeBuild) -> None:
    depends = metadata(ID, **{"python-depends": ["torchvision"]})
    files = {"__init__.py": "import torch\ntorch.ops.torchvision.nms(x)"}
    assert not found(make_build("torch-cuda", files, depends))


def test_the_id_of_a_build_with_native_code_must_be_unique(make_build: MakeBuild) -> None:
    files = {"__init__.py": "", "relu.abi3.so": b""}
    repository = make_build("torch213-cpu-x86_64-linux", files, metadata("relu"))
    assert found(repository) == [("namespace-unique", "metadata.json")]


def test_the_id_of_a_build_without_operators_names_nothing(make_build: MakeBuild) -> None:
    assert not found(make_build("torch-cuda", {"__init__.py": ""}, metadata("relu_v1")))


@pytest.mark.parametrize(
    "namespace",
    [
        "_activation_605f22e",
        "_activation_metal_f14618a",
        "_activation_bb220cf_dirty",
        "_activation_20250907180255",
        "_relu_ovrlr7jxwjvag",
        "_relu_bskbrwhquwofy",
        "_scaled_silu_1234567",
        "_relu_deadbeef",
    ],
)
def test_hashes_and_random_texts_tell_builds_apart(namespace: str) -> None:
    assert unique_part(namespace)


@pytest.mark.parametrize(
    "namespace",
    [
        "activation",
        "_activation_v1",
        "_activation_1_2_0",
        "flash_attn3",
        "_gemm_float16",
        "_gemm_bfloat16",
        "_relu_torch213",
        "_relu_sm90a",
        "quantization",
        "paged_attention",
        "_relu_cuda",
        "_relu_dirty",
        "relu_transformation",
        "_relu_v20250101",
    ],
)
def test_words_and_versions_do_not(namespace: str) -> None:
    assert not unique_part(namespace)


@pytest.mark.parametrize(
    ("identifier", "part"), [("_relu_v2_605f22e", "v2"), ("_relu_12_605f22e", "12")]
)
def test_a_version_beside_the_hash_is_found(
    make_build: MakeBuild, identifier: str, part: str
) -> None:
    files = {"__init__.py": f"import torch\ntorch.ops.{identifier}"}
    repository = make_build("torch-cuda", files, metadata(identifier))
    (finding,) = check(repository, select=FAMILY).findings
    assert finding.rule.id == "namespace-version"
    assert repr(part) in finding.problem.message


def test_a_number_in_the_kernels_own_name_is_no_version(make_build: MakeBuild) -> None:
    files = {"__init__.py": "import torch\ntorch.ops._mamba_2_605f22e"}
    about = {"name": "mamba-2", "id": "_mamba_2_605f22e"}
    assert not found(make_build("torch-cuda", files, about))


USING = {"__init__.py": f"import torch\nops = torch.ops.{ID}"}


@pytest.mark.parametrize(
    "variants",
    [
        ("torch-cpu", "torch-cuda"),
        ("torch-cpu", "torch-universal"),
        ("torch-cuda", "torch-universal"),
        ("torch213-cxx11-cpu-x86_64-linux", "torch213-cxx11-cu130-x86_64-linux"),
        ("torch-stable-abi210-cpu-x86_64-linux", "torch213-cxx11-cu130-x86_64-linux"),
        ("torch213-cpu-aarch64-darwin", "torch213-metal-aarch64-darwin"),
    ],
)
def test_builds_that_meet_in_a_process_must_not_share_a_namespace(
    make_build: MakeBuild, variants: tuple[str, ...]
) -> None:
    for variant in variants:
        repository = make_build(variant, USING, metadata(ID))
    (finding,) = check(repository, select=FAMILY).findings
    assert finding.rule.id == "namespace-shared"
    assert finding.variant in variants
    (other,) = set(variants) - {finding.variant}
    assert other in finding.problem.message


@pytest.mark.parametrize(
    "variants",
    [
        ("torch-cuda", "torch-rocm", "torch-xpu"),
        ("torch213-cxx11-cu126-x86_64-linux", "torch213-cxx11-cu130-x86_64-linux"),
        ("torch212-cxx11-cpu-x86_64-linux", "torch213-cxx11-cu130-x86_64-linux"),
        ("torch213-cxx11-cpu-aarch64-linux", "torch213-cxx11-cu130-x86_64-linux"),
        ("torch213-cpu-aarch64-darwin", "torch213-cxx11-cu130-x86_64-linux"),
        ("torch-stable-abi213-cpu-x86_64-linux", "torch212-cxx11-cu130-x86_64-linux"),
        ("torch213-cxx11-cpu-x86_64-linux", "torch-stable-abi210-cpu-x86_64-linux"),
        ("tvm-ffi01-cpu-x86_64-linux", "torch213-cu130-x86_64-linux"),
    ],
)
def test_builds_that_never_meet_may_share_one(
    make_build: MakeBuild, variants: tuple[str, ...]
) -> None:
    for variant in variants:
        repository = make_build(variant, USING, metadata(ID))
    assert not found(repository)


@pytest.mark.parametrize(
    "source",
    [
        "a0 = 'x'\n" + "\n".join(f"a{i + 1} = a{i} + a{i}" for i in range(200)) + "\nname = a200",
        "def f(x): return f(x) + f(x)\nname = f('x')",
        "name = name",
        "a = b\nb = a\nname = a",
        "name = " + " + ".join(["'x'"] * 3000),
        "from . import name\nfrom ._ops import name",
    ],
)
def test_names_that_never_end_are_not_followed_for_ever(make_build: MakeBuild, source: str) -> None:
    code = f"import torch\n{source}\nops = getattr(torch.ops, name)\n"
    assert not found(make_build("torch-cuda", {"__init__.py": "", "_ops.py": code}))
