"""Paths in a repository, which are untrusted input: which of them may be used at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

_MAX_LENGTH = 1024
_MAX_DEPTH = 32


def is_safe(path: str) -> bool:
    """Whether a path stays inside the directory that it is relative to, on every system.

    Not safe are absolute paths, empty parts, parts of dots only, backslashes, colons (drives and
    streams of Windows), characters that cannot be printed, and paths far longer or deeper than any
    kernel's.
    """
    if len(path) > _MAX_LENGTH or "\\" in path or ":" in path or not path.isprintable():
        return False
    parts = path.split("/")
    # Windows ignores dots and spaces at the end of a name, so ".. " would be "..".
    return len(parts) <= _MAX_DEPTH and all(part.strip(". ") for part in parts)


def first_collision(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that are one path on some file system, or of which one is inside the other.

    File systems differ in whether they tell apart upper and lower case and the forms of Unicode.
    Where they do not, one of two such files silently overwrites the other. None when no paths
    collide.
    """
    return next(collisions(paths), None)


def collisions(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every path that collides with one before it, as a pair with that one."""
    seen: dict[str, tuple[str, bool, str]] = {}
    for path in paths:
        parts = path.split("/")
        for count in range(len(parts), 0, -1):
            is_file = count == len(parts)
            name = "/".join(parts[:count])
            here = (name, is_file, path)
            before = seen.setdefault(_folded(name), here)
            if before is not here:
                if before[:2] != here[:2] or is_file:
                    yield before[2], path
                break  # a directory that is known, and so are those around it


def _folded(path: str) -> str:
    if path.isascii():  # by far the most
        return "/".join(part.rstrip(". ") for part in path.lower().split("/"))
    path = unicodedata.normalize("NFKC", path.casefold())
    return "/".join(part.rstrip(". ") for part in path.split("/"))
