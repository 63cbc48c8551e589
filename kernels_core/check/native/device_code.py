"""Code for accelerators in libraries: its architectures, read from the headers before it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from struct import Struct, error

from kernels_core.check.native.source import Source, UnreadableError
from kernels_core.check.tables import table

# torch's largest library has about ten thousand; beyond this limit, the code counts as unknown.
MAX_PARTS = 100_000

_PIECE = 2**20

# Container: magic, version, size of this header, size of what follows.
_FATBIN = Struct("<IHHQ")
# Part: kind, version, size of this header, size of the code, architecture, flags.
_FATBIN_PART = Struct("<HHIQ12xI8xQ16x")
_ASSEMBLY, _MACHINE_CODE = 1, 2
_FLAGS = {1 << 20: "a", 1 << 21: "f"}  # code for one architecture, or one family of them, only

# Container: magic, number of parts. Part: offset in the container, size, length of the id after it.
_BUNDLE = Struct("<24sQ")
_BUNDLE_PART = Struct("<QQQ")
_MAX_ID = 256


class _UnknownCodeError(Exception):
    """The code has an unknown format, so its architectures are unknown."""


def read_device_code(
    source: Source, sections: Mapping[str, tuple[int, int]] | None
) -> tuple[str, ...]:
    """The architectures that a library has code for, sorted, spelled like `backend.archs`.

    None where it has no such code, or code in an unknown form. Without `sections` (their offsets
    and sizes) the whole file is searched for code.
    """
    found: set[str] = set()
    try:
        for name, container in table("device_code")["containers"].items():
            places = [(0, source.size)]
            if sections is not None:
                places = [sections[each] for each in container["sections"] if each in sections]
            for offset, size in places:
                end = min(offset + size, source.size)
                found.update(_READERS[name](source, offset, end, container))
    except (_UnknownCodeError, UnreadableError, error):
        return ()
    return tuple(sorted(found))


def _fatbins(source: Source, start: int, end: int, container: Mapping[str, str]) -> Iterator[str]:
    magic, count = bytes.fromhex(container["magic"]), 0
    while (position := _find(source, magic, start, end)) is not None:
        _, version, header, size = _FATBIN.unpack(_head(source, position, _FATBIN))
        if (version, header) != (1, _FATBIN.size) or position % 8:
            start = position + len(magic)  # Code that reads fatbins contains the number, too.
            continue
        start, stop = position + header, position + header + size
        if stop > end:
            raise _UnknownCodeError
        while start < stop:
            kind, _, header, size, arch, flags = _FATBIN_PART.unpack(
                _head(source, start, _FATBIN_PART)
            )
            count += 1
            if header < _FATBIN_PART.size or count > MAX_PARTS:
                raise _UnknownCodeError
            if kind in (_ASSEMBLY, _MACHINE_CODE):
                level = "".join(letter for bit, letter in _FLAGS.items() if flags & bit)
                yield f"{arch // 10}.{arch % 10}{level}{'+PTX' if kind == _ASSEMBLY else ''}"
            start += header + size
        start = stop


def _bundles(source: Source, start: int, end: int, container: Mapping[str, str]) -> Iterator[str]:
    magic, count = bytes.fromhex(container["magic"]), 0
    if _find(source, bytes.fromhex(container["compressed"]), start, end) is not None:
        raise _UnknownCodeError
    while (position := _find(source, magic, start, end)) is not None:
        _, parts = _BUNDLE.unpack(_head(source, position, _BUNDLE))
        start = position + _BUNDLE.size
        for _ in range(parts):
            _, _, length = _BUNDLE_PART.unpack(_head(source, start, _BUNDLE_PART))
            count += 1
            if length > _MAX_ID or count > MAX_PARTS:
                raise _UnknownCodeError
            name = source.read(start + _BUNDLE_PART.size, length, "an id").decode(
                "ascii", "replace"
            )
            if match := re.fullmatch(container["ids"], name):
                yield match[1]
            start += _BUNDLE_PART.size + length


_READERS = {"fatbin": _fatbins, "bundle": _bundles}


def _head(source: Source, position: int, layout: Struct) -> bytes:
    return source.read(position, layout.size, "a header of code")


def _find(source: Source, magic: bytes, start: int, end: int) -> int | None:
    """The next position of the bytes."""
    while start + len(magic) <= end:
        piece = source.read(start, min(_PIECE, end - start), "code")
        if (position := piece.find(magic)) >= 0:
            return start + position
        start += len(piece) - len(magic) + 1
    return None
