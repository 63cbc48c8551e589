"""Reading PE, the format of Windows.

Headers, sections and addresses are read by `pefile`. The import and export tables are read here:
`pefile` skips entries that it considers odd, reads at most 8,192 imports, and copies sections.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from struct import Struct
from typing import Any

import attrs
import pefile

from kernels_core.check.facts.native import Image, PeImage
from kernels_core.check.native.device_code import read_device_code
from kernels_core.check.native.source import Budget, Source, UnreadableError, decoded, opened

MAX_LIBRARIES = 10_000

# How much is read to find the end of a name: nearly all are short, but those of C++ may be long.
_LENGTHS = (256, 2**14)

_CPUS = {
    "IMAGE_FILE_MACHINE_AMD64": "x86_64",
    "IMAGE_FILE_MACHINE_ARM64": "aarch64",
    "IMAGE_FILE_MACHINE_I386": "i686",
    "IMAGE_FILE_MACHINE_ARMNT": "armv7l",
}
_SIZE_OF_SECTION = 40
_IS_LIBRARY = 0x2000  # IMAGE_FILE_DLL

_EXPORTS, _IMPORTS, _DELAYED_IMPORTS = 0, 1, 13
_EXPORT_DIRECTORY = Struct("<24xI4xI4x")  # number of names, address of their addresses
_IMPORT_ENTRY = Struct("<I8xII")  # table of lookups, name of the library, table of addresses
_ADDRESS = Struct("<I")
_DELAYED_ENTRY = Struct("<II8xI12x")  # attributes, name of the library, table of lookups


def read(file: Path) -> tuple[Image, ...]:
    """Read a file. Raises `UnreadableError` where it is malformed or exceeds a limit."""
    with opened(file) as source:
        source.read(0, 64, "the header of DOS")
        with mmap.mmap(source.stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                headers = pefile.PE(data=content, fast_load=True)
            except pefile.PEFormatError as error:
                raise UnreadableError(f"it is truncated or damaged: {error.value}") from error
            return (_read(source, headers),)


def _read(source: Source, headers: Any) -> PeImage:
    if not headers.FILE_HEADER.Characteristics & _IS_LIBRARY:
        raise UnreadableError("it is not a dynamic library but a program")
    _expect_whole(source, headers)
    machine = headers.FILE_HEADER.Machine
    cpu = str(pefile.MACHINE_TYPE.get(machine, f"machine {machine:#x}"))
    memory = _Memory(source, headers)
    imports = [*_imports(memory), *_delayed_imports(memory)]
    return PeImage(
        cpu=_CPUS.get(cpu, cpu),
        os="windows",
        libraries=_distinct(each.library for each in imports),
        imported=_distinct(name for each in imports for name in each.names),
        exported=tuple(_exports(memory)),
        device_code=read_device_code(source, dict(_sections(headers))),
        by_number=_distinct(each.library for each in imports if each.by_number),
    )


def _expect_whole(source: Source, headers: Any) -> None:
    """Windows loads no truncated library; `pefile` reads what is left of it."""
    header, count = headers.FILE_HEADER, headers.FILE_HEADER.NumberOfSections
    table = headers.OPTIONAL_HEADER.get_file_offset() + header.SizeOfOptionalHeader
    source.read(table, _SIZE_OF_SECTION * count, "the table of sections")
    if not count or len(headers.sections) != count:
        raise UnreadableError(f"it has only {len(headers.sections)} of {count} sections")
    for section in headers.sections:
        end = section.PointerToRawData + section.SizeOfRawData
        if section.SizeOfRawData and end > source.size:
            name = decoded(section.Name.rstrip(b"\0"))
            raise UnreadableError(f"its section {name} extends beyond the end of the file")


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _sections(headers: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for section in headers.sections:
        name = section.Name.rstrip(b"\0").decode("latin-1")
        yield name, (section.PointerToRawData, section.SizeOfRawData)


@attrs.define
class _Import:
    """What is imported from one library, by name and by ordinal."""

    library: str
    names: list[str] = attrs.field(factory=list)
    by_number: bool = False


class _Memory:
    """The file, read by the relative addresses at which Windows maps it."""

    def __init__(self, source: Source, headers: Any) -> None:
        self._source = source
        self._headers = headers
        self._budget = Budget()
        is_64_bit = headers.PE_TYPE == pefile.OPTIONAL_HEADER_MAGIC_PE_PLUS
        self._lookup = Struct("<Q" if is_64_bit else "<I")
        self._by_number = 1 << (63 if is_64_bit else 31)

    def directory(self, number: int) -> int:
        """The address of a directory; 0 when the file has none."""
        directories = self._headers.OPTIONAL_HEADER.DATA_DIRECTORY
        return int(directories[number].VirtualAddress) if number < len(directories) else 0

    def offset(self, address: int, what: str) -> int:
        try:
            return int(self._headers.get_offset_from_rva(address))
        except pefile.PEFormatError:
            raise UnreadableError(f"{what} is at {address:#x}, outside the file") from None

    def read(self, address: int, size: int, what: str) -> bytes:
        return self._source.read(self.offset(address, what), size, what)

    def unpack(self, layout: Struct, address: int, what: str) -> Any:
        return layout.unpack(self.read(address, layout.size, what))

    def name(self, address: int, what: str) -> str:
        start = self.offset(address, what)
        for size in _LENGTHS:
            content = self._source.read(start, min(size, self._source.size - start), what)
            end = content.find(b"\0")
            if end >= 0:
                self._budget.spend(end)
                return decoded(content[:end])
        raise UnreadableError(f"{what} does not end")

    def imports(self, library: int, lookups: int) -> _Import:
        """The imports from a library; the arguments are addresses of its name and of a table."""
        imports = _Import(self.name(library, "the name of a library"))
        what = "a table of imported symbols"
        while (entry := self.unpack(self._lookup, lookups, what)[0]) != 0:
            lookups += self._lookup.size
            if entry & self._by_number:
                self._budget.spend(0)
                imports.by_number = True
            else:
                imports.names.append(self.name(entry + 2, "the name of an imported symbol"))
        return imports


def _imports(memory: _Memory) -> Iterator[_Import]:
    """Imports from libraries that are loaded together with this one."""
    for lookups, name, addresses in _descriptors(memory, _IMPORTS, _IMPORT_ENTRY, "an import"):
        if not name:
            return
        yield memory.imports(name, lookups or addresses)


def _delayed_imports(memory: _Memory) -> Iterator[_Import]:
    """Imports from libraries that are loaded on first use."""
    what = "a delayed import"
    for attributes, name, lookups in _descriptors(memory, _DELAYED_IMPORTS, _DELAYED_ENTRY, what):
        if not name:
            return
        if not attributes & 1:
            raise UnreadableError(f"{what} has addresses in the format of old 32-bit libraries")
        yield memory.imports(name, lookups)


def _descriptors(memory: _Memory, number: int, layout: Struct, what: str) -> Iterator[Any]:
    """The entries of a directory; the caller has to recognize the last one."""
    address = memory.directory(number)
    if address:
        for count in range(MAX_LIBRARIES):
            yield memory.unpack(layout, address + count * layout.size, what)
        raise UnreadableError(f"it has more than {MAX_LIBRARIES} libraries")


def _exports(memory: _Memory) -> Iterator[str]:
    address = memory.directory(_EXPORTS)
    if not address:
        return
    count, table = memory.unpack(_EXPORT_DIRECTORY, address, "the directory of exports")
    addresses = memory.read(table, 4 * count, "the table of exported names") if count else b""
    for (name,) in _ADDRESS.iter_unpack(addresses):
        yield memory.name(name, "the name of an exported symbol")
