"""The only module of this backend that queries the machine. It returns raw values."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Query torch and the driver. Creates no context and leaves the process free to fork."""
    import torch

    if torch.version.cuda is None:
        return Runtime(cuda=None)
    driver = _library("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    return Runtime(torch.version.cuda, _driver_version(driver), _device_count(driver))


def _library(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _driver_version(driver: Any) -> tuple[int, int] | None:
    number = ctypes.c_int()
    try:
        # One of the few functions of the driver that work before it is initialised.
        status = driver.cuDriverGetVersion(ctypes.byref(number))
    except AttributeError:
        return None
    if status != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10


def _device_count(driver: Any) -> int:
    """How many devices torch sees.

    `torch.cuda.device_count` asks NVML. If NVML does not answer it initialises the driver, and
    children forked afterwards cannot use CUDA: then it is called in a child.
    """
    import torch

    if driver is None and not _has_devices():
        return 0
    if not hasattr(os, "fork") or _nvml_counts() or _is_initialized(driver):
        return torch.cuda.device_count()
    return _in_child(torch.cuda.device_count)


def _has_devices() -> bool:
    # Some systems hide libcuda from everything but torch, and not the devices: those of a driver
    # for servers and desktops, for Jetson, and for Linux in Windows.
    return any(any(Path("/dev").glob(name)) for name in ("nvidia*", "nvhost*", "dxg"))


def _nvml_counts() -> bool:
    # NVML counts MIG devices otherwise than CUDA, so torch does not ask it about them.
    if os.environ.get("CUDA_VISIBLE_DEVICES", "").startswith("MIG-"):
        return False
    nvml = _library("libnvidia-ml.so.1")
    return nvml is not None and nvml.nvmlInit_v2() == 0


def _is_initialized(driver: Any) -> bool:
    return driver is not None and driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int())) == 0


def _in_child(count: Callable[[], int]) -> int:
    with warnings.catch_warnings():
        # The child runs nothing that takes a lock of another thread.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 0
        try:
            status = count()
        finally:
            os._exit(status)
    return max(0, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def gpu(index: int) -> Gpu:
    """Query torch for one device. This initialises CUDA, as any use of the device does."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    return Gpu(properties.name, properties.major, properties.minor, properties.total_memory)
