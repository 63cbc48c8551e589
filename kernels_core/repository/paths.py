"""Paths of files inside a repository, as others write them: which of them may be used at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

_MAX_LENGTH = 1024
_MAX_DEPTH = 32


def is_safe(path: str) -> bool:
    r"""Whether a path stays inside the directory that it is relative to, on every system.

    Refused are absolute paths, empty parts, parts of dots only, backslashes, colons (drives and
    streams of Windows), characters that cannot be printed, and paths far longer or deeper than any
    kernel's.

    Args:
        path: a path with `/` between its parts.

    Example:
        >>> is_safe("build/torch-cpu/__init__.py")
        True
        >>> [is_safe(path) for path in ("../a.py", "/a.py", "C:/a.py", "b\\a.py", "a//b", "")]
        [False, False, False, False, False, False]
    """
    if len(path) > _MAX_LENGTH or "\\" in path or ":" in path or not path.isprintable():
        return False
    parts = path.split("/")
    # Windows ignores dots and spaces at the end of a name, so ".. " would be "..".
    return len(parts) <= _MAX_DEPTH and all(part.strip(". ") for part in parts)


def first_collision(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that some file system takes for one, or of which one is inside the other.

    File systems differ in whether they tell apart upper and lower case and the forms of Unicode.
    Where they do not, one of two such files overwrites the other, unseen.

    Args:
        paths: safe paths, all relative to the same directory.

    Returns:
        The first two that collide, or None.

    Example:
        >>> first_collision(["layers.py", "Layers.py"])
        ('layers.py', 'Layers.py')
        >>> first_collision(["ops", "ops/a.py"])
        ('ops', 'ops/a.py')
        >>> first_collision(["a.py", "ops/a.py", "ops/b.py"]) is None
        True
    """
    return next(collisions(paths), None)


def collisions(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every path that collides with one before it, as a pair with that one.

    Args:
        paths: as for `first_collision`.

    Example:
        >>> list(collisions(["layers.py", "Layers.py", "LAYERS.py"]))
        [('layers.py', 'Layers.py'), ('layers.py', 'LAYERS.py')]
    """
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
