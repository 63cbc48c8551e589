"""Facts about a ROCm device, and the names of its architecture."""

from __future__ import annotations

import itertools

import attrs

from kernels_core.device import DeviceFacts

# LLVM's generic processors: code built for one of them runs on every processor of the family.
# https://llvm.org/docs/AMDGPUUsage.html#amdgpu-generic-processor-table
_FAMILIES = {
    "gfx9-generic": ("gfx900", "gfx902", "gfx904", "gfx906", "gfx909", "gfx90c"),
    "gfx9-4-generic": ("gfx940", "gfx941", "gfx942", "gfx950"),
    "gfx10-1-generic": ("gfx1010", "gfx1011", "gfx1012", "gfx1013"),
    "gfx10-3-generic": (
        *("gfx1030", "gfx1031", "gfx1032", "gfx1033"),
        *("gfx1034", "gfx1035", "gfx1036"),
    ),
    "gfx11-generic": (
        *("gfx1100", "gfx1101", "gfx1102", "gfx1103"),
        *("gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    ),
    "gfx12-generic": ("gfx1200", "gfx1201"),
}


@attrs.frozen
class ROCMFacts(DeviceFacts):
    """One AMD GPU.

    Attributes:
        gcn_arch_name: architecture with its feature flags, for example "gfx90a:sramecc+:xnack-".
        capability: torch's (major, minor) for it, which several architectures can share.

    Example:
        >>> facts = ROCMFacts(0, "AMD Instinct MI300X", "gfx942:sramecc+:xnack-", (9, 4))
        >>> facts.architecture
        'gfx942'
        >>> facts.architectures[-2:]
        ('gfx942', 'gfx9-4-generic')
    """

    gcn_arch_name: str
    capability: tuple[int, int]

    @property
    def architecture(self) -> str:
        """The architecture without feature flags."""
        return self.gcn_arch_name.split(":")[0]

    @property
    def architectures(self) -> tuple[str, ...]:
        """All names of the architecture, the most specific first: exact ones, then the family.

        A name with some of the device's feature flags is one of them: code built for
        `gfx90a:xnack-` runs whatever the other flag is.
        """
        base, *flags = self.gcn_arch_name.split(":")
        exact = (
            ":".join([base, *chosen])
            for count in range(len(flags), -1, -1)
            for chosen in itertools.combinations(flags, count)
        )
        family = (generic for generic, members in _FAMILIES.items() if base in members)
        return (*exact, *family)
