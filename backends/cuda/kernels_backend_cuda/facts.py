"""Facts about a CUDA device."""

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
        >>> h200 = CUDAFacts(0, "NVIDIA H200", capability=(9, 0), total_memory=150_109_880_320)
        >>> h200.feature_levels
        ('a',)
    """

    capability: tuple[int, int]
    total_memory: int

    @property
    def feature_levels(self) -> tuple[str, ...]:
        """The suffixes of code for this device that uses features which newer devices may lack.

        `a`: features of exactly this architecture, as in `9.0a`; `f`: those that its family shares,
        as in `10.0f`. https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/compute-
        capabilities.html
        """
        since = {"a": (9, 0), "f": (10, 0)}
        return tuple(level for level, first in since.items() if self.capability >= first)
