"""This machine: operating system, CPU, Python, torch. No device is used."""

from __future__ import annotations

import functools
import importlib.util
import platform
import sys
import sysconfig
from importlib import metadata

import attrs
from packaging.version import Version

_CPU_NAMES = {"arm64": "aarch64", "amd64": "x86_64"}


@attrs.frozen
class TorchInfo:
    """The installed torch.

    Attributes:
        version: `torch.__version__`, for example "2.13.0+cpu".
        release: (major, minor).
        cxx11_abi: whether it was built with the C++11 ABI; None on other systems than Linux, where
            builds have no such tag.
    """

    version: str
    release: tuple[int, int]
    cxx11_abi: bool | None


@attrs.frozen
class HostInfo:
    """This machine, as far as it is known without using a device.

    Attributes:
        os: "linux", "darwin" or "windows", as in variant names.
        cpu: "x86_64", "aarch64", ..., as in variant names.
        os_version: release of the operating system: of the kernel on Linux, the product version
            (for example "26.1") on macOS.
        python: (major, minor) of the running Python.
        free_threaded: whether this Python was built without the GIL.
        torch: the installed torch, or None.
        tvm_ffi: (major, minor) of the installed tvm-ffi, or None.
    """

    os: str
    cpu: str
    os_version: str
    python: tuple[int, int]
    free_threaded: bool
    torch: TorchInfo | None = None
    tvm_ffi: tuple[int, int] | None = None

    @property
    def has_stable_python_abi(self) -> bool:
        """Whether native builds, which use Python's stable ABI, can be loaded into this Python.

        Free-threaded Python has no stable ABI before 3.15 (PEP 803).
        """
        return not self.free_threaded or self.python >= (3, 15)


def _release(version: str) -> tuple[int, int]:
    parsed = Version(version)
    return parsed.major, parsed.minor


def _torch_info(os_name: str) -> TorchInfo | None:
    # Programs without torch must get a result. If torch is installed and cannot be imported, its
    # exception is the most useful one.
    if "torch" not in sys.modules and importlib.util.find_spec("torch") is None:
        return None
    import torch

    version = str(torch.__version__)
    abi = bool(torch.compiled_with_cxx11_abi()) if os_name == "linux" else None
    return TorchInfo(version=version, release=_release(version), cxx11_abi=abi)


def _tvm_ffi_release() -> tuple[int, int] | None:
    try:
        return _release(metadata.version("apache-tvm-ffi"))
    except metadata.PackageNotFoundError:
        return None


@functools.cache
def host_info() -> HostInfo:
    """Describe this machine. Imports torch when it is installed, and uses no device."""
    os_name = platform.system().lower()
    machine = platform.machine().lower()
    return HostInfo(
        os=os_name,
        cpu=_CPU_NAMES.get(machine, machine),
        os_version=platform.mac_ver()[0] if os_name == "darwin" else platform.release(),
        python=sys.version_info[:2],
        free_threaded=bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        torch=_torch_info(os_name),
        tvm_ffi=_tvm_ffi_release(),
    )
