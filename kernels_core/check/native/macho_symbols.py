"""The symbols that a Mach-O file imports and exports, from the tables that the loader uses.

There are three generations of these tables: the symbol table; the programs of `LC_DYLD_INFO`,
whose steps bind symbols; and chained fixups with a list of imports. Newer files keep the symbol
table for debuggers only, and it may be stripped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import Any

import attrs
from macholib import mach_o

from kernels_core.check.native.source import Budget, UnreadableError, decoded

Read = Callable[[int, int, str], bytes]

TABLES = (
    mach_o.LC_SYMTAB,
    mach_o.LC_DYLD_INFO,
    mach_o.LC_DYLD_INFO_ONLY,
    mach_o.LC_DYLD_CHAINED_FIXUPS,
    mach_o.LC_DYLD_EXPORTS_TRIE,
)
"""The load commands with the positions of the tables."""

_SYMBOL = Struct("<IBBHQ")
_WEAK_REFERENCE = 0x40  # N_WEAK_REF

_FIXUPS = Struct("<IIIIIII")
# By format: the import, how many bits its flags have before the offset of its name, and which of
# these says that it may be missing.
_IMPORTS = {
    1: (Struct("<I"), 9, 1 << 8),
    2: (Struct("<I4x"), 9, 1 << 8),
    3: (Struct("<Q8x"), 32, 1 << 16),
}

# Steps of the programs that bind symbols: the upper half of a byte, and how many numbers follow.
_SET_SYMBOL = 0x40
_NUMBERS = {0x20: 1, 0x60: 1, 0x70: 1, 0x80: 1, 0xA0: 1, 0xC0: 2}
_THREADED = 0xD0  # a number follows when the lower half is 0
_WEAK_IMPORT = 0x1  # BIND_SYMBOL_FLAGS_WEAK_IMPORT


@attrs.define
class Symbols:
    """The imported symbols (and whether they may be missing) and the exported ones, as in C."""

    imported: dict[str, bool] = attrs.field(factory=dict)
    exported: list[str] = attrs.field(factory=list)


def read_symbols(read: Read, tables: dict[int, Any]) -> Symbols:
    """Read the symbols, given `Source.read` and the load commands of `TABLES`.

    Raises `UnreadableError` where a table is malformed or exceeds a limit.
    """
    info = tables.get(mach_o.LC_DYLD_INFO_ONLY, tables.get(mach_o.LC_DYLD_INFO))
    fixups = tables.get(mach_o.LC_DYLD_CHAINED_FIXUPS)
    trie = tables.get(mach_o.LC_DYLD_EXPORTS_TRIE)
    symbols = Symbols()
    budget = Budget()
    if fixups:
        content = read(fixups.dataoff, fixups.datasize, "the table of fixups")
        _add_imports(symbols, budget, _chained_imports(content))
    elif info:
        for offset, size in (
            (info.bind_off, info.bind_size),
            (info.lazy_bind_off, info.lazy_bind_size),
        ):
            _add_imports(symbols, budget, _bound(read(offset, size, "the program of bindings")))
    if trie:
        content = read(trie.dataoff, trie.datasize, "the table of exports")
        symbols.exported += _exports(content, budget)
    elif info:
        content = read(info.export_off, info.export_size, "the table of exports")
        symbols.exported += _exports(content, budget)
    if not fixups and not info and mach_o.LC_SYMTAB in tables:
        _add_from_table(symbols, budget, read, tables[mach_o.LC_SYMTAB])
    # Symbols that several libraries may define, such as inline C++ functions, are listed as imports
    # also where they are defined.
    for name in symbols.exported:
        symbols.imported.pop(name, None)
    return symbols


def _in_c(name: bytes) -> str:
    return decoded(name[1:] if name.startswith(b"_") else name)


def _add_imports(symbols: Symbols, budget: Budget, imports: Iterator[tuple[bytes, bool]]) -> None:
    for name, optional in imports:
        budget.spend(len(name))
        symbols.imported[_in_c(name)] = optional and symbols.imported.get(_in_c(name), True)


def _name_at(content: bytes, offset: int) -> bytes:
    end = content.find(b"\0", offset)
    if offset >= len(content) or end < 0:
        raise UnreadableError("the name of a symbol is outside its table")
    return content[offset:end]


def _add_from_table(symbols: Symbols, budget: Budget, read: Read, command: Any) -> None:
    size = command.nsyms * _SYMBOL.size
    table = read(command.symoff, size, "the table of symbols")
    names = read(command.stroff, command.strsize, "the names of symbols")
    for offset, kind, _, description, _ in _SYMBOL.iter_unpack(table):
        if kind & mach_o.N_STAB or not kind & mach_o.N_EXT:
            continue
        name = _name_at(names, offset)
        budget.spend(len(name))
        if kind & mach_o.N_TYPE != mach_o.N_UNDF:
            if not kind & mach_o.N_PEXT:
                symbols.exported.append(_in_c(name))
            continue
        symbols.imported[_in_c(name)] = bool(description & _WEAK_REFERENCE)


def _chained_imports(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """The name of each import, and whether it may be missing."""
    if len(content) < _FIXUPS.size:
        raise UnreadableError("the table of fixups is truncated")
    _, _, imports, names, count, kind, compression = _FIXUPS.unpack_from(content)
    if kind not in _IMPORTS or compression:
        raise UnreadableError(f"its imports have an unknown format ({kind})")
    layout, shift, weak = _IMPORTS[kind]
    end = imports + count * layout.size
    if end > len(content):
        raise UnreadableError("the list of imports is outside the table of fixups")
    for (value,) in layout.iter_unpack(content[imports:end]):
        yield _name_at(content, names + (value >> shift)), bool(value & weak)


def _bound(program: bytes) -> Iterator[tuple[bytes, bool]]:
    """The name of each symbol that a program binds, and whether it may be missing."""
    at = 0
    while at < len(program):
        step, low = program[at] & 0xF0, program[at] & 0x0F
        at += 1
        if step == _SET_SYMBOL:
            name = _name_at(program, at)
            at += len(name) + 1
            yield name, bool(low & _WEAK_IMPORT)
        elif step == _THREADED:
            at = at if low else _number(program, at)[1]
        else:
            for _ in range(_NUMBERS.get(step, 0)):
                at = _number(program, at)[1]


def _number(content: bytes, at: int) -> tuple[int, int]:
    """A number of variable length (LEB128), and where it ends."""
    value = shift = 0
    while at < len(content) and shift < 70:
        value |= (content[at] & 0x7F) << shift
        shift += 7
        at += 1
        if content[at - 1] < 0x80:
            return value, at
    raise UnreadableError("a number in the symbol tables does not end")


def _exports(trie: bytes, budget: Budget) -> Iterator[str]:
    """The names in a tree whose edges are parts of names."""
    waiting = [(0, b"")] if trie else []
    seen = {0}
    while waiting:
        at, name = waiting.pop()
        size, at = _number(trie, at)
        if size:
            yield _in_c(name)
        at += size
        if at >= len(trie):
            raise UnreadableError("the table of exports is truncated")
        children, at = trie[at], at + 1
        for _ in range(children):
            edge = _name_at(trie, at)
            target, at = _number(trie, at + len(edge) + 1)
            if target in seen:
                raise UnreadableError("the table of exports is not a tree")
            seen.add(target)
            budget.spend(len(name) + len(edge))
            waiting.append((target, name + edge))
