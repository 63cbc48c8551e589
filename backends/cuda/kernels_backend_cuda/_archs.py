"""The architectures that the metadata of a build declares: `8.0`, `9.0a`, `10.0f`, `9.0+PTX`."""

from __future__ import annotations

import re

_ARCH = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})([af]?)(\+PTX)?")


def covers(arch: str, capability: tuple[int, int]) -> bool | None:
    """Whether code built for an architecture runs on a device; None when it cannot be read.

    Machine code runs on devices of the same major and the same or a newer minor capability, PTX on
    any device that is not older. Architecture-specific code (`a`) runs on exactly its architecture,
    family-specific code (`f`) within its family, and neither as PTX anywhere else.

    Args:
        arch: as it stands in the metadata.
        capability: of the device.

    Example:
        >>> covers("8.0", (8, 6)), covers("8.0", (9, 0)), covers("8.0+PTX", (9, 0))
        (True, False, True)
    """
    match = _ARCH.fullmatch(arch)
    if match is None:
        return None
    built_for = int(match[1]), int(match[2])
    suffix, is_ptx = match[3], match[4] is not None
    if suffix == "a":
        return capability == built_for
    if is_ptx and not suffix:
        return capability >= built_for
    return capability[0] == built_for[0] and capability >= built_for
