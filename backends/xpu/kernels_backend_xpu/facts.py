"""Facts about an XPU device, and the names of its architecture."""

from __future__ import annotations

import attrs

from kernels_core.device import DeviceFacts

# Names of architectures in Intel's offline compiler and in TORCH_XPU_ARCH_LIST. The part before the
# dash is the family.
# https://github.com/intel/llvm/blob/sycl/sycl/include/sycl/ext/oneapi/experimental/device_architecture.def
_NAMES = {
    (12, 55): "dg2-g10",
    (12, 56): "dg2-g11",
    (12, 57): "dg2-g12",
    (12, 60): "pvc",
    (12, 61): "pvc-vg",
    (12, 70): "mtl-u",
    (12, 71): "mtl-h",
    (12, 74): "arl-h",
    (20, 1): "bmg-g21",
    (20, 2): "bmg-g31",
    (20, 4): "lnl-m",
    (30, 0): "ptl-h",
    (30, 1): "ptl-u",
    (30, 3): "wcl",
    (30, 4): "nvl-s",
    (30, 5): "nvl-u",
    (35, 10): "nvl-p",
}


@attrs.frozen
class XPUFacts(DeviceFacts):
    """One Intel GPU.

    Attributes:
        architecture: for example "bmg-g21"; the version of the graphics IP, such as "35.11.0", for
            an architecture that is not named here; None if torch does not report it.
        device_id: PCI id of the product; None if torch does not report it.

    Example:
        >>> XPUFacts(0, "Intel(R) Arc(TM) B580 Graphics", "bmg-g21", 0xE20B).architectures
        ('0xe20b', 'bmg-g21', 'bmg')
    """

    architecture: str | None
    device_id: int | None

    @property
    def architectures(self) -> tuple[str, ...]:
        """All names of the architecture, the most specific first: id, exact, family."""
        names = [] if self.device_id is None else [f"{self.device_id:#x}"]
        if self.architecture is not None:
            names += [self.architecture, self.architecture.split("-")[0]]
        return tuple(dict.fromkeys(names))


def architecture_name(number: int | None) -> str | None:
    """Name the architecture that torch reports as a number.

    That is an enumerator of SYCL's `architecture`: for Intel GPUs the version of the graphics IP
    (10 bits major, 8 minor, 14 revision) followed by a byte of zeros.

    Example:
        >>> architecture_name(0x030F000700)
        'pvc'
    """
    if number is None or number >> 40:  # higher bits: not an Intel GPU, or unknown
        return None
    major, minor, revision = number >> 30, number >> 22 & 0xFF, number >> 8 & 0x3FFF
    return _NAMES.get((major, minor), f"{major}.{minor}.{revision}")
