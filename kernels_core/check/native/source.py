"""A file that is read in pieces: never whole, and never beyond its end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

# The largest table of symbols or names that is read. Those of torch's largest library have 30 MB.
MAX_PIECE = 64 * 2**20


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
