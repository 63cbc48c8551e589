"""The rules about native code.

platform        it can be read, and is for the machines that its variant names
libraries       the dynamic libraries that it needs
elf, macho, pe  what only Linux, macOS and Windows require
python_abi      what it uses of Python
torch_abi       what it uses of torch
device          its code for accelerators
"""
