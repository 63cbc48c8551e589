"""Lock files: reading and writing a lock.

A lock is two files beside each other. `kernels.lock` has the commits, in the format of Hugging Face
`kernels`, which refuses anything else in it; so the digests are in `kernels.lock.digests.json`. An
older format of `kernels.lock`, with the digests inside, is read as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from kernels_core.errors import LockFileError, LockFileNotFoundError
from kernels_core.hub.versions import is_commit
from kernels_core.locks.lock import Lock, LockedKernel
from kernels_core.repository.atomic import replacing
from kernels_core.repository.metadata import (
    KernelDependency,
    read_kernel_dependency,
    read_repo_id,
)
from kernels_core.repository.schema import (
    InvalidError,
    Reader,
    fail,
    join,
    list_of,
    read_bytes,
    read_content,
    read_object,
    read_text,
    required,
)

# The hash of a build is over its files' LFS or Git hashes: computing it takes no download.
HASH_TYPE = "git_lfs_concat"
_FORMAT = 1
_HASH = re.compile(r"sha256-[0-9a-f]{64}")


def read_lock(path: Path) -> Lock:
    """Read a lock file of either format, and the digests beside it if there are any.

    Raises a LockFileNotFoundError when there is no such file, and a LockFileError when it or its
    digests are malformed, or when the two do not belong together.
    """
    content = _content(path)
    if content is None:
        raise LockFileNotFoundError(
            f"There is no lock file {path}; 'kernels-core lock' writes it.",
            repository=str(path),
            source=str(path),
        )
    return parse_lock(content, _content(digests_path(path)), path=path)


def digests_path(path: Path) -> Path:
    """The file with the digests of a lock file."""
    return path.with_name(f"{path.name}.digests.json")


def parse_lock(content: bytes, digests: bytes | None, *, path: Path) -> Lock:
    """Read the content of a lock file and of its digests; the path is for errors."""
    lock = Lock(_parsed(path, content, _kernels), source=str(path))
    if digests is None:
        return lock
    detailed = _parsed(digests_path(path), digests, _detailed_kernels)
    # Digests that are silently ignored would protect nobody.
    if {(k.dependency, k.commit) for k in detailed} != {
        (k.dependency, k.commit) for k in lock.kernels
    }:
        raise _error(
            digests_path(path),
            "kernels",
            f"lists other kernels or commits than {path.name}. Run 'kernels-core lock', which "
            f"writes both files.",
        )
    return attrs.evolve(lock, kernels=detailed)


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock in the current format, and its digests beside it.

    Each file is written whole or not at all. When only one is, reading them is an error.
    """
    for file, text in ((digests_path(path), digests_text(lock)), (path, lock_text(lock))):
        with replacing(file) as new:
            new.write_text(text, encoding="utf-8", newline="\n")


def lock_text(lock: Lock) -> str:
    """The content of the lock file, in the current format."""
    entries = [
        {"dependency": _dependency_json(kernel.dependency), "lock": {"commit": kernel.commit}}
        for kernel in lock.kernels
    ]
    return json.dumps(entries, indent=2) + "\n"


def digests_text(lock: Lock) -> str:
    """The content of the file with the digests."""
    kernels = [
        {
            "dependency": _dependency_json(kernel.dependency),
            "commit": kernel.commit,
            "direct": bool(kernel.direct),
            "depends": [_dependency_json(dependency) for dependency in kernel.depends],
            "variants": {
                name: {"hash": hash_, "hash_type": HASH_TYPE}
                for name, hash_ in sorted((kernel.variants or {}).items())
            },
        }
        for kernel in lock.kernels
    ]
    return json.dumps({"format": _FORMAT, "kernels": kernels}, indent=2) + "\n"


def _dependency_json(dependency: KernelDependency) -> dict[str, str | int]:
    if dependency.version is not None:
        return {"repo-id": dependency.repo_id, "version": dependency.version}
    return {"repo-id": dependency.repo_id, "revision": str(dependency.revision)}


# Reading


def _content(path: Path) -> bytes | None:
    try:
        return read_bytes(path)
    except FileNotFoundError:
        return None
    except InvalidError as error:
        raise _error(path, error.key, str(error)) from error


def _parsed(
    path: Path, content: bytes, read: Reader[tuple[LockedKernel, ...]]
) -> tuple[LockedKernel, ...]:
    try:
        kernels = read_content(content, lambda value: read(value, ""))
        _refuse_twice(kernels)
    except InvalidError as error:
        raise _error(path, error.key, str(error)) from None
    return kernels


def _error(path: Path, key: str, problem: str) -> LockFileError:
    return LockFileError(f"{path}: {problem}", repository=str(path), path=path, key=key)


def _refuse_twice(kernels: Iterable[LockedKernel]) -> None:
    seen = set()
    for kernel in kernels:
        if kernel.dependency in seen:
            raise InvalidError("", f"{kernel.dependency} is listed twice.")
        seen.add(kernel.dependency)


def _kernels(value: Any, key: str) -> tuple[LockedKernel, ...]:
    if not isinstance(value, list):
        raise InvalidError(key, f"must contain a JSON list, got {type(value).__name__}.")
    old = any(isinstance(item, dict) and "repo_id" in item for item in value)
    return list_of(_old_kernel if old else _kernel)(value, key)


def _kernel(value: Any, key: str) -> LockedKernel:
    mapping = _object_of(value, key, {"dependency", "lock"})
    return LockedKernel(
        dependency=required(mapping, "dependency", _dependency, key),
        commit=required(mapping, "lock", _lock, key),
    )


def _lock(value: Any, key: str) -> str:
    return required(_object_of(value, key, {"commit"}), "commit", _commit, key)


def _dependency(value: Any, key: str) -> KernelDependency:
    return read_kernel_dependency(_object_of(value, key, {"repo-id", "version", "revision"}), key)


def _detailed_kernels(value: Any, key: str) -> tuple[LockedKernel, ...]:
    mapping = _object_of(value, key, {"format", "kernels"})
    required(mapping, "format", _format, key)
    return required(mapping, "kernels", list_of(_detailed_kernel), key)


def _format(value: Any, key: str) -> None:
    if value != _FORMAT:
        fail(key, value, f"{_FORMAT}, the only format that this version of kernels-core reads")


def _detailed_kernel(value: Any, key: str) -> LockedKernel:
    mapping = _object_of(value, key, {"dependency", "commit", "direct", "depends", "variants"})
    return LockedKernel(
        dependency=required(mapping, "dependency", _dependency, key),
        commit=required(mapping, "commit", _commit, key),
        variants=required(mapping, "variants", _variants, key),
        direct=required(mapping, "direct", _flag, key),
        depends=required(mapping, "depends", list_of(_dependency), key),
    )


def _old_kernel(value: Any, key: str) -> LockedKernel:
    mapping = _object_of(value, key, {"repo_id", "sha", "variants"})
    commit = required(mapping, "sha", _commit, key)
    return LockedKernel(
        dependency=KernelDependency(required(mapping, "repo_id", read_repo_id, key), None, commit),
        commit=commit,
        variants=required(mapping, "variants", _variants, key),
    )


def _variants(value: Any, key: str) -> dict[str, str]:
    return {name: _hash(item, join(key, name)) for name, item in read_object(value, key).items()}


def _hash(value: Any, key: str) -> str:
    mapping = _object_of(value, key, {"hash", "hash_type"})
    kind = required(mapping, "hash_type", read_text, key)
    if kind != HASH_TYPE:
        fail(join(key, "hash_type"), kind, repr(HASH_TYPE))
    text = required(mapping, "hash", read_text, key)
    if not _HASH.fullmatch(text):
        fail(join(key, "hash"), text, "'sha256-' and 64 hexadecimal digits")
    return text


def _object_of(value: Any, key: str, known: set[str]) -> dict[str, Any]:
    mapping = read_object(value, key)
    for name in mapping:
        if name not in known:
            raise InvalidError(
                join(key, name),
                f"unknown key {join(key, name)!r}; the known keys are {', '.join(sorted(known))}.",
            )
    return mapping


def _commit(value: Any, key: str) -> str:
    if not isinstance(value, str) or not is_commit(value):
        fail(key, value, "a commit, 40 hexadecimal digits")
    return value.lower()


def _flag(value: Any, key: str) -> bool:
    if not isinstance(value, bool):
        fail(key, value, "true or false")
    return value
