"""As `kernels.layer.device` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

__getattr__ = lazily(__name__, ("CUDAProperties", "Device", "ROCMProperties",))
