"""Reading untrusted files in pieces, with limits, and the names in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# The largest table of symbols or names that is read. Those of torch's largest library have 30 MB.
MAX_PIECE = 64 * 2**20

# torch's largest library has 200,000 symbols whose names have 20 MB.
MAX_SYMBOLS = 1_000_000
MAX_NAMES = 64 * 2**20


class UnreadableError(Exception):
    """A file of native code is malformed; the message says how."""


class Source:
    """A file of untrusted bytes. Parsers that need a stream take `stream`."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Read a part, called `what` in errors.

        Raises `UnreadableError` where it is outside the file, or larger than `MAX_PIECE`.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise UnreadableError(
                f"{what} should be {size} bytes at byte {offset}, but the file has {self.size} "
                f"bytes"
            )
        if size > MAX_PIECE:
            raise UnreadableError(f"{what} has {size} bytes, more than the limit of {MAX_PIECE}")
        self.stream.seek(offset)
        content = self.stream.read(size)
        if len(content) != size:
            raise UnreadableError(f"{what} is truncated: the file changed while it was read")
        return content


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Source]:
    """Open a file to read pieces of it. Raises `UnreadableError` where that fails."""
    try:
        with file.open("rb") as stream:
            yield Source(stream)
    except OSError as error:
        raise UnreadableError(f"it cannot be read: {error.strerror or error}") from error


class Budget:
    """How many symbols, and how many bytes of names, may still be read of a file."""

    def __init__(self) -> None:
        self._symbols = MAX_SYMBOLS
        self._names = MAX_NAMES

    def spend(self, size: int) -> None:
        """Count a symbol with a name of that many bytes. Raises `UnreadableError` at the limit."""
        self._symbols -= 1
        self._names -= size
        if self._symbols < 0 or self._names < 0:
            raise UnreadableError(
                f"it has more than {MAX_SYMBOLS} symbols or {MAX_NAMES} bytes of names"
            )


def decoded(name: bytes) -> str:
    """The text of a name; bytes that are not UTF-8 are written as escapes."""
    return name.decode("utf-8", "backslashreplace")
