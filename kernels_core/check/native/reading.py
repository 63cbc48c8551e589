"""Which files are native code, and reading them; each format has a module of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from kernels_core.check.extra import extra
from kernels_core.check.facts.native import Image, NativeModule
from kernels_core.check.facts.repository import NATIVE_SUFFIXES, Build
from kernels_core.check.native.source import UnreadableError
from kernels_core.check.tables import table
from kernels_core.variants.names import NativeVariant

# The first bytes of a file, and the module that reads it: `read(file: Path) -> tuple[Image, ...]`,
# which raises `UnreadableError`. A file with several architectures has an image for each.
_MAGIC = {
    b"\x7fELF": "elf",
    b"\xfe\xed\xfa\xce": "macho",
    b"\xce\xfa\xed\xfe": "macho",
    b"\xfe\xed\xfa\xcf": "macho",
    b"\xcf\xfa\xed\xfe": "macho",
    b"\xca\xfe\xba\xbe": "macho",  # several architectures
    b"\xca\xfe\xba\xbf": "macho",
    b"PE\0\0": "pe",  # where the header of DOS points to
}

# What marks a file as a library: ET_DYN of ELF, MH_DYLIB and MH_BUNDLE of Mach-O, a bit of PE.
_DYNAMIC = 3
_DYLIB, _BUNDLE = 6, 8
_DLL = 0x2000
_SEVERAL_ARCHITECTURES = b"\xca\xfe\xba"

# Java classes begin like Mach-O, with their version where Mach-O has the number of architectures.
_MAGIC_OF_JAVA = b"\xca\xfe\xba\xbe"
_OLDEST_JAVA = 45


def is_native(file: Path) -> bool:
    """Whether a regular file is a library of native code, or is named like one."""
    return _named_like_library(file) or _format(file) is not None


def read_native(path: str, file: Path, build: Build | None) -> Iterator[NativeModule]:
    """Read a file of native code: one module for each architecture in it.

    Raises `CheckError` where the reader of its format is not installed.
    """
    name = _format(file)
    if name is None:
        reason = "it is named like a library, but is not one for Linux, macOS or Windows"
        yield NativeModule(path, file, build, None, reason)
        return
    try:
        images: tuple[Image, ...] = _loaded(
            extra(f"kernels_core.check.native.{name}").read(file), build
        )
    except UnreadableError as error:
        yield NativeModule(path, file, build, None, str(error))
        return
    cpus = tuple(image.cpu for image in images)
    for image in images:
        yield NativeModule(path, file, build, image, cpus=cpus)


def _format(file: Path) -> str | None:
    """The module that reads the file; None when it is not a library, or cannot be read."""
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
            if start.startswith(b"MZ") and len(start) == 64:
                stream.seek(int.from_bytes(start[60:], "little"))
                start = stream.read(24)
    except OSError:
        return None
    name = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if name and not _named_like_library(file) and not _IS_LIBRARY[name](start):
        return None
    if start.startswith(_MAGIC_OF_JAVA) and int.from_bytes(start[4:8], "big") >= _OLDEST_JAVA:
        return None
    return name


def _named_like_library(file: Path) -> bool:
    return file.name.lower().endswith(NATIVE_SUFFIXES)


def _is_elf_library(start: bytes) -> bool:
    """Whether it is not a program, an object file or code of an accelerator."""
    order: Literal["little", "big"] = "big" if start[5:6] == b"\2" else "little"
    kind, machine = int.from_bytes(start[16:18], order), int.from_bytes(start[18:20], order)
    return kind == _DYNAMIC and str(machine) not in table("device_code")["machines"]


def _is_macho_library(start: bytes) -> bool:
    """Whether it is a dynamic library, or has several architectures."""
    order: Literal["little", "big"] = "big" if start[:1] == b"\xfe" else "little"
    kind = int.from_bytes(start[12:16], order)
    return start[:3] == _SEVERAL_ARCHITECTURES or kind in (_DYLIB, _BUNDLE)


def _is_pe_library(start: bytes) -> bool:
    return int.from_bytes(start[22:24], "little") & _DLL != 0


_IS_LIBRARY = {"elf": _is_elf_library, "macho": _is_macho_library, "pe": _is_pe_library}


def _loaded(images: tuple[Image, ...], build: Build | None) -> tuple[Image, ...]:
    """The images for the CPU of the variant; all of them where none is for it."""
    variant = build.variant if build else None
    if isinstance(variant, NativeVariant):
        return tuple(each for each in images if each.cpu == variant.cpu) or images
    return images
