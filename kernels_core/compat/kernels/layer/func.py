"""As `kernels.layer.func` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

_NAMES = (
    "FuncRepository",
    "LocalFuncRepository",
    "LockedFuncRepository",
    "use_kernel_func_from_hub",
)

__getattr__ = lazily(__name__, _NAMES)
