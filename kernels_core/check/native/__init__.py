"""Files of native code: what is read of them, and the rules that judge it."""

from kernels_core.check.native import (
    elf_rules,
    libraries,
    platform,
    python_abi,
)

__all__ = ["elf_rules", "libraries", "platform", "python_abi"]
