"""Where each name of the package `kernels` comes from; loaded when it is first used."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_VALUES = "kernels_core.compat.values"
_FUNCTIONS = "kernels_core.compat.functions"
_REPOSITORIES = "kernels_core.compat.repositories"

# Names that differ from those of kernels_core, by the module that has them.
_OWN = {
    "Benchmark": _VALUES,
    "FuncRepository": _REPOSITORIES,
    "LoadedKernel": _VALUES,
    "LocalFuncRepository": _REPOSITORIES,
    "LockedFuncRepository": _REPOSITORIES,
    "Metadata": _VALUES,
    "RepoInfo": _VALUES,
    "VariantAccepted": _VALUES,
    "VariantRejected": _VALUES,
    "get_kernel_variants": _FUNCTIONS,
    "get_loaded_kernels": _FUNCTIONS,
    "use_kernel_func_from_hub": _REPOSITORIES,
}

LAYER_NAMES = (
    "CUDAProperties",
    "Device",
    "FuncRepository",
    "KernelizeFallback",
    "LayerRepository",
    "LocalFuncRepository",
    "LocalLayerRepository",
    "LockedFuncRepository",
    "LockedLayerRepository",
    "Mode",
    "ROCMProperties",
    "kernelize",
    "register_kernel_mapping",
    "replace_kernel_forward_from_hub",
    "use_kernel_forward_from_hub",
    "use_kernel_func_from_hub",
    "use_kernel_mapping",
    "use_kernelized_func",
)
"""The names of `kernels.layer`."""

NAMES = (
    *LAYER_NAMES,
    "Benchmark",
    "LoadedKernel",
    "Metadata",
    "RepoInfo",
    "VariantAccepted",
    "VariantRejected",
    "get_kernel",
    "get_kernel_dep",
    "get_kernel_variants",
    "get_loaded_kernels",
    "get_local_kernel",
    "get_locked_kernel",
    "has_kernel",
    "install_kernel",
    "load_kernel",
)
"""The names of `kernels`, but for `__version__`."""


def lazily(module: str, names: tuple[str, ...]) -> Callable[[str], Any]:
    """A `__getattr__` for a module that has these names.

    Args:
        module: the module's name.
        names: its names.
    """

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_OWN.get(name, "kernels_core")), name)
        vars(importlib.import_module(module))[name] = value
        return value

    return get
