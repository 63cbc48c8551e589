"""kernels-core: run optimized compute kernels in PyTorch models, on any accelerator.

A program marks layers as replaceable and maps layer names to kernel repositories; `kernelize`
queries the installed backend plugins about this machine and replaces the layers' `forward`.

Importing this package imports neither torch nor huggingface_hub: every public name below is loaded
when it is first used.
"""

from __future__ import annotations

import importlib

from kernels_core.unpickling import explain_missing_kernels

TYPE_CHECKING = False  # as in typing, whose import would take most of the time of this one
if TYPE_CHECKING:
    from kernels_core.api.kernelize import kernelize as kernelize
    from kernels_core.api.kernelize import kernelized as kernelized
    from kernels_core.api.kernelize import unkernelize as unkernelize
    from kernels_core.api.kernels import get_kernel as get_kernel
    from kernels_core.api.kernels import get_kernel_variants as get_kernel_variants
    from kernels_core.api.kernels import get_local_kernel as get_local_kernel
    from kernels_core.api.kernels import get_locked_kernel as get_locked_kernel
    from kernels_core.api.kernels import has_kernel as has_kernel
    from kernels_core.api.kernels import install_kernel as install_kernel
    from kernels_core.api.kernels import load_kernel as load_kernel
    from kernels_core.api.plan import Plan as Plan
    from kernels_core.api.plan import plan as plan
    from kernels_core.device import Architectures as Architectures
    from kernels_core.device import CapabilityRange as CapabilityRange
    from kernels_core.device import CUDAProperties as CUDAProperties
    from kernels_core.device import Device as Device
    from kernels_core.device import DeviceFacts as DeviceFacts
    from kernels_core.device import DeviceProperties as DeviceProperties
    from kernels_core.device import Features as Features
    from kernels_core.device import LayerRepositoryProtocol as LayerRepositoryProtocol
    from kernels_core.device import MinimumVersions as MinimumVersions
    from kernels_core.device import ROCMProperties as ROCMProperties
    from kernels_core.errors import KernelsError as KernelsError
    from kernels_core.hookspecs import hookimpl as hookimpl
    from kernels_core.layers.extensible import (
        replace_kernel_forward_from_hub as replace_kernel_forward_from_hub,
    )
    from kernels_core.layers.extensible import (
        use_kernel_forward_from_hub as use_kernel_forward_from_hub,
    )
    from kernels_core.layers.extensible import use_kernelized_func as use_kernelized_func
    from kernels_core.layers.fallback import KernelizeFallback as KernelizeFallback
    from kernels_core.layers.kernel_of import LayerKernel as LayerKernel
    from kernels_core.layers.kernel_of import kernel_of as kernel_of
    from kernels_core.layers.kernel_of import original_class as original_class
    from kernels_core.layers.mapping import bundled_mapping as bundled_mapping
    from kernels_core.layers.mapping import register_kernel_mapping as register_kernel_mapping
    from kernels_core.layers.mapping import use_kernel_mapping as use_kernel_mapping
    from kernels_core.layers.report import KernelizeReport as KernelizeReport
    from kernels_core.layers.report_now import report as report
    from kernels_core.layers.repositories import LayerRepository as LayerRepository
    from kernels_core.layers.repositories import LocalLayerRepository as LocalLayerRepository
    from kernels_core.layers.repositories import LockedLayerRepository as LockedLayerRepository
    from kernels_core.loading.loaded import LoadedKernel as LoadedKernel
    from kernels_core.loading.loaded import get_kernel_dep as get_kernel_dep
    from kernels_core.loading.loaded import get_loaded_kernels as get_loaded_kernels
    from kernels_core.mode import Mode as Mode

    __version__: str

_MODULES = {
    "api.kernelize": ("kernelize", "kernelized", "unkernelize"),
    "api.kernels": (
        "get_kernel",
        "get_kernel_variants",
        "get_local_kernel",
        "get_locked_kernel",
        "has_kernel",
        "install_kernel",
        "load_kernel",
    ),
    "api.plan": ("Plan", "plan"),
    "device": (
        "Architectures",
        "CUDAProperties",
        "CapabilityRange",
        "Device",
        "DeviceFacts",
        "DeviceProperties",
        "Features",
        "LayerRepositoryProtocol",
        "MinimumVersions",
        "ROCMProperties",
    ),
    "errors": ("KernelsError",),
    "hookspecs": ("hookimpl",),
    "layers.extensible": (
        "replace_kernel_forward_from_hub",
        "use_kernel_forward_from_hub",
        "use_kernelized_func",
    ),
    "layers.fallback": ("KernelizeFallback",),
    "layers.kernel_of": ("LayerKernel", "kernel_of", "original_class"),
    "layers.mapping": ("bundled_mapping", "register_kernel_mapping", "use_kernel_mapping"),
    "layers.report": ("KernelizeReport",),
    "layers.report_now": ("report",),
    "layers.repositories": (
        "LayerRepository",
        "LocalLayerRepository",
        "LockedLayerRepository",
    ),
    "loading.loaded": ("LoadedKernel", "get_kernel_dep", "get_loaded_kernels"),
    "mode": ("Mode",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)

# Here, because a process that unpickles may have done no more than import this package.
explain_missing_kernels()


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("kernels-core")
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__]
