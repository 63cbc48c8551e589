"""The module `kernels.layer.device`, with the names that Hugging Face `kernels` has in it."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "CUDAProperties",
    "Device",
    "ROCMProperties",
)

__getattr__ = lazily(__name__, _NAMES)
