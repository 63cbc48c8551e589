"""This project's own kernel repositories follow the rules, and pass `--run`."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from kernels_core.check import check

ROOT = Path(__file__).parents[2]
CPU = ROOT / "backends/cpu/kernels_backend_cpu/kernels"
TRITON = ROOT / "backends/bundled-triton/kernels_bundled_triton/kernels"

CPU_TESTS = """
import torch
from cpu_layers.layers import RMSNorm, SwiGLUMLP, rotary_pos_emb
from torch.nn import functional

def test_norm():
    layer = RMSNorm()
    layer.weight, layer.variance_epsilon = torch.nn.Parameter(torch.rand(8)), 1e-6
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x), functional.rms_norm(x, (8,), layer.weight, 1e-6))

def test_mlp():
    layer = SwiGLUMLP()
    layer.gate_proj, layer.up_proj = torch.nn.Linear(8, 12), torch.nn.Linear(8, 12)
    layer.down_proj = torch.nn.Linear(12, 8)
    x = torch.randn(3, 8)
    expected = layer.down_proj(functional.silu(layer.gate_proj(x)) * layer.up_proj(x))
    torch.testing.assert_close(layer(x), expected)

def test_rotary():
    q, k = torch.randn(2, 1, 4, 5, 8)
    cos, sin = torch.ones(1, 5, 8), torch.zeros(1, 5, 8)
    torch.testing.assert_close(rotary_pos_emb()(q, k, cos, sin), (q, k))
"""

NATIVE_TESTS = """
import scaled_silu
import torch

def test_silu():
    layer = scaled_silu.layers.ScaledSiLU()
    layer.scale = 2.5
    x = torch.randn(3, 8)
    torch.testing.assert_close(layer(x), 2.5 * torch.nn.functional.silu(x))
"""


@pytest.mark.parametrize("repository", [CPU, TRITON], ids=["cpu", "triton"])
def test_bundled_repositories_break_no_rule(repository: Path) -> None:
    report = check(repository)
    assert not report.findings
    assert report.python_files >= 3


def test_the_layers_for_the_cpu_do_what_they_claim(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    repository = tmp_path / "cpu-layers"
    shutil.copytree(CPU, repository, ignore=shutil.ignore_patterns("__pycache__"))
    (repository / "tests").mkdir()
    (repository / "tests" / "test_layers.py").write_text(CPU_TESTS)
    report = check(repository, run=True)
    assert not report.findings
    assert not report.not_judged


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """What builds the native test kernel."""
    pytest.importorskip("torch")
    pytest.importorskip("elftools")
    if not shutil.which("g++"):
        pytest.skip("needs g++")
    path = ROOT / "tests" / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("native_build_to_check", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_native_test_kernel_does_what_it_claims(builder: ModuleType, tmp_path: Path) -> None:
    repository = tmp_path / "scaled-silu"
    builder.build(repository, stable=True)
    (repository / "tests").mkdir()
    (repository / "tests" / "test_silu.py").write_text(NATIVE_TESTS)
    report = check(repository, run=True)
    assert [each for each in report.findings if each.rule.family != "completeness"] == []
    (reason,) = report.not_judged
    assert "two versions side by side" in reason
