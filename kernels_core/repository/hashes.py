"""Hashes: of a file, as Git and large-file storage make them, and of a build with all its files."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from kernels_core.repository.paths import is_safe

_SIZES = {"git-sha1": 40, "sha256": 64, "sha512": 128}
_CHUNK = 1024 * 1024


def _check_algorithm(_: object, __: object, value: str) -> None:
    if value not in _SIZES:
        raise ValueError(f"algorithm must be one of {', '.join(_SIZES)}, got {value!r}.")


def _check_value(instance: FileHash, _: object, value: str) -> None:
    size = _SIZES[instance.algorithm]
    if len(value) != size or not all(digit in "0123456789abcdef" for digit in value):
        raise ValueError(
            f"{instance.algorithm} must be {size} lower-case hexadecimal digits, got {value!r}."
        )


@attrs.frozen
class FileHash:
    """The hash of a file's content.

    Attributes:
        algorithm: "git-sha1" (the object id of a Git blob), "sha256" or "sha512".
        value: the hash in lower-case hexadecimal digits.

    Raises:
        ValueError: the algorithm is unknown, or the value is not of its size.

    Example:
        >>> str(FileHash("git-sha1", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"))
        'git-sha1 e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """

    algorithm: str = attrs.field(validator=_check_algorithm)
    value: str = attrs.field(validator=_check_value)

    def __str__(self) -> str:
        return f"{self.algorithm} {self.value}"


def hash_file(path: Path, algorithm: str) -> str:
    """Hash a file's content, in pieces, so that its size does not matter.

    Args:
        path: the file; a symbolic link is followed.
        algorithm: one of those of `FileHash`.

    Raises:
        OSError: the file cannot be read, or is not a regular file.
        ValueError: the algorithm is unknown.
    """
    return hash_file_as(path, [algorithm])[algorithm]


def hash_file_as(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Hash a file's content by several algorithms in one pass; see `hash_file`."""
    with open(path, "rb", buffering=0, opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        hashes = {algorithm: _new_hash(algorithm, status.st_size) for algorithm in algorithms}
        while chunk := file.read(_CHUNK):
            for running in hashes.values():
                running.update(chunk)
    return {algorithm: running.hexdigest() for algorithm, running in hashes.items()}


def _open_at_once(path: str, flags: int) -> int:
    # Without the flag, opening a named pipe waits for a writer.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _new_hash(algorithm: str, size: int) -> hashlib._Hash:
    if algorithm == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if algorithm not in _SIZES:
        raise ValueError(f"algorithm must be one of {', '.join(_SIZES)}, got {algorithm!r}.")
    return hashlib.new(algorithm)


def tree_digest(files: Mapping[str, FileHash]) -> str:
    """The digest of all files of a build, to put on a trust list.

    It is the SHA-256 of a plain listing: for each file, in byte order of the paths, a line with the
    algorithm, its hash and the path, separated by single spaces.

    Args:
        files: the hash of each file by its path relative to the variant directory.

    Raises:
        ValueError: a path is not safe to use.

    Example:
        >>> empty = FileHash("git-sha1", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391")
        >>> tree_digest({"__init__.py": empty})
        'sha256:...'
    """
    digest = hashlib.sha256()
    for path, file_hash in _in_byte_order(files):
        # Unambiguous: a safe path has no line break.
        digest.update(b"%s %s\n" % (str(file_hash).encode(), path))
    return f"sha256:{digest.hexdigest()}"


def variant_hash(files: Mapping[str, FileHash]) -> str:
    """The hash of a build in lock files of the older format, type `git_lfs_concat`.

    It is the SHA-256 over the path and the raw hash of each file, in byte order of the paths: the
    SHA-256 of a file in LFS, the Git SHA-1 of any other.
    """
    digest = hashlib.sha256()
    for path, file_hash in _in_byte_order(files):
        digest.update(path + bytes.fromhex(file_hash.value))
    return f"sha256-{digest.hexdigest()}"


def _in_byte_order(files: Mapping[str, FileHash]) -> list[tuple[bytes, FileHash]]:
    for path in files:
        if not is_safe(path):
            raise ValueError(f"{path!r} is not the path of a file inside a build.")
    return sorted((path.encode(), file_hash) for path, file_hash in files.items())
