"""As `kernels.layer.kernelize` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "kernelize",
    "register_kernel_mapping",
    "use_kernel_mapping",
)

__getattr__ = lazily(__name__, _NAMES)
