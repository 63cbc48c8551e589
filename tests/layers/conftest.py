"""Fixtures for tests that kernelize real modules with kernels from real repositories."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernels_core import LocalLayerRepository, use_kernel_mapping

MakeKernel = Callable[..., Callable[[str], LocalLayerRepository]]


@pytest.fixture(autouse=True)
def _empty_mapping() -> Iterator[None]:
    """Tests register what they need and leave nothing behind."""
    with use_kernel_mapping({}, inherit_mapping=False):
        yield


@pytest.fixture
def make_kernel(make_repository: Callable[..., Path]) -> MakeKernel:
    """Write a kernel repository from the source of its layers.

    Returns what makes a LocalLayerRepository for one of the layers, by name.
    """

    def make(
        layers: str, *, variant: str = "torch-cpu", name: str = "kernel"
    ) -> Callable[[str], LocalLayerRepository]:
        source = "import torch\nfrom torch import nn\n\n" + textwrap.dedent(layers)
        files = {
            "__init__.py": "from . import layers\n\n__all__ = ['layers']\n",
            "layers.py": source,
        }
        path = make_repository({variant: files}, name=name)
        return lambda layer_name: LocalLayerRepository(path, layer_name=layer_name)

    return make


@pytest.fixture
def scaled(make_kernel: MakeKernel) -> Callable[[str], LocalLayerRepository]:
    """Layers with the forward of `Scale`, times a factor that shows which of them ran."""
    return make_kernel(
        """
        class Times10(nn.Module):
            weight: torch.Tensor
            can_torch_compile = True

            def forward(self, x):
                return 10 * self.weight * x


        class Times100(nn.Module):
            can_torch_compile = True

            def forward(self, x):
                return 100 * self.weight * x


        class InferenceOnly(nn.Module):
            has_backward = False

            def forward(self, x):
                return 1000 * self.weight * x


        class NeedsBias(nn.Module):
            bias: torch.Tensor

            def forward(self, x):
                return x + self.bias


        class TwoArguments(nn.Module):
            def forward(self, x, y):
                return x + y


        class Renamed(nn.Module):
            can_torch_compile = True

            def forward(self, hidden):
                return 7 * self.weight * hidden
        """
    )
