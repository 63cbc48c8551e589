"""The package `kernels` that kernels-core provides; see `kernels_core.compat`."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from kernels_core.compat.activation import reported_version
from kernels_core.compat.exports import NAMES, lazily
from kernels_core.layers.mapping import use_bundled_by_default

if TYPE_CHECKING:
    from kernels_core.api.kernelize import kernelize as kernelize
    from kernels_core.api.kernels import get_kernel as get_kernel
    from kernels_core.api.kernels import get_local_kernel as get_local_kernel
    from kernels_core.api.kernels import get_locked_kernel as get_locked_kernel
    from kernels_core.api.kernels import has_kernel as has_kernel
    from kernels_core.api.kernels import install_kernel as install_kernel
    from kernels_core.api.kernels import load_kernel as load_kernel
    from kernels_core.compat.functions import get_kernel_variants as get_kernel_variants
    from kernels_core.compat.functions import get_loaded_kernels as get_loaded_kernels
    from kernels_core.compat.repositories import FuncRepository as FuncRepository
    from kernels_core.compat.repositories import LocalFuncRepository as LocalFuncRepository
    from kernels_core.compat.repositories import LockedFuncRepository as LockedFuncRepository
    from kernels_core.compat.repositories import (
        use_kernel_func_from_hub as use_kernel_func_from_hub,
    )
    from kernels_core.compat.values import Benchmark as Benchmark
    from kernels_core.compat.values import LoadedKernel as LoadedKernel
    from kernels_core.compat.values import Metadata as Metadata
    from kernels_core.compat.values import RepoInfo as RepoInfo
    from kernels_core.compat.values import VariantAccepted as VariantAccepted
    from kernels_core.compat.values import VariantRejected as VariantRejected
    from kernels_core.device import CUDAProperties as CUDAProperties
    from kernels_core.device import Device as Device
    from kernels_core.device import ROCMProperties as ROCMProperties
    from kernels_core.layers.extensible import (
        replace_kernel_forward_from_hub as replace_kernel_forward_from_hub,
    )
    from kernels_core.layers.extensible import (
        use_kernel_forward_from_hub as use_kernel_forward_from_hub,
    )
    from kernels_core.layers.extensible import use_kernelized_func as use_kernelized_func
    from kernels_core.layers.fallback import KernelizeFallback as KernelizeFallback
    from kernels_core.layers.mapping import register_kernel_mapping as register_kernel_mapping
    from kernels_core.layers.mapping import use_kernel_mapping as use_kernel_mapping
    from kernels_core.layers.repositories import LayerRepository as LayerRepository
    from kernels_core.layers.repositories import LocalLayerRepository as LocalLayerRepository
    from kernels_core.layers.repositories import LockedLayerRepository as LockedLayerRepository
    from kernels_core.loading.loaded import get_kernel_dep as get_kernel_dep
    from kernels_core.mode import Mode as Mode

    __version__: str
else:
    if __name__ == "kernels":  # and not a kernel that imports it under another name
        use_bundled_by_default(True)

    _get = lazily(__name__, NAMES)

    def __getattr__(name: str) -> object:
        if name == "__version__":
            # Kernels import it under another name, for which there may be no distribution.
            return version("kernels") if __name__ == "kernels" else reported_version()
        return _get(name)


__all__ = ["__version__", *NAMES]


def __dir__() -> list[str]:
    return [*globals(), *__all__]
