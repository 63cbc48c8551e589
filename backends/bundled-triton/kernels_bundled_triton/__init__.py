"""The kernels that the backends of GPUs with Triton provide.

They are a kernel repository on disk, `kernels/`, like any other.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from kernels_core import LocalLayerRepository

_REPOSITORY = Path(__file__).parent / "kernels"

# The layers themselves declare which modules they support.
_LAYERS = (
    "CrossEntropyLoss",
    "FusedAddRMSNorm",
    "GEGLUMLP",
    "GeluAndMul",
    "GeluTanhAndMul",
    "LayerNorm",
    "RMSNorm",
    "SiluAndMul",
    "SwiGLUMLP",
    "rotary_pos_emb",
)


def bundled_mapping(device: str) -> dict[str, dict[str, LocalLayerRepository]]:
    """The layers for one device type, as a mapping for `register_kernel_mapping`.

    Empty if Triton is not installed; torch's builds for GPUs on Linux require it.

    Example:
        >>> mapping = bundled_mapping("cuda")
        >>> "RMSNorm" in mapping or not mapping
        True
    """
    if find_spec("triton") is None:
        return {}
    return {name: {device: LocalLayerRepository(_REPOSITORY, layer_name=name)} for name in _LAYERS}
