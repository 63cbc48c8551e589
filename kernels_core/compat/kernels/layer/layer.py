"""As `kernels.layer.layer` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "KernelizeFallback",
    "LayerRepository",
    "LocalLayerRepository",
    "LockedLayerRepository",
    "replace_kernel_forward_from_hub",
    "use_kernel_forward_from_hub",
    "use_kernelized_func",
)

__getattr__ = lazily(__name__, _NAMES)
