"""Files of native code: what is read of them, and the rules that judge it."""

from kernels_core.check.native import (
    device_rules,
    elf_rules,
    libraries,
    macho_rules,
    pe_rules,
    platform,
    python_abi,
    torch_abi,
)

__all__ = [
    "device_rules",
    "elf_rules",
    "libraries",
    "macho_rules",
    "pe_rules",
    "platform",
    "python_abi",
    "torch_abi",
]
