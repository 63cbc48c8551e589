"""The kernels that this package provides.

They are a kernel repository on disk, `kernels/`, like any other.
"""

from __future__ import annotations

from pathlib import Path

from kernels_core import LocalLayerRepository

_REPOSITORY = Path(__file__).parent / "kernels"

# The layers themselves declare which modules they support.
_LAYERS = ("RMSNorm", "SwiGLUMLP", "rotary_pos_emb")


def bundled_mapping() -> dict[str, dict[str, LocalLayerRepository]]:
    """The layers for the CPU, as a mapping for `register_kernel_mapping`.

    Example:
        >>> sorted(bundled_mapping())
        ['RMSNorm', 'SwiGLUMLP', 'rotary_pos_emb']
    """
    return {name: {"cpu": LocalLayerRepository(_REPOSITORY, layer_name=name)} for name in _LAYERS}
