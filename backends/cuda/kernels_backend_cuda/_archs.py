"""The architectures that the metadata of a build declares: `8.0`, `9.0a`, `10.0f`, `9.0+PTX`."""

from __future__ import annotations

import re

from kernels_backend_cuda.facts import CUDAFacts

_ARCH = re.compile(r"([0-9]{1,3})\.([0-9]{1,2})([af]?)(\+PTX)?")

# A family is the devices of one major version, except for this one, which CUDA 13 calls 11.0.
_NOT_OF_ITS_FAMILY = (10, 1)


def covers(arch: str, facts: CUDAFacts) -> bool | None:
    """Whether code built for an architecture runs on a device; None if it cannot be parsed.

    Machine code runs on devices of the same major and the same or a newer minor capability, PTX on
    any device that is not older. Architecture-specific code (`a`) runs on exactly its architecture,
    family-specific code (`f`) within its family, and neither runs anywhere else as PTX.

    Example:
        >>> a10 = CUDAFacts(0, "NVIDIA A10", capability=(8, 6), total_memory=24 * 2**30)
        >>> covers("8.0", a10), covers("9.0", a10), covers("7.5+PTX", a10)
        (True, False, True)
    """
    match = _ARCH.fullmatch(arch)
    if match is None:
        return None
    built_for, device = (int(match[1]), int(match[2])), facts.capability
    level, is_ptx = match[3], match[4] is not None
    if level and level not in facts.feature_levels:
        return False
    if level == "a" or (level == "f" and _NOT_OF_ITS_FAMILY in (built_for, device)):
        return device == built_for
    if is_ptx and not level:
        return device >= built_for
    return device[0] == built_for[0] and device >= built_for
