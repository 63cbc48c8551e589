"""The module `kernels.layer.func`, with the names that Hugging Face `kernels` has in it."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "FuncRepository",
    "LocalFuncRepository",
    "LockedFuncRepository",
    "use_kernel_func_from_hub",
)

__getattr__ = lazily(__name__, _NAMES)
