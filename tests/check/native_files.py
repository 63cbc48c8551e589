"""Libraries for macOS and Windows to check: compiled by zig, or written byte by byte.

zig includes everything that is needed to link for both systems. What it cannot produce is built
here from the structures in Apple's `mach-o/loader.h` and `mach-o/fixup-chains.h` and in Microsoft's
"PE Format".
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from kernels_core.check.native.reading import read_native

T = TypeVar("T")

# A Python module: in Python since 3.2, in its stable ABI from the beginning.
MODULE = """
extern void *PyModule_Create2(void *, int);
EXPORT void *PyInit_activation(void) { return PyModule_Create2(0, 1013); }
"""

_HEADER = {
    "macos": '#define EXPORT __attribute__((visibility("default")))\n',
    "windows": """
#define EXPORT __declspec(dllexport)
int DllMainCRTStartup(void *a, unsigned b, void *c) { return 1; }
""",
}


class Zig:
    """Compiles for other systems, into files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._count = 0

    def macos(
        self,
        source: str = MODULE,
        *flags: str,
        cpu: str = "aarch64",
        release: str = "15.0",
        name: str = "activation.abi3.so",
    ) -> Path:
        """A library for macOS; missing functions are expected in the program."""
        target = self._file(name)
        flags = ("-nostdlib", "-Wl,-undefined,dynamic_lookup", *flags)
        if not any("install_name" in flag for flag in flags):
            flags = ("-Wl,-install_name,@rpath/activation.abi3.so", *flags)
        self._compile("macos", f"{cpu}-macos.{release}", source, target, flags)
        return target

    def windows(
        self,
        source: str = MODULE,
        libraries: Mapping[str, Iterable[str]] | None = None,
        *,
        cpu: str = "x86_64",
        name: str = "activation.pyd",
    ) -> Path:
        """A library for Windows that imports these functions from these libraries."""
        target = self._file(name)
        if libraries is None:
            libraries = {"python3.dll": ["PyModule_Create2"]}
        flags = ["-nostdlib", *(self._import_library(*each, cpu) for each in libraries.items())]
        self._compile("windows", f"{cpu}-windows-gnu", source, target, flags)
        return target

    def _import_library(self, library: str, functions: Iterable[str], cpu: str) -> str:
        definition = self._file(f"{library}.def")
        definition.write_text("\n".join([f"LIBRARY {library}", "EXPORTS", *functions]))
        target = definition.with_suffix(".lib")
        machine = {"x86_64": "i386:x86-64", "aarch64": "arm64"}[cpu]
        self._run("dlltool", "-m", machine, "-d", str(definition), "-l", str(target))
        return str(target)

    def _compile(
        self, system: str, target: str, source: str, output: Path, flags: Sequence[str]
    ) -> None:
        file = output.with_suffix(".c")
        file.write_text(_HEADER[system] + source)
        common = ["-fno-sanitize=all", "-O1", "-shared", "-o", str(output), str(file)]
        self._run("cc", "-target", target, *common, *flags)

    def _file(self, name: str) -> Path:
        self._count += 1
        file = self.directory / str(self._count) / name
        file.parent.mkdir(parents=True)
        return file

    def _run(self, *arguments: str) -> None:
        cache = str(self.directory / "cache")
        caches = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        command = [sys.executable, "-m", "ziglang", *arguments]
        done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# Mach-O: load commands.
SEGMENT, SYMTAB, DYLIB, ID_DYLIB, RPATH = 0x19, 0x2, 0xC, 0xD, 0x8000001C
CODE_SIGNATURE, DYLD_INFO_ONLY, VERSION_MIN_MACOSX = 0x1D, 0x80000022, 0x24
BUILD_VERSION, EXPORTS_TRIE, CHAINED_FIXUPS = 0x32, 0x80000033, 0x80000034
ARM64, X86_64, I386 = 0x0100000C, 0x01000007, 7
MACOS, IOS = 1, 2


def command(number: int, *values: int, text: str | None = None) -> bytes:
    """A load command of 32-bit numbers; with a text, its place comes before them."""
    content = struct.pack(f"<{len(values)}I", *values)
    if text is not None:
        content = struct.pack("<I", 12 + len(content)) + content + text.encode() + b"\0"
    content += bytes(-len(content) % 8)
    return struct.pack("<II", number, 8 + len(content)) + content


def for_release(release: int, platform: int = MACOS) -> bytes:
    """The load command that says the oldest release."""
    return command(BUILD_VERSION, platform, release << 16, release << 16, 0)


def macho(
    commands: Sequence[bytes],
    tables: Mapping[int, bytes] | None = None,
    *,
    cpu: int = ARM64,
    kind: int = 6,
    signed: bool = True,
) -> bytes:
    """A library for macOS with these load commands, and with tables that commands point to."""
    tables = dict(tables or {})
    commands = list(commands) + ([command(CODE_SIGNATURE, 0, 0)] if signed else [])
    offset = 32 + sum(map(len, commands)) + 16 * len(tables)
    for number, table in tables.items():
        commands.append(command(number, offset, len(table)))
        offset += len(table)
    content = b"".join(commands)
    header = struct.pack("<IIIIIIII", 0xFEEDFACF, cpu, 0, kind, len(commands), len(content), 0, 0)
    return header + content + b"".join(tables.values())


def chained_fixups(names: Sequence[str], kind: int = 1, weak: Iterable[str] = ()) -> bytes:
    """The table of newer files that lists what is imported, in one of its three forms."""
    strings, entries = b"\0", b""
    for name in names:
        is_weak, at = int(name in weak), len(strings)
        if kind == 3:
            entries += struct.pack("<QQ", 0xFFFE | is_weak << 16 | at << 32, 0)
        else:
            entries += struct.pack("<I", 0xFE | is_weak << 8 | at << 9) + bytes(4 * (kind - 1))
        strings += name.encode() + b"\0"
    end = 28 + len(entries)
    return struct.pack("<7I", 0, 28, 28, end, len(names), kind, 0) + entries + strings


def exports_trie(name: str) -> bytes:
    """The table of exports with one name."""
    edge = name.encode() + b"\0"
    return b"\0\1" + edge + bytes([len(edge) + 3]) + b"\2\0\0\0"


def symbol(name: int, kind: int, description: int = 0) -> bytes:
    """A row of the table of symbols; the name is its place among the names."""
    return struct.pack("<IBBHQ", name, kind, 0, description, 0)


def universal(parts: Mapping[int, bytes], *, wide: bool = False) -> bytes:
    """A file for several CPUs; `wide` has 64-bit offsets."""
    layout = struct.Struct(">IIQQII" if wide else ">IIIII")
    header = struct.pack(">II", 0xCAFEBABF if wide else 0xCAFEBABE, len(parts))
    offset = len(header) + layout.size * len(parts)
    for cpu, part in parts.items():
        header += layout.pack(cpu, 0, offset, len(part), 0, *([0] if wide else []))
        offset += len(part)
    return header + b"".join(parts.values())


Imports = Mapping[str, Sequence["str | int"]]


def pe(
    imports: Imports,
    *,
    delayed: Imports | None = None,
    exports: Sequence[str] = ("PyInit_activation",),
    machine: int = 0x8664,
    characteristics: int = 0x2022,
    with_lookups: bool = True,
) -> bytes:
    """A library for Windows: headers, and one section with the tables of imports and exports.

    Functions are imported by name, or by number. Some linkers write no table of lookups for them,
    only the table that the loader fills with addresses.
    """
    base, start = 0x1000, 0x200
    body = bytearray()

    def put(content: bytes) -> int:
        body.extend(bytes(-len(body) % 8))
        body.extend(content)
        return base + len(body) - len(content)

    def lookups(functions: Sequence[str | int]) -> int:
        entries = [
            1 << 63 | function
            if isinstance(function, int)
            else put(b"\0\0" + function.encode() + b"\0")
            for function in functions
        ]
        return put(struct.pack(f"<{len(entries) + 1}Q", *entries, 0))

    def name(text: str) -> int:
        return put(text.encode() + b"\0")

    now = [
        (lookups(f), 0, 0, name(library), lookups([5]))  # whose addresses are filled in already
        if with_lookups
        else (0, 0, 0, name(library), lookups(f))
        for library, f in imports.items()
    ]
    later = [
        (1, name(library), 0, lookups(f), lookups(f), 0, 0, 0)
        for library, f in (delayed or {}).items()
    ]
    addresses = put(struct.pack(f"<{len(exports)}I", *[name(export) for export in exports]))
    numbers = put(struct.pack(f"<{len(exports)}H", *range(len(exports))))
    directories = [(0, 0)] * 16
    directory = (0, 0, 0, 0, 1, len(exports), len(exports), addresses, addresses, numbers)
    directories[0] = (put(struct.pack("<10I", *directory)), 40)
    directories[1] = (put(b"".join(struct.pack("<5I", *each) for each in now) + bytes(20)), 20)
    if later:
        table = b"".join(struct.pack("<8I", *each) for each in later) + bytes(32)
        directories[13] = (put(table), len(table))
    body.extend(bytes(-len(body) % 0x200))
    optional = struct.pack("<HBBIIIII", 0x20B, 0, 0, 0, 0, 0, 0, base)
    optional += struct.pack("<QIIHHHHHHIIIIHH", 1 << 32, 0x1000, 0x200, *[6, 0] * 3, 0, 0x10000,
                            start, 0, 2, 0)  # fmt: skip
    optional += struct.pack("<QQQQII", *[0x1000] * 4, 0, 16)
    optional += b"".join(struct.pack("<II", *each) for each in directories)
    coff = struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, len(optional), characteristics)
    section = struct.pack("<8sIIII12xI", b".rdata", len(body), base, len(body), start, 0x40000040)
    headers = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + section
    return headers.ljust(start, b"\0") + bytes(body)


def image_in(content: bytes, file: Path, kind: type[T]) -> T:
    """The image of a library with one architecture, written to a file."""
    file.write_bytes(content)
    (module,) = read_native(file.name, file, None)
    assert isinstance(module.image, kind), module.unreadable
    return module.image
