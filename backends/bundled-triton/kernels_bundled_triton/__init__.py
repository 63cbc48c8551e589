"""The kernels that the backends of GPUs with Triton bring along.

They are a kernel repository on disk, `kernels/`, like any other.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from kernels_core import LocalLayerRepository

_REPOSITORY = Path(__file__).parent / "kernels"

# The layers themselves say for which modules they are right.
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

    Args:
        device: the device type of the backend that brings them along, such as "cuda".

    Returns:
        The layers; none where Triton is not installed. It comes with torch's builds for GPUs on
        Linux.

    Example:
        >>> mapping = bundled_mapping("cuda")
        >>> "RMSNorm" in mapping or not mapping
        True
    """
    if find_spec("triton") is None:
        return {}
    return {name: {device: LocalLayerRepository(_REPOSITORY, layer_name=name)} for name in _LAYERS}
