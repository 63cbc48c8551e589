"""The only module of this backend that queries the machine. It returns raw values."""

from __future__ import annotations

import ctypes
import sys

import attrs


@attrs.frozen
class Runtime:
    """What torch and the driver report without initialising CUDA.

    Attributes:
        cuda: the CUDA version that torch was built with, None if it was built without.
        driver: the newest CUDA version that the driver supports, None without a driver.
        device_count: the number of devices that torch sees.
    """

    cuda: str | None
    driver: tuple[int, int] | None = None
    device_count: int = 0


@attrs.frozen
class Gpu:
    """What torch reports about one device."""

    name: str
    major: int
    minor: int
    total_memory: int


def runtime() -> Runtime:
    """Query torch and the driver. Creates no context and leaves the process free to fork.

    `torch.cuda.device_count` counts through NVML. Only if NVML cannot count, as with MIG devices,
    torch uses the CUDA runtime instead, and refuses to use CUDA in children forked afterwards.
    """
    import torch

    if torch.version.cuda is None:
        return Runtime(cuda=None)
    return Runtime(torch.version.cuda, _driver_version(), torch.cuda.device_count())


def _driver_version() -> tuple[int, int] | None:
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    number = ctypes.c_int()
    try:
        # One of the few functions of the driver that work before it is initialised.
        status = ctypes.CDLL(library).cuDriverGetVersion(ctypes.byref(number))
    except (AttributeError, OSError):
        return None
    if status != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10


def gpu(index: int) -> Gpu:
    """Query torch for one device. This initialises CUDA, as any use of the device does."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, properties.major, properties.minor, properties.total_memory)
