"""The only code of this backend that asks the machine. What comes back is raw."""

from __future__ import annotations

import attrs


@attrs.frozen
class Runtime:
    """What torch tells without initialising the XPU.

    Attributes:
        xpu: version of the oneAPI toolkit that torch was built with, for example "20250302"; None
            when it was built without.
        device_count: how many devices torch sees.
    """

    xpu: str | None
    device_count: int = 0


@attrs.frozen
class Gpu:
    """What torch tells about one device. Older torch tells neither architecture nor device id."""

    name: str
    architecture: int | None
    device_id: int | None


def runtime() -> Runtime:
    """Ask torch. Creates no context.

    torch counts through the package `pyzes` where it is installed, which leaves the process free to
    fork. Otherwise it asks the SYCL runtime and refuses to use the devices in children forked
    afterwards; nothing else in torch tells the count.
    """
    import torch

    version = getattr(torch.version, "xpu", None)
    if version is None:
        return Runtime(xpu=None)
    return Runtime(version, torch.xpu.device_count())


def gpu(index: int) -> Gpu:
    """Ask torch about one device. This initialises the XPU, as any use of the device does."""
    import torch

    properties = torch.xpu.get_device_properties(index)
    return Gpu(
        name=properties.name,
        architecture=getattr(properties, "architecture", None),
        device_id=getattr(properties, "device_id", None),
    )
