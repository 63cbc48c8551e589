"""The rules about native code."""

from kernels_core.check.rules.native import (
    device,
    elf,
    libraries,
    macho,
    pe,
    platform,
    python_abi,
    torch_abi,
)

__all__ = [
    "device",
    "elf",
    "libraries",
    "macho",
    "pe",
    "platform",
    "python_abi",
    "torch_abi",
]
