"""The bundled kernels are a kernel repository by the rules."""

import ast
import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import kernels_bundled_triton
from kernels_bundled_triton import bundled_mapping
from kernels_core import get_kernel_variants
from kernels_core.layers.validation import check_layer, required_members

REPOSITORY = Path(kernels_bundled_triton.__file__).parent / "kernels"
VARIANT = REPOSITORY / "build" / "torch-universal"
SOURCES = sorted(VARIANT.rglob("*.py"))
MEMBERS = {
    "CrossEntropyLoss": ("weight", "ignore_index", "reduction", "label_smoothing"),
    "FusedAddRMSNorm": ("weight", "variance_epsilon"),
    "GEGLUMLP": ("gate_proj", "up_proj", "down_proj", "act_fn"),
    "GeluAndMul": (),
    "GeluTanhAndMul": (),
    "LayerNorm": ("weight", "bias", "eps", "normalized_shape"),
    "RMSNorm": ("weight", "variance_epsilon"),
    "SiluAndMul": (),
    "SwiGLUMLP": ("gate_proj", "up_proj", "down_proj"),
    "rotary_pos_emb": (),
}


def test_the_mapping_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels_bundled_triton, "find_spec", lambda name: None)
    assert bundled_mapping("cuda") == {}
    monkeypatch.setattr(kernels_bundled_triton, "find_spec", lambda name: name)
    mapping = bundled_mapping("xpu")
    assert sorted(mapping) == sorted(MEMBERS)
    for name, devices in mapping.items():
        assert {device: one.layer_name for device, one in devices.items()} == {"xpu": name}


def test_there_is_one_build_and_it_fits_every_backend() -> None:
    (decision,) = get_kernel_variants(REPOSITORY, backend="cpu")
    assert (decision.name, decision.accepted) == ("torch-universal", True)


def test_the_namespace_of_the_operators_follows_the_sources() -> None:
    digest = hashlib.sha256()
    for file in SOURCES:
        if file.name != "_namespace.py":
            digest.update(file.relative_to(VARIANT).as_posix().encode() + b"\0")
            digest.update(file.read_bytes())
    expected = f"_bundled_triton_{digest.hexdigest()[:8]}"
    wrong = f"the sources changed: make the namespace {expected!r} in both files"
    assert json.loads((VARIANT / "metadata.json").read_text())["id"] == expected, wrong
    assert f'NAMESPACE = "{expected}"' in (VARIANT / "_namespace.py").read_text(), wrong


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_layers_are_pure_and_claim_everything(kernel: ModuleType, name: str) -> None:
    layer = getattr(kernel.layers, name)
    check_layer(layer, repository="bundled", name=name)
    assert layer.has_backward
    assert layer.can_torch_compile
    assert required_members(layer) == MEMBERS[name]


def test_the_package_exports_its_layers_and_functions(kernel: ModuleType) -> None:
    assert "layers" in kernel.__all__
    assert all(hasattr(kernel, name) for name in kernel.__all__)
    module = kernel.layers
    own = [value for value in vars(module).values() if isinstance(value, type)]
    assert sorted(one.__name__ for one in own if one.__module__ == module.__name__) == sorted(
        MEMBERS
    )


@pytest.mark.parametrize("file", SOURCES, ids=lambda path: path.name)
def test_the_code_keeps_to_python_3_9_and_to_allowed_imports(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 9))
    allowed = {"torch", "triton", *sys.stdlib_module_names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {name.name.partition(".")[0] for name in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert str(node.module).partition(".")[0] in allowed
