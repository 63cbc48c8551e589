"""As `kernels.layer.func` of Hugging Face `kernels`."""

from kernels_core.compat.exports import lazily

__getattr__ = lazily(__name__, ("FuncRepository", "LocalFuncRepository", "LockedFuncRepository", "use_kernel_func_from_hub",))
