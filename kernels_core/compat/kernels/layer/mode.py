"""The module `kernels.layer.mode`, with the names that Hugging Face `kernels` has in it."""

from kernels_core.compat.exports import lazily

_NAMES = ("Mode",)

__getattr__ = lazily(__name__, _NAMES)
