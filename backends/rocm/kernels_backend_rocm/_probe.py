"""The only module of this backend that queries the machine. It returns raw values."""

from __future__ import annotations

import os
import sys

import attrs


@attrs.frozen
class Runtime:
    """What torch reports without initialising ROCm.

    Attributes:
        hip: the version of HIP that torch was built with, None if it was built without.
        rocm: the version of ROCm, which differs from HIP's: ROCm 10.1 comes with HIP 7.16. None in
            torch before 2.10, which does not report it.
        device_count: the number of devices that torch sees.
    """

    hip: str | None
    rocm: str | None = None
    device_count: int = 0


@attrs.frozen
class Gpu:
    """What torch reports about one device."""

    name: str
    gcn_arch_name: str
    major: int
    minor: int


def runtime() -> Runtime:
    """Query torch. Creates no context.

    Without a driver torch is not asked: the process stays free to fork. With one, torch counts
    through the package `amdsmi` if it is installed, which leaves the process free to fork, too.
    Otherwise it uses HIP, and refuses to use the devices in children forked afterwards; torch has
    no other way to count.
    """
    import torch

    if torch.version.hip is None:
        return Runtime(hip=None)
    rocm = getattr(torch.version, "rocm", None)
    return Runtime(torch.version.hip, rocm, torch.cuda.device_count() if _has_driver() else 0)


def _has_driver() -> bool:
    # The devices of the driver, and of Linux in Windows.
    return sys.platform == "win32" or any(map(os.path.exists, ("/dev/kfd", "/dev/dxg")))


def gpu(index: int) -> Gpu:
    """Query torch for one device. This initialises ROCm, as any use of the device does."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, properties.gcnArchName, properties.major, properties.minor)
