"""Models of transformers, which it marked with Hugging Face `kernels` or the program marked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

is_kernels_available = pytest.importorskip(
    "transformers.utils.import_utils", reason="needs transformers"
).is_kernels_available

PROGRAM = Path(__file__).with_name("transformers_program.py")

# Classes and what they get: (kernel, instances). Only Hugging Face `kernels` marks functions, which
# are named after their layer.
ROTARY = {"rotary_pos_emb": ["rotary_pos_emb", 1]}
EXPECTED = {
    "llama": {"LlamaRMSNorm": ["RMSNorm", 5], "LlamaMLP": ["SwiGLUMLP", 2]},
    "qwen3": {"Qwen3RMSNorm": ["RMSNorm", 9], "Qwen3MLP": ["SwiGLUMLP", 2]},
    "gemma": {"GemmaRMSNorm": ["RMSNormPlusOne", 5]},
    "mixtral": {"MixtralRMSNorm": ["RMSNorm", 5]},
    "bert": {"LayerNorm": ["LayerNorm", 5]},
}


@pytest.fixture
def repository(make_kernel):
    """Kernels for the two layers for which the CPU backend bundles none."""
    kernel = make_kernel(
        """
        class RMSNormPlusOne(nn.Module):
            weight: torch.Tensor
            eps: float

            def forward(self, x):
                weight = 1 + self.weight
                return torch.rms_norm(x.float(), weight.shape, weight.float(), self.eps).to(x.dtype)


        class LayerNorm(nn.Module):
            normalized_shape: tuple
            weight: torch.Tensor
            bias: torch.Tensor
            eps: float

            def forward(self, input):
                return torch.layer_norm(
                    input, self.normalized_shape, self.weight, self.bias, self.eps
                )
        """
    )
    return kernel("LayerNorm").repo_path


@pytest.mark.parametrize("hf_kernels", [True, False], ids=["with HF kernels", "without HF kernels"])
def test_five_architectures(hf_kernels, repository):
    if hf_kernels and not is_kernels_available():
        pytest.skip("transformers does not take this version of Hugging Face kernels, or has none")
    result = subprocess.run(
        [sys.executable, str(PROGRAM), str(repository), *EXPECTED],
        env={**os.environ, "USE_HUB_KERNELS": "YES" if hf_kernels else "NO", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for architecture, outcome in json.loads(result.stdout).items():
        rotary = ROTARY if hf_kernels and architecture != "bert" else {}
        assert outcome["rows"] == {**EXPECTED[architecture], **rotary}
        assert outcome["difference"] <= 1e-5 * outcome["scale"], architecture
        assert outcome["undone"] is True, architecture
        assert outcome["copies"] is True, architecture
        assert outcome["gradient_difference"] <= 1e-4, architecture
        assert outcome["frozen"] == 0, architecture
