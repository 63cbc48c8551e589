"""Native builds, compiled for real: resolved, loaded, kernelized, compared, and side by side."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from kernels_core import (
    LocalLayerRepository,
    Mode,
    get_kernel_variants,
    get_local_kernel,
    kernelize,
    report,
    use_kernel_forward_from_hub,
)
from kernels_core.errors import NamespaceTakenError

spec = importlib.util.spec_from_file_location("native_build", Path(__file__).with_name("build.py"))
assert spec is not None
assert spec.loader is not None
builder = importlib.util.module_from_spec(spec)
spec.loader.exec_module(builder)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NEEDED = ["g++"] if DEVICE == "cpu" else ["g++", "nvcc"]

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, NEEDED)), reason=f"needs {' and '.join(NEEDED)}"
)


@use_kernel_forward_from_hub("ScaledSiLU")
class ScaledSiLU(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.silu(x)


def build(directory: Path, **how: object) -> Path:
    variant: Path = builder.build(directory, device=DEVICE, **how)
    return variant


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the build for this torch and the one for the stable ABI."""
    directory = tmp_path_factory.mktemp("native") / "scaled-silu"
    build(directory)
    build(directory, stable=True)
    return directory


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 2, for this torch only."""
    directory = tmp_path_factory.mktemp("native") / "scaled-silu"
    build(directory, version=2)
    return directory


def only(both: Path, tmp_path: Path, *, stable: bool) -> Path:
    """A repository with one of the builds."""
    variant = builder.variant_name(DEVICE, stable)
    shutil.copytree(both / "build" / variant, tmp_path / "scaled-silu" / "build" / variant)
    return tmp_path / "scaled-silu"


def check(kernel: ModuleType, factor: float = 1) -> None:
    x = torch.randn(3, 1000, device=DEVICE)
    expected = 2.5 * factor * nn.functional.silu(x.double())
    result = kernel.scaled_silu(x, 2.5)
    torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)


def test_both_builds_fit_and_the_stable_one_is_better(both: Path) -> None:
    decisions = get_kernel_variants(both, backend=DEVICE)
    assert [(one.name, one.accepted) for one in decisions] == [
        (builder.variant_name(DEVICE, stable), True) for stable in (True, False)
    ]


@pytest.mark.parametrize("stable", [False, True], ids=["torch", "stable"])
def test_each_build_loads_and_computes(both: Path, stable: bool) -> None:
    variant = both / "build" / builder.variant_name(DEVICE, stable)
    kernel = get_local_kernel(variant, backend=DEVICE)
    check(kernel)
    operator = getattr(torch.ops, kernel._operators.NAMESPACE).scaled_silu
    torch.library.opcheck(operator, (torch.randn(8, device=DEVICE), 0.5))
    with pytest.raises(RuntimeError, match="takes float32"):
        kernel.scaled_silu(torch.ones(2, device=DEVICE, dtype=torch.float16), 1.0)


def test_a_copy_of_a_build_is_refused_before_it_ends_the_process(
    both: Path, tmp_path: Path
) -> None:
    kernel = get_local_kernel(both, backend=DEVICE)
    copy = only(both, tmp_path, stable=True)
    with pytest.raises(NamespaceTakenError, match="can be loaded once") as raised:
        get_local_kernel(copy, backend=DEVICE)
    assert raised.value.namespace == kernel._operators.NAMESPACE
    assert str(both) in str(raised.value)
    model = ScaledSiLU(2.0)
    mapping = {"ScaledSiLU": {DEVICE: LocalLayerRepository(copy, layer_name="ScaledSiLU")}}
    with pytest.raises(NamespaceTakenError):
        kernelize(model, mode=Mode.INFERENCE, device=DEVICE, mapping=mapping)
    check(get_local_kernel(both, backend=DEVICE))


def test_two_versions_live_side_by_side(both: Path, newer: Path) -> None:
    first = get_local_kernel(both, backend=DEVICE)
    second = get_local_kernel(newer, backend=DEVICE)
    for _ in range(2):
        check(first)
        check(second, factor=2)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_kernelized_layers_use_the_native_code(both: Path, newer: Path, compiled: bool) -> None:
    model = nn.Sequential(nn.Linear(8, 8), ScaledSiLU(0.5), ScaledSiLU(3.0)).to(DEVICE)
    x = torch.randn(4, 8, device=DEVICE)
    mode = Mode.INFERENCE | Mode.TORCH_COMPILE if compiled else Mode.INFERENCE
    with torch.no_grad():
        plain = model(x)
        for repository, factor in ((both, 1), (newer, 2), (both, 1)):
            mapping = {
                "ScaledSiLU": {DEVICE: LocalLayerRepository(repository, layer_name="ScaledSiLU")}
            }
            kernelize(model, mode=mode, device=DEVICE, mapping=mapping, use_fallback=False)
            (row,) = report(model).rows
            assert row.variant == builder.variant_name(DEVICE, stable=factor == 1)
            run = torch.compile(model, fullgraph=True, backend="eager") if compiled else model
            expected = plain
            if factor == 2:
                linear = model[0](x)
                expected = 6.0 * nn.functional.silu(1.0 * nn.functional.silu(linear))
            torch.testing.assert_close(run(x), expected)


def test_a_build_without_its_library_says_so(both: Path, tmp_path: Path) -> None:
    repository = only(both, tmp_path, stable=True)
    (library,) = repository.rglob("*.so")
    library.unlink()
    with pytest.raises(ImportError, match=library.name.partition(".")[0]):
        get_local_kernel(repository, backend=DEVICE)
