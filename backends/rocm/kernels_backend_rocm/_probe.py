"""The only code of this backend that asks the machine. What comes back is raw."""

from __future__ import annotations

import attrs


@attrs.frozen
class Runtime:
    """What torch tells without initialising ROCm.

    Attributes:
        hip: version of HIP that torch was built with, None when it was built without.
        rocm: version of ROCm, which HIP's no longer follows: ROCm 10.1 comes with HIP 7.16. None in
            torch before 2.10, which has no such attribute.
        device_count: how many devices torch sees.
    """

    hip: str | None
    rocm: str | None = None
    device_count: int = 0


@attrs.frozen
class Gpu:
    """What torch tells about one device."""

    name: str
    gcn_arch_name: str
    major: int
    minor: int


def runtime() -> Runtime:
    """Ask torch. Creates no context.

    torch counts through the package `amdsmi` where it is installed, which leaves the process free
    to fork. Otherwise it asks HIP and refuses to use the devices in children forked afterwards;
    nothing else in torch tells the count.
    """
    import torch

    if torch.version.hip is None:
        return Runtime(hip=None)
    rocm = getattr(torch.version, "rocm", None)
    return Runtime(torch.version.hip, rocm, torch.cuda.device_count())


def gpu(index: int) -> Gpu:
    """Ask torch about one device. This initialises ROCm, as any use of the device does."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, properties.gcnArchName, properties.major, properties.minor)
