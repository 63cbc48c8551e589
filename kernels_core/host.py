"""This machine: operating system, CPU, Python, torch. No device is used."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import platform
import sys
import sysconfig
import threading
import traceback
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec
from types import ModuleType

import attrs
from packaging.version import InvalidVersion, Version

from kernels_core.errors import DependencyError

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


def find_module(name: str) -> ModuleSpec | None:
    """Find a top-level module without importing it; None for a directory without any Python file.

    Such a directory, which is left over or has the name by chance, is an empty package for Python.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # it is in sys.modules and does not say where it is from
        return None
    return None if spec is None or is_leftover(spec) else spec


def is_leftover(spec: ModuleSpec) -> bool:
    """Whether a module is a namespace package: directories without `__init__.py`."""
    # It has no loader before it is imported.
    is_namespace = spec.loader is None or "Namespace" in type(spec.loader).__name__
    return is_namespace and spec.submodule_search_locations is not None


# Reentrant: torch imports plugins of its own, which may use this package.
_importing = threading.RLock()
_failure = ""
_usable: ModuleType | None = None


def import_torch() -> ModuleType | None:
    """torch, or None where it is not installed or only an empty directory is left of it.

    Raises a DependencyError where it is installed and cannot be imported. It is then not imported
    again in this process, which could end in a segmentation fault.
    """
    global _usable
    if _usable is not None and sys.modules.get("torch") is _usable:
        return _usable
    with _importing:
        spec = None if "torch" in sys.modules else find_module("torch")
        if spec is not None:
            _import_torch(spec)
    if sys.modules.get("torch") is None:
        return None
    torch = importlib.import_module("torch")  # waits while another thread imports it
    spec = getattr(torch, "__spec__", None)
    if spec is not None and is_leftover(spec):
        return None
    _usable = torch
    return torch


def _import_torch(spec: ModuleSpec) -> None:
    global _failure
    # Python removes a module whose import failed, but not its submodules.
    if not _failure and any(name.startswith("torch.") for name in tuple(sys.modules)):
        _failure = "an earlier import of it in this process failed"
    if _failure:
        raise _unusable_torch(spec)
    try:
        importlib.import_module("torch")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also sys.exit(), and a panic in native code
        _failure = traceback.format_exception_only(error)[-1].strip()
        raise _unusable_torch(spec) from error


def _unusable_torch(spec: ModuleSpec) -> DependencyError:
    return DependencyError(
        f"torch could not be imported from {spec.origin}: {_failure}. Reinstall it, or rename what "
        f"is not PyTorch, and start another process: it cannot be imported twice in one.",
        repository="",
        missing=("torch",),
    )


def _torch_info(os_name: str) -> TorchInfo | None:
    torch = import_torch()
    if torch is None:
        return None
    try:
        version = str(torch.__version__)
        abi = bool(torch.compiled_with_cxx11_abi()) if os_name == "linux" else None
        return TorchInfo(version=version, release=_release(version), cxx11_abi=abi)
    except (AttributeError, InvalidVersion) as error:
        raise DependencyError(
            f"What `import torch` imports, {getattr(torch, '__file__', None)}, is not a complete "
            f"PyTorch ({error}). If it is a file or directory of your own, rename it; otherwise "
            f"reinstall torch.",
            repository="",
            missing=("torch",),
        ) from error


def installed_distributions(name: str) -> Iterator[metadata.Distribution]:
    """The distributions of a name, but for those that an interrupted removal left damaged."""
    for found in metadata.Distribution.discover(name=name):
        # Without a METADATA file some versions of Python return None here, and others raise.
        with contextlib.suppress(Exception):
            if found.version:
                yield found


def installed_version(name: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    return next((found.version for found in installed_distributions(name)), None)


def _tvm_ffi_release() -> tuple[int, int] | None:
    try:
        return _release(installed_version("apache-tvm-ffi") or "")
    except InvalidVersion:
        return None


@functools.cache
def host_info() -> HostInfo:
    """Describe this machine. Imports torch when it is installed, and uses no device.

    Raises a DependencyError where torch is installed and cannot be used.
    """
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
