"""As `kernels.layer.mode` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

_NAMES = ("Mode",)

__getattr__ = lazily(__name__, _NAMES)
