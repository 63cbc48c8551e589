"""Strict reading of `metadata.json`, which describes one build of a kernel.

Every key is optional, because builds of different ages carry different ones; a key that exists
must be valid. Unknown keys are allowed.
"""

from __future__ import annotations

import base64
import binascii
import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from kernels_core.errors import MetadataError
from kernels_core.repository.names import REPO_ID
from kernels_core.repository.paths import is_safe
from kernels_core.repository.schema import (
    InvalidError,
    fail,
    join,
    list_of,
    optional,
    read_content,
    read_file,
    read_object,
    read_text,
    required,
)

_DIGEST_SIZES = {"sha256": 32, "sha512": 64}
_NAME = re.compile(r"[a-z][-a-z0-9]*[a-z0-9]")
_MINIMUM_VERSION = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")


@attrs.frozen
class KernelDependency:
    """Another kernel that a kernel needs; exactly one of version and revision is given.

    Attributes:
        repo_id: the repository, "org/name".
        version: its major version.
        revision: branch, tag or commit.
    """

    repo_id: str
    version: int | None = None
    revision: str | None = None

    def __str__(self) -> str:
        at = f"version {self.version}" if self.revision is None else f"at {self.revision}"
        return f"{self.repo_id} ({at})"


@attrs.frozen
class BackendMetadata:
    """The backend that a build was made for.

    Attributes:
        type: name of the backend.
        archs: the architectures that native code was compiled for; empty when not given.
    """

    type: str
    archs: tuple[str, ...] = ()


@attrs.frozen
class Digest:
    """The hashes of a build's files.

    Attributes:
        algorithm: "sha256" or "sha512".
        files: pairs of path, relative to the variant directory, and raw hash.
    """

    algorithm: str
    files: tuple[tuple[str, bytes], ...]


@attrs.frozen
class Metadata:
    """A valid `metadata.json`; None and empty stand for keys that it lacks.

    Attributes:
        name: name of the kernel.
        id: namespace of its functions in `torch.ops`.
        version: major version.
        license: license of the kernel.
        python_depends: Python packages that it needs, as requirement specifiers.
        kernel_depends: other kernels that it needs.
        backend: the backend that the build was made for.
        upstream: repositories that the kernel was taken from.
        source: repository that it was built from.
        digest: the hashes of the build's files.
        kernels_minver: the oldest version of Hugging Face `kernels` that can load it. Ignored,
            since this package does not follow those versions.
        dirty: the keys below `provenance` that say that sources had uncommitted changes.
    """

    name: str | None = None
    id: str | None = None
    version: int | None = None
    license: str | None = None
    python_depends: tuple[str, ...] = ()
    kernel_depends: tuple[KernelDependency, ...] = ()
    backend: BackendMetadata | None = None
    upstream: tuple[str, ...] = ()
    source: str | None = None
    digest: Digest | None = None
    kernels_minver: tuple[int, int, int] | None = None
    dirty: tuple[str, ...] = ()


def read_metadata(path: Path, *, repository: str | None = None) -> Metadata | None:
    """Read a `metadata.json`; None when it does not exist, a MetadataError when it is malformed."""
    try:
        return read_file(path, _metadata)
    except FileNotFoundError:
        return None
    except InvalidError as error:
        raise MetadataError(
            f"{path}: {error}",
            repository=repository or str(path.parent),
            path=path,
            key=error.key,
        ) from None


def parse_metadata(content: bytes) -> Metadata:
    """Read the content of a `metadata.json`; raises as `read_metadata` does."""
    try:
        return read_content(content, _metadata)
    except InvalidError as error:
        path = Path("metadata.json")
        raise MetadataError(f"{path}: {error}", repository="", path=path, key=error.key) from None


# The schema. Each function reads one value and names its key when the value is wrong.


def _metadata(value: Any) -> Metadata:
    if not isinstance(value, dict):
        raise InvalidError("", f"must contain a JSON object, got {type(value).__name__}.")
    provenance = optional(value, "provenance", read_object, nullable=True) or {}
    return Metadata(
        name=optional(value, "name", _kernel_name),
        id=optional(value, "id", _identifier),
        version=optional(value, "version", read_version),
        license=optional(value, "license", read_text),
        python_depends=optional(value, "python-depends", list_of(_requirement)) or (),
        kernel_depends=optional(value, "kernel-depends", list_of(read_kernel_dependency)) or (),
        backend=optional(value, "backend", _backend),
        upstream=optional(value, "upstream", _one_or_more_texts, nullable=True) or (),
        source=optional(value, "source", read_text, nullable=True),
        digest=optional(value, "digest", _digest, nullable=True),
        kernels_minver=optional(value, "kernels-minver", _minimum_version, nullable=True),
        dirty=tuple(_dirty(provenance, "provenance")),
    )


def _one_or_more_texts(value: Any, key: str) -> tuple[str, ...]:
    return list_of(read_text)(value, key) if isinstance(value, list) else (read_text(value, key),)


def _kernel_name(value: Any, key: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        fail(
            key,
            value,
            "at least two lower-case letters, digits or dashes, the first a letter and the last "
            "no dash",
        )
    return value


def _identifier(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        fail(key, value, "a Python identifier")
    return value


def read_version(value: Any, key: str) -> int:
    """Read a major version."""
    if type(value) is not int or value < 0:
        fail(key, value, "an integer, 0 or greater")
    return value


def _minimum_version(value: Any, key: str) -> tuple[int, int, int]:
    match = _MINIMUM_VERSION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        fail(key, value, "a version with three numbers such as '0.12.0'")
    return int(match[1]), int(match[2]), int(match[3])


def _requirement(value: Any, key: str) -> str:
    # Takes 5 ms, and most kernels need no packages.
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        requirement = Requirement(read_text(value, key))
    except InvalidRequirement:
        requirement = None
    # An error suggests installing it by this text, which must not be an address.
    if requirement is None or requirement.url or requirement.extras or requirement.marker:
        fail(key, value, "the name of a Python package, at most with a range of versions")
    return str(requirement)


def read_kernel_dependency(value: Any, key: str) -> KernelDependency:
    """Read the name of a kernel and its version or revision."""
    mapping = read_object(value, key)
    repo_id = required(mapping, "repo-id", read_repo_id, key)
    version = optional(mapping, "version", read_version, key)
    revision = optional(mapping, "revision", read_text, key)
    if (version is None) == (revision is None):
        fail(key, value, "an object with either 'version' or 'revision'")
    return KernelDependency(repo_id, version, revision)


def read_repo_id(value: Any, key: str) -> str:
    """Read the name of a repository on the Hub."""
    if not isinstance(value, str) or not REPO_ID.fullmatch(value):
        fail(key, value, "the name of a repository, such as 'org/name'")
    return value


def _backend(value: Any, key: str) -> BackendMetadata:
    mapping = read_object(value, key)
    return BackendMetadata(
        type=required(mapping, "type", read_text, key),
        archs=optional(mapping, "archs", list_of(read_text), key, nullable=True) or (),
    )


def _dirty(value: Any, key: str) -> Iterator[str]:
    # Builders differ in which sources they list, so the key counts wherever it is.
    if isinstance(value, dict):
        for name, item in value.items():
            if name == "dirty" and item:
                yield join(key, name)
            else:
                yield from _dirty(item, join(key, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _dirty(item, f"{key}[{index}]")


def _digest(value: Any, key: str) -> Digest:
    mapping = read_object(value, key)
    algorithm = required(mapping, "algorithm", read_text, key)
    if algorithm not in _DIGEST_SIZES:
        fail(join(key, "algorithm"), algorithm, " or ".join(map(repr, _DIGEST_SIZES)))
    size = _DIGEST_SIZES[algorithm]
    files_key = join(key, "files")
    files = []
    for path, text in required(mapping, "files", read_object, key).items():
        if not is_safe(path):
            fail(join(files_key, path), path, "the path of a file inside the variant, with '/'")
        files.append((path, _hash(text, join(files_key, path), size)))
    return Digest(algorithm, tuple(files))


def _hash(value: Any, key: str, size: int) -> bytes:
    try:
        raw = base64.b64decode(read_text(value, key), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size:
        fail(key, value, f"{size} bytes in base64")
    return raw
