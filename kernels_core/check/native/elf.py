"""Reading ELF, the format of Linux, as the loader does: by segments and the dynamic table.

Section headers can be stripped without affecting the loader, so no rule depends on them, except
those about code for accelerators, which is searched for where they are missing.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_D_TAG

from kernels_core.check.facts.native import ElfImage, Image, VersionNeed
from kernels_core.check.native.device_code import read_device_code
from kernels_core.check.native.source import (
    MAX_SYMBOLS,
    Budget,
    Source,
    UnreadableError,
    decoded,
    opened,
)

# torch's largest libraries have 10 segments, 30 dynamic tags and 60 needed versions.
MAX_SEGMENTS = 1_000
MAX_TAGS = 10_000
MAX_VERSIONS = 10_000

# How much of a long table is read at once; a multiple of the size of every kind of entry.
_PIECE = 24 * 2**16

# (machine, bits, byte order) as variant names spell the CPU.
_CPUS = {
    ("EM_X86_64", 64, "little"): "x86_64",
    ("EM_X86_64", 32, "little"): "x32",
    ("EM_386", 32, "little"): "i686",
    ("EM_AARCH64", 64, "little"): "aarch64",
    ("EM_AARCH64", 64, "big"): "aarch64_be",
    ("EM_ARM", 32, "little"): "armv7l",
    ("EM_PPC64", 64, "little"): "ppc64le",
    ("EM_PPC64", 64, "big"): "ppc64",
    ("EM_S390", 64, "big"): "s390x",
    ("EM_RISCV", 64, "little"): "riscv64",
    ("EM_LOONGARCH", 64, "little"): "loongarch64",
}
_SYSTEMS = {
    "ELFOSABI_SYSV": "linux",
    "ELFOSABI_LINUX": "linux",
    "ELFOSABI_FREEBSD": "freebsd",
    "ELFOSABI_NETBSD": "netbsd",
    "ELFOSABI_OPENBSD": "openbsd",
    "ELFOSABI_SOLARIS": "solaris",
}
_LIBRARY = "ET_DYN"

_WITHOUT_CONTENT = (0, 8)  # SHT_NULL, SHT_NOBITS
_UNDEFINED = 0
_LOCAL, _WEAK = 0, 2
_HIDDEN = (1, 2)  # internal, hidden
_WEAK_VERSION = 0x2  # VER_FLG_WEAK: the loader accepts a library without it, too
_TEXT_RELOCATIONS = 0x4  # DF_TEXTREL
_EXECUTABLE = 0x1  # PF_X


def read(file: Path) -> tuple[Image, ...]:
    """Read a file. Raises `UnreadableError` where it is malformed or exceeds a limit."""
    with opened(file) as source:
        try:
            return (_read(source),)
        except ELFError as error:
            raise UnreadableError(f"it is truncated or damaged: {error}") from error


def _read(source: Source) -> ElfImage:
    elf = ELFFile(source.stream)
    if elf["e_type"] != _LIBRARY:
        raise UnreadableError(f"it is not a dynamic library but of type {elf['e_type']}")
    memory = _Memory(source, elf)
    tags = _dynamic_tags(memory)
    strings = _Strings(_table(memory, tags, "STRTAB", "STRSZ"))
    symbols = _Symbols(memory, tags, strings)
    system = elf["e_ident"]["EI_OSABI"]
    paths = [strings.at(offset) for tag in ("RPATH", "RUNPATH") for offset in tags.get(tag, ())]
    flags = tags.get("FLAGS", [0])[0]
    return ElfImage(
        cpu=_CPUS.get((elf["e_machine"], elf.elfclass, memory.byte_order), str(elf["e_machine"])),
        os=_SYSTEMS.get(system, str(system)),
        libraries=tuple(strings.at(offset) for offset in tags.get("NEEDED", ())),
        imported=tuple(symbols.imported),
        optional=frozenset(symbols.optional),
        exported=tuple(symbols.exported),
        device_code=read_device_code(source, _sections(memory, elf)),
        run_paths=tuple(part for path in paths for part in path.split(":")),
        version_needs=tuple(symbols.version_needs()),
        unversioned=tuple(symbols.unversioned),
        relative_relocations="RELR" in tags,
        executable_stack=memory.stack_flags & _EXECUTABLE != 0,
        text_relocations="TEXTREL" in tags or flags & _TEXT_RELOCATIONS != 0,
    )


class _Memory:
    """The file by the addresses at which it is loaded."""

    def __init__(self, source: Source, elf: Any) -> None:
        self.source = source
        self.elf = elf
        self.byte_order = "little" if elf.little_endian else "big"
        self.is_64_bit = elf.elfclass == 64
        self.segments: list[tuple[int, int, int]] = []  # address, size, offset in the file
        self.dynamic: tuple[int, int] | None = None
        self.stack_flags = _EXECUTABLE  # the default of the loader
        size, count = elf.structs.Elf_Phdr.sizeof(), elf["e_phnum"]
        if elf["e_phentsize"] != size or count > MAX_SEGMENTS:
            raise UnreadableError(
                f"its header declares {count} segments of {elf['e_phentsize']} bytes each; "
                f"expected at most {MAX_SEGMENTS} of {size} bytes"
            )
        for number in range(count):
            content = source.read(elf["e_phoff"] + number * size, size, "the table of segments")
            header = elf.structs.Elf_Phdr.parse(content)
            if header["p_type"] == "PT_LOAD":
                if header["p_offset"] + header["p_filesz"] > source.size:
                    raise UnreadableError(
                        f"it is truncated: a segment ends at byte "
                        f"{header['p_offset'] + header['p_filesz']}, and the file has {source.size}"
                    )
                self.segments.append((header["p_vaddr"], header["p_filesz"], header["p_offset"]))
            elif header["p_type"] == "PT_DYNAMIC":
                self.dynamic = header["p_vaddr"], header["p_filesz"]
            elif header["p_type"] == "PT_GNU_STACK":
                self.stack_flags = header["p_flags"]

    def offset(self, address: int, size: int, what: str) -> int:
        """The offset of a part in the file."""
        for start, length, offset in self.segments:
            if start <= address and address + size <= start + length:
                return offset + address - start
        raise UnreadableError(f"{what} is not in a loaded segment: {size} bytes at {address:#x}")

    def read(self, address: int, size: int, what: str) -> bytes:
        return self.source.read(self.offset(address, size, what), size, what)

    def read_up_to(self, address: int, size: int, what: str) -> bytes:
        """Read a part, or less of it where the loaded segment ends."""
        for start, length, _ in self.segments:
            if start <= address < start + length:
                size = min(size, start + length - address)
        return self.read(address, size, what)

    def pieces(self, address: int, size: int, what: str) -> Iterator[bytes]:
        """A long table, in parts that contain whole entries."""
        for start in range(0, size, _PIECE):
            yield self.read(address + start, min(_PIECE, size - start), what)

    def number(self, address: int, what: str) -> int:
        return int.from_bytes(self.read(address, 4, what), self.byte_order)  # type: ignore[arg-type]

    def numbers(self, code: str, content: bytes) -> array[int]:
        """The numbers in a part; code is "H", "I" or "Q" for 2, 4 and 8 bytes."""
        found = array(code, content[: len(content) // array(code).itemsize * array(code).itemsize])
        if self.byte_order != sys.byteorder:
            found.byteswap()
        return found

    def struct(self, fields: str) -> Struct:
        return Struct(("<" if self.byte_order == "little" else ">") + fields)


class _Strings:
    """The table of names."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        # Names may overlap, so that a small table could have very many.
        self._budget = Budget()

    def at(self, offset: int) -> str:
        end = self._content.find(b"\0", offset)
        if offset >= len(self._content) or end < 0:
            raise UnreadableError(f"a name is outside the table of names, at {offset}")
        self._budget.spend(end - offset)
        return decoded(self._content[offset:end])


def _dynamic_tags(memory: _Memory) -> dict[str, list[int]]:
    """The values of each tag, by its name without DT_."""
    if memory.dynamic is None:
        raise UnreadableError("it is not a dynamic library: it has no dynamic segment")
    names = {number: name[3:] for name, number in ENUM_D_TAG.items() if isinstance(number, int)}
    entry = memory.struct("QQ" if memory.is_64_bit else "II")
    address, size = memory.dynamic
    content = memory.read(address, size - size % entry.size, "the dynamic segment")
    tags: dict[str, list[int]] = {}
    for count, (tag, value) in enumerate(entry.iter_unpack(content)):
        if tag == 0:
            return tags
        if count > MAX_TAGS:
            raise UnreadableError(f"it has more than {MAX_TAGS} dynamic tags, the limit")
        tags.setdefault(names.get(tag, hex(tag)), []).append(value)
    return tags


def _table(memory: _Memory, tags: dict[str, list[int]], address: str, size: str) -> bytes:
    try:
        return memory.read(tags[address][0], tags[size][0], f"the table of DT_{address}")
    except KeyError as error:
        raise UnreadableError(f"its dynamic segment has no DT_{error.args[0]}") from None


class _Symbols:
    """The dynamic symbols, which are never stripped, and their versions."""

    def __init__(self, memory: _Memory, tags: dict[str, list[int]], strings: _Strings) -> None:
        self.imported: list[str] = []
        self.optional: list[str] = []
        self.exported: list[str] = []
        self.unversioned: list[str] = []
        self._needs = dict(_version_needs(memory, tags, strings))
        self._users: dict[int, list[str]] = {index: [] for index in self._needs}
        if "SYMTAB" not in tags:
            raise UnreadableError("its dynamic segment has no DT_SYMTAB")
        count = _count_of_symbols(memory, tags)
        if count > MAX_SYMBOLS:
            raise UnreadableError(f"it has {count} symbols, more than the limit of {MAX_SYMBOLS}")
        indices = array("H", bytes(2 * count))
        if "VERSYM" in tags:
            table = memory.read(tags["VERSYM"][0], 2 * count, "the table of versions")
            indices = memory.numbers("H", table)
        # Name, information, visibility and section; the value and size are left out.
        entry = memory.struct("IBBH16x" if memory.is_64_bit else "I8xBBH")
        number = 0
        for piece in memory.pieces(tags["SYMTAB"][0], count * entry.size, "the table of symbols"):
            for name, information, visibility, section in entry.iter_unpack(piece):
                binding = information >> 4
                if name and binding != _LOCAL:
                    text = strings.at(name)
                    if section == _UNDEFINED:
                        self._add_imported(text, binding == _WEAK, indices[number] & 0x7FFF)
                    elif visibility & 3 not in _HIDDEN:
                        self.exported.append(text)
                number += 1

    def _add_imported(self, name: str, weak: bool, version: int) -> None:
        self.imported.append(name)
        if weak:
            self.optional.append(name)
        if version in self._users:
            self._users[version].append(name)
        elif not weak:
            self.unversioned.append(name)

    def version_needs(self) -> Iterator[VersionNeed]:
        for index, (library, version) in self._needs.items():
            yield VersionNeed(library, version, tuple(sorted(self._users[index])))


def _count_of_symbols(memory: _Memory, tags: dict[str, list[int]]) -> int:
    """The number of symbols. No field has it: it follows from hash tables and relocations."""
    counts = [0]
    if "HASH" in tags:
        counts.append(memory.number(tags["HASH"][0] + 4, "the hash table"))
    if "GNU_HASH" in tags:
        counts.append(_count_in_gnu_hash(memory, tags["GNU_HASH"][0]))
    for address, size, entry in (
        ("RELA", "RELASZ", 24 if memory.is_64_bit else 12),
        ("REL", "RELSZ", 16 if memory.is_64_bit else 8),
        ("JMPREL", "PLTRELSZ", _size_of_plt_entry(memory, tags)),
    ):
        if address in tags and size in tags:
            counts.append(_count_in_relocations(memory, tags[address][0], tags[size][0], entry))
    return max(counts)


def _count_in_gnu_hash(memory: _Memory, address: int) -> int:
    what = "the GNU hash table"
    header = memory.read(address, 16, what)
    buckets, first, filters, _ = memory.struct("IIII").unpack(header)
    address += 16 + filters * (8 if memory.is_64_bit else 4)
    last = max(memory.numbers("I", memory.read(address, 4 * buckets, what)), default=0)
    if last < first:
        return int(first) if last else 0
    # The last chain ends with an odd number.
    address += 4 * buckets + 4 * (last - first)
    number = last
    while number <= MAX_SYMBOLS:
        for link in memory.numbers("I", memory.read_up_to(address, 1024, what)):
            number += 1
            if link & 1:
                return number
        address += 1024
    return number


def _size_of_plt_entry(memory: _Memory, tags: dict[str, list[int]]) -> int:
    with_addend = tags.get("PLTREL", [0])[0] == ENUM_D_TAG["DT_RELA"]
    return (3 if with_addend else 2) * (8 if memory.is_64_bit else 4)


def _count_in_relocations(memory: _Memory, address: int, size: int, entry: int) -> int:
    code, shift = ("Q", 32) if memory.is_64_bit else ("I", 8)
    step = entry // array(code).itemsize
    highest = 0
    for piece in memory.pieces(address, size, "the table of relocations"):
        highest = max(highest, max(memory.numbers(code, piece)[1::step], default=0) >> shift)
    return highest + 1


def _version_needs(
    memory: _Memory, tags: dict[str, list[int]], strings: _Strings
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Each needed version by the index that symbols refer to it by: library and version."""
    if "VERNEED" not in tags:
        return
    need, one = memory.struct("HHIII"), memory.struct("IHHII")
    address, what, count = tags["VERNEED"][0], "the table of needed versions", 0
    for _ in range(tags.get("VERNEEDNUM", [0])[0]):
        _, versions, library, first, following = need.unpack(memory.read(address, need.size, what))
        inner = address + first
        for _ in range(versions):
            _, flags, index, name, distance = one.unpack(memory.read(inner, one.size, what))
            if not flags & _WEAK_VERSION:
                yield index & 0x7FFF, (strings.at(library), strings.at(name))
            count += 1
            if count > MAX_VERSIONS:
                raise UnreadableError(f"it needs more than {MAX_VERSIONS} versions")
            if not distance:
                break
            inner += distance
        if not following:
            break
        address += following


def _sections(memory: _Memory, elf: Any) -> dict[str, tuple[int, int]] | None:
    """Offset and size of each section in the file; None when it has no section headers."""
    if not elf["e_shoff"] or not elf["e_shnum"]:
        return None
    # Name, type, offset and size.
    entry = memory.struct("II16xQQ24x" if memory.is_64_bit else "II8xII16x")
    if elf["e_shentsize"] != entry.size:
        return None
    source = memory.source
    content = source.read(elf["e_shoff"], elf["e_shnum"] * entry.size, "the table of sections")
    headers = list(entry.iter_unpack(content))
    if elf["e_shstrndx"] >= len(headers):
        return None
    _, _, offset, size = headers[elf["e_shstrndx"]]
    strings = _Strings(source.read(offset, size, "the names of sections"))
    return {
        strings.at(name): (offset, size)
        for name, kind, offset, size in headers
        if kind not in _WITHOUT_CONTENT
    }
