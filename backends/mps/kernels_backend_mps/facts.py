"""Facts about an Apple GPU."""

from __future__ import annotations

import re

import attrs

from kernels_core.device import DeviceFacts

# The newest version of the Metal shading language since each macOS, newest first.
# https://developer.apple.com/documentation/metal/mtllanguageversion
_METAL = ((26, "4.0"), (15, "3.2"), (14, "3.1"), (13, "3.0"), (12, "2.4"))


@attrs.frozen
class MPSFacts(DeviceFacts):
    """The GPU of a Mac with Apple silicon.

    Attributes:
        chip: the chip family, for example "M4"; None if the processor's name does not contain it.
        macos: product version of macOS.
        metal: the newest version of the Metal shading language that this macOS supports. A macOS
            newer than this package may support a newer one.
    """

    chip: str | None
    macos: str
    metal: str


def chip_family(processor: str) -> str | None:
    """Get the chip family from the name of the processor.

    Example:
        >>> chip_family("Apple M4 Max")
        'M4'
    """
    match = re.match(r"Apple ([AM][0-9]+)\b", processor)
    return match[1] if match else None


def metal_version(macos: str) -> str:
    """The newest Metal version that a macOS supports.

    Example:
        >>> metal_version("15.5")
        '3.2'
    """
    major = int(macos.split(".")[0])
    return next((metal for since, metal in _METAL if major >= since), "2.3")
