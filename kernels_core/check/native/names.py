"""The names of symbols in formats that do not limit them: a budget for one file."""

from __future__ import annotations

from kernels_core.check.native.source import UnreadableError

# torch's largest library has 200,000 symbols whose names have 20 MB.
MAX_SYMBOLS = 1_000_000
MAX_NAMES = 64 * 2**20


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
