"""What a CUDA device has."""

from __future__ import annotations

import attrs

from kernels_core.device import DeviceFacts


@attrs.frozen
class CUDAFacts(DeviceFacts):
    """One NVIDIA GPU.

    Attributes:
        capability: compute capability, (major, minor).
        total_memory: memory of the device in bytes.

    Example:
        >>> CUDAFacts(0, "NVIDIA H200", capability=(9, 0), total_memory=150_754_820_096).name
        'NVIDIA H200'
    """

    capability: tuple[int, int]
    total_memory: int
