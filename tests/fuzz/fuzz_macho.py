"""Fuzz the reader of libraries for macOS."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import fuzz

sys.path.insert(0, str(Path(__file__).parents[1]))
from check import native_files as files


def seeds() -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as directory:
        yield files.Zig(Path(directory)).macos(files.MODULE, "-s", cpu="x86_64").read_bytes()
    commands = [files.for_release(15), files.command(files.RPATH, text="@loader_path")]
    for kind in (1, 2, 3):
        tables = {
            files.CHAINED_FIXUPS: files.chained_fixups(["_PyModule_Create2", "_puts"], kind),
            files.EXPORTS_TRIE: files.exports_trie("_PyInit_activation"),
        }
        library = files.macho(commands, tables)
        yield library
        yield files.universal({files.X86_64: library, files.ARM64: library}, wide=kind == 2)


fuzz("torch213-cpu-aarch64-darwin", "activation.abi3.so", seeds())
