"""As `kernels.layer.device` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "CUDAProperties",
    "Device",
    "ROCMProperties",
)

__getattr__ = lazily(__name__, _NAMES)
