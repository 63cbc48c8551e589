"""Models of the installed transformers with kernels, through `import kernels`.

`nox -s compat` runs this file with several versions of transformers and with all architectures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from compat.norm import NORM

PROGRAM = Path(__file__).with_name("transformers_program.py")
MODELS = os.environ.get("COMPAT_MODELS", "llama,mixtral,mamba2").split(",")

# How many norms are of the kind that the kernel is for. Those of gemma3 add one to their weight;
# mamba2 and bert have others, which transformers does not mark.
NORMS = {"gpt_oss": 5, "llama": 5, "mixtral": 5, "qwen3": 9}


@pytest.mark.parametrize("model", MODELS)
def test_models_train_generate_and_copy_with_kernels(
    model: str, make_repository: Callable[..., Path], tmp_path: Path
) -> None:
    repository = make_repository({"torch-universal": {"__init__.py": NORM}}, name="norms")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(repository), model],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["models"][model]
    norms = NORMS.get(model)
    assert found.pop("kernels") == ({"RMSNorm": norms} if norms else {})
    assert found.pop("without gradient") == 0
    assert len(found) >= 6
    assert [name for name, holds in found.items() if holds is not True] == []
