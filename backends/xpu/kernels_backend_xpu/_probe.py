"""The only module of this backend that queries the machine. It returns raw values."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs


@attrs.frozen
class Runtime:
    """What torch reports without initialising the XPU.

    Attributes:
        xpu: version of the oneAPI toolkit that torch was built with, for example "20250302"; None
            if it was built without.
        device_count: the number of devices that torch sees.
    """

    xpu: str | None
    device_count: int = 0


@attrs.frozen
class Gpu:
    """What torch reports about one device. Older torch reports neither architecture nor id."""

    name: str
    architecture: int | None
    device_id: int | None


def runtime() -> Runtime:
    """Query torch. Creates no context.

    Without a driver torch is not asked: the process stays free to fork. With one, torch counts
    through the package `pyzes` if it is installed, which leaves the process free to fork, too.
    Otherwise it uses the SYCL runtime, and refuses to use the devices in children forked
    afterwards; torch has no other way to count.
    """
    import torch

    version = getattr(torch.version, "xpu", None)
    if version is None:
        return Runtime(xpu=None)
    return Runtime(version, torch.xpu.device_count() if _has_driver() else 0)


def _has_driver() -> bool:
    # The devices of the drivers of all GPUs, and of Linux in Windows.
    return sys.platform == "win32" or any(
        any(Path("/dev").glob(name)) for name in ("dri/renderD*", "dxg")
    )


def gpu(index: int) -> Gpu:
    """Query torch for one device. This initialises the XPU, as any use of the device does."""
    import torch

    properties = torch.xpu.get_device_properties(index)
    return Gpu(
        name=properties.name,
        architecture=getattr(properties, "architecture", None),
        device_id=getattr(properties, "device_id", None),
    )
