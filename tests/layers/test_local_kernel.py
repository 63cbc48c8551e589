"""`get_local_kernel` where torch and the backend for the CPU are really installed."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kernels_core import get_kernel_variants, get_local_kernel

MakeRepository = Callable[..., Path]

SILU = """
import torch
import torch.nn.functional as F

from . import layers


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
"""
LAYERS = """
from torch import Tensor, nn


class SiluAndMul(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        from . import silu_and_mul

        return silu_and_mul(x)
"""
FILES = {"__init__.py": SILU, "layers.py": LAYERS}


@pytest.mark.parametrize("prefix", ["", "activation/"])
def test_a_kernel_of_either_layout_computes(make_repository: MakeRepository, prefix: str) -> None:
    files = {prefix + name: source for name, source in FILES.items()}
    kernel = get_local_kernel(make_repository({"torch-cpu": files}), backend="cpu")
    x = torch.randn(3, 8)
    expected = torch.nn.functional.silu(x[:, :4]) * x[:, 4:]
    torch.testing.assert_close(kernel.silu_and_mul(x), expected)
    torch.testing.assert_close(kernel.layers.SiluAndMul()(x), expected)


def test_two_builds_with_the_same_names_do_not_mix(make_repository: MakeRepository) -> None:
    register = """
import torch

library = torch.library.Library(__name__, "DEF")
library.define("twice(Tensor x) -> Tensor")
library.impl("twice", lambda x: {factor} * x, "CPU")
ops = getattr(torch.ops, __name__)
"""
    paths = [
        make_repository({"torch-cpu": {"__init__.py": register.format(factor=factor)}}, name=name)
        for name, factor in (("activation", 2), ("activation-next", 3))
    ]
    kernels = [get_local_kernel(path, backend="cpu") for path in paths]
    x = torch.ones(2)
    assert [kernel.ops.twice(x).tolist() for kernel in kernels] == [[2, 2], [3, 3]]


def test_the_build_for_this_torch_and_machine_is_chosen(make_repository: MakeRepository) -> None:
    major, minor = torch.__version__.split(".")[:2]
    machine = f"{platform.machine()}-{platform.system().lower()}"
    if platform.system() == "Darwin":
        machine = machine.replace("arm64", "aarch64")
    if platform.system() == "Windows":
        machine = machine.replace("AMD64", "x86_64")
    names = [
        f"torch-stable-abi{major}{minor}-cpu-{machine}",
        f"torch-stable-abi20-cpu-{machine}",
        f"torch{major}{minor}-cpu-{machine}",
        "torch-cpu",
        "torch-universal",
        f"torch-stable-abi9{minor}-cpu-{machine}",
    ]
    path = make_repository({name: {"__init__.py": ""} for name in names})
    decisions = get_kernel_variants(path, backend="cpu")
    assert [decision.name for decision in decisions] == names
    assert [decision.accepted for decision in decisions] == [True] * 5 + [False]
    assert torch.__version__ in decisions[-1].reason


def test_importing_get_local_kernel_does_not_import_torch() -> None:
    program = (
        "import sys\n"
        "from kernels_core import get_local_kernel\n"
        "print('torch' in sys.modules, 'huggingface_hub' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"]
