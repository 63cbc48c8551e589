"""The module `kernels.layer.kernelize`, with the names that Hugging Face `kernels` has in it."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "kernelize",
    "register_kernel_mapping",
    "use_kernel_mapping",
)

__getattr__ = lazily(__name__, _NAMES)
