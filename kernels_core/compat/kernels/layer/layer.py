"""The module `kernels.layer.layer`, with the names that Hugging Face `kernels` has in it."""

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
