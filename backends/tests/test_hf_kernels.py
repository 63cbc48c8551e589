"""Hugging Face `kernels` loads the kernel repositories that our distributions provide."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("kernels", reason="needs Hugging Face kernels: pip install kernels")

BACKENDS = Path(__file__).parents[1]
CPU = BACKENDS / "cpu/kernels_backend_cpu/kernels"
TRITON = BACKENDS / "bundled-triton/kernels_bundled_triton/kernels"

# In a process of its own: a kernel that both of us import would define its operators twice.
PROGRAM = """
import json, sys
from pathlib import Path
import torch
from kernels import get_local_kernel

kernel = get_local_kernel(Path(sys.argv[1]), backend="cpu")
layer = kernel.layers.RMSNorm
assert layer.can_torch_compile and layer.has_backward
print(json.dumps([kernel.__file__, layer.__name__]))
"""


@pytest.mark.parametrize("repository", [CPU, TRITON], ids=["cpu", "triton"])
def test_it_loads_our_repositories(repository: Path, tmp_path: Path) -> None:
    if repository == TRITON and find_spec("triton") is None:
        pytest.skip("needs Triton")
    command = [sys.executable, "-c", PROGRAM, str(repository)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (variant,) = (repository / "build").iterdir()
    assert json.loads(done.stdout) == [str(variant / "__init__.py"), "RMSNorm"]
