"""The kernels on a GPU where there is one, else in Triton's interpreter on the CPU."""

import importlib.util
import os
from types import ModuleType

import pytest
import torch

from kernels_bundled_triton import bundled_mapping
from kernels_core import get_local_kernel


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def kernel(device: torch.device) -> ModuleType:
    # Not `importorskip`: Triton's interpreter needs NumPy, and must not be skipped without it.
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton: pip install triton")
    if device.type == "cpu" and "TRITON_INTERPRET" not in os.environ:
        pytest.skip("needs a GPU, or Triton's interpreter: set TRITON_INTERPRET=1")
    repository = bundled_mapping(device.type)["RMSNorm"][device.type].repo_path
    return get_local_kernel(repository, backend=device.type)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
