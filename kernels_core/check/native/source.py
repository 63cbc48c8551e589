"""Reading untrusted files in pieces: never whole, never beyond the end, never too many names."""

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
    """A file of native code breaks its format; the text says how."""


class Source:
    """A file of untrusted bytes.

    Attributes:
        stream: the open file, for parsers that take one.
        size: its size in bytes.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = stream.seek(0, os.SEEK_END)
        stream.seek(0)

    def read(self, offset: int, size: int, what: str) -> bytes:
        """Read a part that the file says is there.

        Args:
            offset: where it begins.
            size: how many bytes it has.
            what: what to call it in errors.

        Raises:
            UnreadableError: it does not lie within the file, or is larger than `MAX_PIECE`.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise UnreadableError(
                f"{what} should lie at byte {offset} and have {size} bytes, but the file has "
                f"{self.size} bytes"
            )
        if size > MAX_PIECE:
            raise UnreadableError(f"{what} has {size} bytes, and at most {MAX_PIECE} are looked at")
        self.stream.seek(offset)
        content = self.stream.read(size)
        if len(content) != size:
            raise UnreadableError(f"{what} ends early: the file changed while it was read")
        return content


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Source]:
    """Open a file to read pieces of it.

    Args:
        file: where it lies.

    Raises:
        UnreadableError: it cannot be opened or read.
    """
    try:
        with file.open("rb") as stream:
            yield Source(stream)
    except OSError as error:
        raise UnreadableError(f"it cannot be read: {error.strerror or error}") from error


class Budget:
    """How many symbols, and how many bytes of names, may yet be read of a file."""

    def __init__(self) -> None:
        self._symbols = MAX_SYMBOLS
        self._names = MAX_NAMES

    def spend(self, size: int) -> None:
        """Take one symbol off.

        Args:
            size: the bytes of its name.

        Raises:
            UnreadableError: there are too many of them.
        """
        self._symbols -= 1
        self._names -= size
        if self._symbols < 0 or self._names < 0:
            raise UnreadableError(
                f"it has more than {MAX_SYMBOLS} symbols or {MAX_NAMES} bytes of their names"
            )


def decoded(name: bytes) -> str:
    r"""The text of a name; what is not UTF-8 in it is written as an escape.

    Example:
        >>> decoded("é".encode()), decoded("é".encode("latin-1"))
        ('é', '\\xe9')
    """
    return name.decode("utf-8", "backslashreplace")
