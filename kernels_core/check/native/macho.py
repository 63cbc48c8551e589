"""Reading Mach-O, the format of macOS, with the structures and constants of `macholib`.

The reader of `macholib` is not used: it loads the content of all sections into memory.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from macholib import mach_o

from kernels_core.check.facts.native import Image, MachOImage
from kernels_core.check.native.macho_symbols import TABLES, read_symbols
from kernels_core.check.native.source import Source, UnreadableError, decoded, opened

# torch's largest library has 60 load commands; files for several architectures have two or three.
MAX_COMMANDS = 10_000
MAX_ARCHITECTURES = 16

_CPUS = {"ARM64": "aarch64"}

_LIBRARIES = {
    mach_o.LC_LOAD_DYLIB,
    mach_o.LC_LOAD_WEAK_DYLIB,
    mach_o.LC_REEXPORT_DYLIB,
    mach_o.LC_LAZY_LOAD_DYLIB,
    mach_o.LC_LOAD_UPWARD_DYLIB,
}
# The older load commands for the platform of a library: one for each system.
_OLDER_PLATFORMS = {
    mach_o.LC_VERSION_MIN_MACOSX: mach_o.PLATFORM_MACOS,
    mach_o.LC_VERSION_MIN_IPHONEOS: mach_o.PLATFORM_IOS,
    mach_o.LC_VERSION_MIN_TVOS: mach_o.PLATFORM_TVOS,
    mach_o.LC_VERSION_MIN_WATCHOS: mach_o.PLATFORM_WATCHOS,
}
# The first four bytes, read as a number in little-endian order.
_MAGIC_32_BIT = {mach_o.MH_MAGIC, mach_o.MH_CIGAM}
_STATIC_ARCHIVE = b"!<arch>\n"


def read(file: Path) -> tuple[Image, ...]:
    """Read a file: an image for each 64-bit architecture in it.

    Raises `UnreadableError` where it is malformed, exceeds a limit, or has no 64-bit code.
    """
    with opened(file) as source:
        if int.from_bytes(source.read(0, 4, "the magic number"), "big") in (
            mach_o.FAT_MAGIC,
            mach_o.FAT_MAGIC_64,
        ):
            images = tuple(_read(part) for part in _architectures(source))
        else:
            images = (_read(_Part(source, 0, source.size)),)
    if not images:
        raise UnreadableError("it has no code for 64-bit machines")
    return images


class _Part:
    """One architecture's part of a file; offsets in it count from its own beginning."""

    def __init__(self, source: Source, start: int, size: int) -> None:
        if start + size > source.size:
            raise UnreadableError(
                f"an architecture should be {size} bytes at byte {start}, but the file has "
                f"{source.size} bytes"
            )
        self.source = source
        self.start = start
        self.size = size

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Read a piece; see `Source.read`."""
        if offset + size > self.size:
            raise UnreadableError(f"{what} is beyond the end of its architecture's part")
        return self.source.read(self.start + offset, size, what)


def _architectures(source: Source) -> Iterator[_Part]:
    magic, count = struct.unpack(">II", source.read(0, 8, "the list of architectures"))
    if count > MAX_ARCHITECTURES:
        raise UnreadableError(
            f"it has {count} architectures, more than the limit of {MAX_ARCHITECTURES}"
        )
    entry: Any = mach_o.fat_arch if magic == mach_o.FAT_MAGIC else mach_o.fat_arch64
    table = source.read(8, count * entry._size_, "the list of architectures")
    for at in range(0, len(table), entry._size_):
        header = entry.from_str(table[at : at + entry._size_], _endian_=">")
        part = _Part(source, int(header.offset), int(header.size))
        start = part.read(0, 8, "the start of an architecture")
        # No macOS with torch loads 32-bit code, and static libraries are linked, not loaded.
        if start != _STATIC_ARCHIVE and int.from_bytes(start[:4], "little") not in _MAGIC_32_BIT:
            yield part


def _read(part: _Part) -> MachOImage:
    header: Any = mach_o.mach_header_64.from_str(
        part.read(0, mach_o.mach_header_64._size_, "the header"), _endian_="<"
    )
    if header.magic != mach_o.MH_MAGIC_64:
        raise UnreadableError("it is not for little-endian 64-bit machines")
    if header.filetype not in (mach_o.MH_DYLIB, mach_o.MH_BUNDLE):
        kind = mach_o.MH_FILETYPE_NAMES.get(header.filetype, f"type {int(header.filetype)}")
        raise UnreadableError(f"it is not a dynamic library but a {kind}")
    cpu = mach_o.CPU_TYPE_NAMES.get(header.cputype, str(int(header.cputype)))
    commands = _Commands()
    for number, content in _commands(part, header):
        commands.add(number, content)
    symbols = read_symbols(part.read, commands.tables)
    return MachOImage(
        cpu=_CPUS.get(cpu, cpu),
        os="darwin",
        libraries=tuple(commands.libraries),
        imported=tuple(symbols.imported),
        optional=frozenset(name for name, may_miss in symbols.imported.items() if may_miss),
        exported=tuple(symbols.exported),
        platforms=commands.platforms,
        run_paths=tuple(commands.run_paths),
        install_name=commands.install_name,
        signed=commands.signed,
    )


def _commands(part: _Part, header: Any) -> Iterator[tuple[int, bytes]]:
    """The number and the content of each load command, without its own header."""
    if header.ncmds > MAX_COMMANDS:
        raise UnreadableError(
            f"it has {int(header.ncmds)} load commands, over the limit of {MAX_COMMANDS}"
        )
    table = part.read(mach_o.mach_header_64._size_, int(header.sizeofcmds), "the load commands")
    at = 0
    for _ in range(header.ncmds):
        if at + 8 > len(table):
            raise UnreadableError("its load commands are truncated")
        number, size = struct.unpack_from("<II", table, at)
        if size < 8 or at + size > len(table):
            raise UnreadableError(f"a load command has {size} bytes, which does not fit")
        yield number, table[at + 8 : at + size]
        at += size


class _Commands:
    """The facts in the load commands."""

    def __init__(self) -> None:
        self.libraries: list[str] = []
        self.run_paths: list[str] = []
        self.platforms: dict[str, tuple[int, int]] = {}
        self.install_name = ""
        self.signed = False
        self.tables: dict[int, Any] = {}

    def add(self, number: int, content: bytes) -> None:
        if number in _LIBRARIES:
            command = _structure(mach_o.dylib_command, content)
            self.libraries.append(_string(content, command.name))
        elif number == mach_o.LC_ID_DYLIB:
            command = _structure(mach_o.dylib_command, content)
            self.install_name = _string(content, command.name)
        elif number == mach_o.LC_RPATH:
            command = _structure(mach_o.rpath_command, content)
            self.run_paths.append(_string(content, command.path))
        elif number == mach_o.LC_BUILD_VERSION:
            command = _structure(mach_o.build_version_command, content)
            self._add_platform(command.platform, command.minos)
        elif number in _OLDER_PLATFORMS:
            command = _structure(mach_o.version_min_command, content)
            self._add_platform(_OLDER_PLATFORMS[number], command.version)
        elif number == mach_o.LC_CODE_SIGNATURE:
            self.signed = True
        elif number in TABLES:
            self.tables[number] = _structure(mach_o.LC_REGISTRY[number], content)

    def _add_platform(self, platform: int, version: int) -> None:
        name = mach_o.PLATFORM_NAMES.get(platform, f"platform {int(platform)}")
        self.platforms[name] = (version >> 16, version >> 8 & 0xFF)


def _structure(structure: Any, content: bytes) -> Any:
    if len(content) < structure._size_:
        raise UnreadableError(f"a load command ({structure.__name__}) is too short")
    return structure.from_str(content[: structure._size_], _endian_="<")


def _string(content: bytes, offset: int) -> str:
    # The offset counts from the command's own header, which has 8 bytes.
    if not 8 <= offset < 8 + len(content):
        raise UnreadableError("a name in the load commands is outside its command")
    return decoded(content[offset - 8 :].split(b"\0", 1)[0])
